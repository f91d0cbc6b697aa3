"""What assets are given: the data root and the device.

Here belongs what a run can be configured with for all its assets.
"""

from pathlib import Path

import dagster as dg

from fparec_pipeline.paths import DataRoot


class Workspace(dg.ConfigurableResource):
    """The data root and the device that trials run on."""

    data_root: str = ""  # empty: $FPAREC_DATA, else the checkout's data/
    device: str = "auto"

    @property
    def data(self) -> DataRoot:
        return DataRoot(Path(self.data_root)) if self.data_root else DataRoot.default()
