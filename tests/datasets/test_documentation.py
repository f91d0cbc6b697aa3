"""docs/datasets.md has every key of every reader, and its examples can be loaded."""

import re
from pathlib import Path

import pytest

from fparec_pipeline.config import NULL_WORDS, SOURCE_KINDS, load_config
from fparec_pipeline.paths import DataRoot

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("reader", SOURCE_KINDS)
def test_every_key_and_reader_is_in_a_table(reader):
    rows = "".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for key in SOURCE_KINDS[reader].model_fields:
        assert f"`{key}`" in rows
    assert f"`{reader}`" in rows


def test_the_words_for_nothing_are_those_that_are_used():
    [row] = [line for line in PAGE.splitlines() if line.startswith("| `null_values`")]
    assert re.findall(r"`([^`]+)`", row.split("|")[2]) == list(NULL_WORDS)


def test_the_examples_load(tmp_path):
    (tmp_path / "datasets.toml").write_text("\n".join(EXAMPLES), encoding="utf-8")
    assert len(EXAMPLES) > 6
    names = set(re.findall(r"^\[([\w-]+)\]", "\n".join(EXAMPLES), re.MULTILINE))
    assert names <= load_config(DataRoot(tmp_path)).datasets.keys()
