import pytest

from fparec_pipeline.config import load_config
from fparec_pipeline.paths import DataRoot


@pytest.fixture
def data(tmp_path):
    return DataRoot(tmp_path)


@pytest.fixture
def config(data):
    return load_config(data)
