"""Where everything lies on disk: one place that knows the folder names below the data root.

The data root is `$FPAREC_DATA`, else the `data/` folder beside `workspace.yaml`, else `./data`.
What belongs here too: whether a folder that the environment names can be used at all.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
PUBLISHED = CHECKOUT / "data" / "published"  # results that come with the checkout


# In an address of a database % and ? mean something else, in a path that Polars scans the others.
UNUSABLE = "%?*[]"


class UnusableFolder(OSError):
    """A folder that the environment names and that cannot be used; the message says why."""


@dataclass(frozen=True)
class DataRoot:
    """The folder that holds all that the pipeline downloads and writes."""

    root: Path

    @classmethod
    def default(cls) -> "DataRoot":
        """The data root: `$FPAREC_DATA`, else `data/` in a checkout, else `./data`.

        Raises:
            UnusableFolder: a character in its path has a special meaning to databases or Polars.
        """
        base = CHECKOUT if (CHECKOUT / "workspace.yaml").exists() else Path.cwd()
        root = base / "data"
        if configured := os.environ.get("FPAREC_DATA"):
            root = _expanded(configured, "FPAREC_DATA")
        if found := [character for character in UNUSABLE if character in str(root)]:
            raise UnusableFolder(
                f"The data root {root} has {' and '.join(found)} in its path, which cannot be used "
                "there. Rename the folder, or set FPAREC_DATA to another."
            )
        return cls(root)

    def writable(self) -> "DataRoot":
        """This data root, once it has been seen that files can be written there.

        Raises:
            UnusableFolder: they cannot.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                return self
        except OSError as error:
            raise UnusableFolder(
                f"The data root {self.root} cannot be written: {error.strerror or error}. Commands "
                "that only show results work; for others set FPAREC_DATA to a folder of yours."
            ) from error

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


def dagster_home() -> Path | None:
    """The folder that DAGSTER_HOME names, absolute, as Dagster wants it; None where it is not set.

    Raises:
        UnusableFolder: there is no such folder.
    """
    configured = os.environ.get("DAGSTER_HOME")
    if not configured:
        return None
    home = _expanded(configured, "DAGSTER_HOME")
    if not home.is_dir():
        raise UnusableFolder(
            f"DAGSTER_HOME names {home}, which is no folder. Make it, or unset DAGSTER_HOME: then "
            "the data root's own is used."
        )
    os.environ["DAGSTER_HOME"] = str(home)  # Dagster reads it itself in the processes it starts
    return home


def _expanded(path: str, variable: str) -> Path:
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:  # no such user, or none has a home
        raise UnusableFolder(f"{variable} = {path!r}: {error}") from error
