import pytest

from fparec_pipeline.paths import DataRoot


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data root, with no mirror in the environment."""
    monkeypatch.delenv("FPAREC_MIRROR", raising=False)
    return DataRoot(tmp_path / "data")
