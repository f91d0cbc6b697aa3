"""What is run: datasets, arms, studies, and what the paper reported, as data.

`load_config` makes a `Config`, and every other layer is given it. Nothing here imports torch,
Dagster or MLflow.
"""

from fparec_pipeline.config.fingerprints import (
    TRAINING_VERSION,
    Trial,
    TrialId,
    reference_fingerprint,
)
from fparec_pipeline.config.loading import FILES, load_config
from fparec_pipeline.config.names import ConfigError, known, masked
from fparec_pipeline.config.resolution import HERO, REFERENCES, Config
from fparec_pipeline.config.schema import (
    Counts,
    Dataset,
    Frozen,
    Hyperparameters,
    LeaveOneOut,
    Source,
    Study,
    Temporal,
)
from fparec_pipeline.paths import PACKAGE

__all__ = [
    "FILES",
    "HERO",
    "PACKAGE",
    "REFERENCES",
    "TRAINING_VERSION",
    "Config",
    "ConfigError",
    "Counts",
    "Dataset",
    "Frozen",
    "Hyperparameters",
    "LeaveOneOut",
    "Source",
    "Study",
    "Temporal",
    "Trial",
    "TrialId",
    "known",
    "load_config",
    "masked",
    "reference_fingerprint",
]
