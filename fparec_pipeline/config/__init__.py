"""What is run: datasets, arms, studies, and what the paper reported, as data.

`load_config` makes a `Config`, and every other layer is given it. Nothing here imports torch,
Dagster or MLflow.

Here belongs what the other layers import of this one; each module beside says what belongs in it.
"""

from fparec_pipeline.config.fingerprints import (
    TRAINING_VERSION,
    TRIAL_KEYS,
    Trial,
    TrialId,
    reference_fingerprint,
)
from fparec_pipeline.config.loading import FILES, load_config
from fparec_pipeline.config.names import DATASET_NAME, ConfigError, is_name, known, masked
from fparec_pipeline.config.parsing import parse
from fparec_pipeline.config.resolution import HERO, REFERENCES, Config
from fparec_pipeline.config.schema import (
    Counts,
    Dataset,
    Frozen,
    Hyperparameters,
    LeaveOneOut,
    Study,
    Temporal,
)
from fparec_pipeline.config.sources import (
    NULL_WORDS,
    SOURCE_KINDS,
    FetchedSource,
    OwnSource,
    RdatasetsSource,
    Source,
    TimedSource,
    source_of,
)
from fparec_pipeline.paths import PACKAGE

__all__ = [
    "DATASET_NAME",
    "FILES",
    "HERO",
    "NULL_WORDS",
    "PACKAGE",
    "REFERENCES",
    "SOURCE_KINDS",
    "TRAINING_VERSION",
    "TRIAL_KEYS",
    "Config",
    "ConfigError",
    "Counts",
    "Dataset",
    "FetchedSource",
    "Frozen",
    "Hyperparameters",
    "LeaveOneOut",
    "OwnSource",
    "RdatasetsSource",
    "Source",
    "Study",
    "Temporal",
    "TimedSource",
    "Trial",
    "TrialId",
    "is_name",
    "known",
    "load_config",
    "masked",
    "parse",
    "reference_fingerprint",
    "source_of",
]
