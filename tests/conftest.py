"""Makes the helpers beside this file importable, and keeps the caller's environment out."""

import sys
from collections.abc import Callable, Iterator

import hypothesis
import pytest
from reliability import Collector

from fparec_pipeline.tracking import PAGE

# The same examples in every run, however slow the machine; a failing one is printed to be kept.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", action="store_true", help="write docs/reliability.md")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if marker := item.get_closest_marker("fault"):
        item.user_properties.append(("fault", marker.args[0]))


@pytest.fixture
def harm(record_property: Callable[[str, object], None]) -> Iterator[Callable[..., None]]:
    """To be called for each injected fault; a marked test that does not use it injects one."""
    done: list[int] = []
    yield lambda times=1: done.append(times)
    record_property("harms", sum(done))


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("FPAREC_DATA", "FPAREC_MIRROR", PAGE, "MLFLOW_TRACKING_URI", "DAGSTER_HOME"):
            environment.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_instance_of_another_module() -> Iterator[None]:
    """Dagster remembers an instance of which only a weak reference is left when two overlapped."""
    if "dagster" not in sys.modules:
        yield
        return
    from dagster._core.storage.defs_state.base import set_defs_state_storage

    with set_defs_state_storage(None):
        yield
