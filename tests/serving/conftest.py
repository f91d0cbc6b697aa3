"""A data root with finished trials of `tiny`, trained once for all tests of the champion."""

import shutil

import pytest
from data_roots import tiny_root
from roots import SEEDS, trained_root

from fparec_pipeline.config import load_config
from fparec_pipeline.paths import DataRoot


@pytest.fixture(scope="session")
def _trained(tmp_path_factory):
    data = tiny_root(tmp_path_factory.mktemp("trained"))
    trained_root(data, ["fparec", "average"], SEEDS)
    return data


@pytest.fixture
def data(_trained, tmp_path):
    """A copy of it, to be changed at will."""
    shutil.copytree(_trained.root, tmp_path / "root")
    return DataRoot(tmp_path / "root")


@pytest.fixture
def config(data):
    return load_config(data)
