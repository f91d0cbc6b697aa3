"""What assets are given: the data root, the device, and who is told of a trial's progress."""

from pathlib import Path
from typing import Protocol

import dagster as dg

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.training.record import Progress


class Workspace(dg.ConfigurableResource):
    """The data root and the device that trials run on."""

    data_root: str = ""  # empty: $FPAREC_DATA, else the checkout's data/
    device: str = "auto"

    @property
    def data(self) -> DataRoot:
        return DataRoot(Path(self.data_root)) if self.data_root else DataRoot.default()


class ProgressListener(Protocol):
    """Told of every epoch of every trial."""

    def __call__(self, progress: Progress) -> None: ...


class LogListener:
    """Writes a line of Dagster's log for every epoch."""

    def __call__(self, progress: Progress) -> None:
        dg.get_dagster_logger().info(
            f"epoch {progress.epoch} of at most {progress.max_epochs}: validation NDCG@10 "
            f"{progress.valid_ndcg_at_10:.4f} (best epoch {progress.best_epoch}), "
            f"{progress.targets_per_second:,.0f} targets/s"
        )
