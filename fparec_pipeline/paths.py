"""Where everything lies on disk: one place that knows the folder names below the data root.

The data root is `$FPAREC_DATA`, else the `data/` folder beside `workspace.yaml`, else `./data`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
PUBLISHED = CHECKOUT / "data" / "published"  # results that come with the checkout


@dataclass(frozen=True)
class DataRoot:
    """The folder that holds all that the pipeline downloads and writes."""

    root: Path

    @classmethod
    def default(cls) -> "DataRoot":
        """The data root that the environment names, else the checkout's `data/`."""
        if configured := os.environ.get("FPAREC_DATA"):
            return cls(Path(configured).expanduser().resolve())
        base = CHECKOUT if (CHECKOUT / "workspace.yaml").exists() else Path.cwd()
        return cls(base / "data")

    @property
    def dagster_home(self) -> Path:
        return self.root / "dagster"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def raw(self, dataset: str) -> Path:
        return self.root / "raw" / dataset

    def splits(self, dataset: str) -> Path:
        return self.root / "splits" / dataset

    def trial(self, dataset: str, arm: str, seed: int) -> Path:
        return self.trials / dataset / arm / f"seed={seed}"

    def champions(self, dataset: str) -> Path:
        return self.root / "champions" / dataset

    def recommendations(self, dataset: str) -> Path:
        return self.root / "recommendations" / f"{dataset}.parquet"
