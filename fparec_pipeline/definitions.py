"""The Dagster code location: what `dagster dev` and every run's process load.

Nothing else belongs here: `defs/build.py` puts the definitions together.
"""

from fparec_pipeline.config import load_config
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.paths import DataRoot

defs = build_defs(load_config(DataRoot.default()))
