"""The `fparec` command: a thin skin over the same assets that `dagster dev` shows.

One module a family of commands; each registers its commands on `app`. A new family is a module
here and its name in FAMILIES.

Here belong how the command starts and how it ends on an error. What a command does belongs to its
family, and how that is computed to the layers below.
"""

import io
import os
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from fparec_pipeline.cli.shared import app, print_error
from fparec_pipeline.config import ConfigError

# In the order of `fparec --help`.
FAMILIES = (
    "train",
    "dataset",
    "results",
    "store",
    "published",
    "serving",
    "dev",
)
for family in FAMILIES:
    import_module(f"{__name__}.{family}")


def main() -> None:
    """The console script: errors that a user can mend are printed without a traceback.

    Ctrl-C and `kill` end it, also where a script has started it in the background: there SIGINT is
    ignored, and Dagster has SIGTERM do what SIGINT does.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _settle_surroundings()
    from fparec_pipeline.datasets.files import DatasetError
    from fparec_pipeline.results.paper_figures import FigureMissing
    from fparec_pipeline.training.record import PublishedError, TrialCorrupt, TrialLocked

    try:
        app()
    except (
        ConfigError,
        DatasetError,
        FigureMissing,
        OSError,
        PublishedError,
        TrialCorrupt,
        TrialLocked,
    ) as error:
        print_error(str(error))
        raise SystemExit(2) from None


def _settle_surroundings() -> None:
    """A terminal that lacks characters gets ? for them; who has no home gets a temporary one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        Path.home()
    except RuntimeError:  # neither HOME nor an entry in passwd: MLflow could not be imported
        os.environ["HOME"] = tempfile.gettempdir()
