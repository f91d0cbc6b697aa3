"""An arm whose loss becomes NaN, among others."""

import os
import subprocess
import sys

import pytest
from data_roots import tiny_root
from servers import MAIN

from fparec_pipeline.training.record import read_record

ARM = """
[broken]
title = "Diverges"
mixer = "factorized_positional"
learning_rate = 1e30
"""


@pytest.mark.slow_fault
@pytest.mark.fault("diverged")
def test_a_diverging_trial_is_one_line_and_the_others_go_on(tmp_path, harm):
    data = tiny_root(tmp_path)
    (data.root / "models.toml").write_text(ARM)
    options = ("--datasets", "tiny", "--models", "broken,fparec", "--seeds", "0,1", "--jobs", "2")
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "run", *options],
        env=os.environ | {"FPAREC_DATA": str(data.root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    for seed in (0, 1):
        harm()
        assert f"failed tiny/broken/seed={seed}: " in result.stdout
        assert f"tiny/broken/seed={seed}, epoch 1: the loss is nan" in result.stdout
        assert read_record(data.trial("tiny", "broken", seed)) is None
        assert read_record(data.trial("tiny", "fparec", seed)).epochs == 3
