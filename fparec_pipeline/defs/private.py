"""What this project uses of Dagster that is not its public API, in one place.

What belongs here: names from `dagster._…` and nothing else. A new minor version of Dagster may move
them, so pyproject.toml has an upper bound; raise it when the tests pass.
"""

from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition as AssetJob,  # what `define_asset_job` returns
)
from dagster._core.instance.ref import InstanceRef  # an instance with its settings changed
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager

__all__ = ["AssetJob", "InstanceRef", "NoOpComputeLogManager"]
