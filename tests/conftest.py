"""Makes the helpers beside this file importable, and keeps the caller's environment out."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("FPAREC_DATA", "FPAREC_MIRROR", "MLFLOW_TRACKING_URI", "DAGSTER_HOME"):
            environment.delenv(name, raising=False)
        yield
