"""The data root's `dagster.yaml`: today's, unless somebody has edited it."""

import pytest

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running import home
from fparec_pipeline.running.home import prepare_dagster_home


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose `dagster.yaml` can be changed."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setattr(home, "PACKAGE", folder)
    return folder / "dagster.yaml"


@pytest.fixture
def data(tmp_path):
    return DataRoot(tmp_path / "data")


def settings(data):
    return (prepare_dagster_home(data) / "dagster.yaml").read_text()


def test_a_change_of_the_packaged_file_reaches_a_home_that_is_there(package, data):
    assert settings(data) == package.read_text()
    package.write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    assert settings(data) == package.read_text()


def test_an_edited_file_stays_and_a_change_is_said_once(package, data, caplog):
    settings(data)
    own = "telemetry: {enabled: true}\n"
    (data.dagster_home / "dagster.yaml").write_text(own)
    assert settings(data) == own and not caplog.records
    package.write_text("nux: {enabled: false}\n")
    assert settings(data) == own
    assert settings(data) == own
    (record,) = caplog.records
    assert str(data.dagster_home / "dagster.yaml") in record.getMessage()
    package.write_text("nux: {enabled: true}\n")
    assert settings(data) == own


def test_the_file_of_before_checksums_were_noted_is_replaced(package, data, monkeypatch):
    settings(data)
    (data.dagster_home / home.WRITTEN).unlink()
    monkeypatch.setattr(home, "EARLIER", home.digest(package))
    package.write_text("nux: {enabled: false}\n")
    assert settings(data) == package.read_text()
