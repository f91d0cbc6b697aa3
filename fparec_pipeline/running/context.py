"""One context: data root, configuration, definitions and Dagster's instance, made once and passed.

Here belongs what is opened once for a command. What is done with it stands in the modules beside.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dagster as dg

from fparec_pipeline.config import Config, load_config
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.defs.private import InstanceRef, NoOpComputeLogManager
from fparec_pipeline.paths import PACKAGE, DataRoot, dagster_home


@dataclass(frozen=True)
class Context:
    """What the commands work with."""

    data: DataRoot
    config: Config
    instance: dg.DagsterInstance

    @cached_property
    def definitions(self) -> dg.Definitions:
        """All assets, jobs, schedules and sensors of the configuration."""
        return build_defs(self.config)


@contextmanager
def open_context(data: DataRoot, config: Config | None = None) -> Iterator[Context]:
    """The data root's configuration, and the Dagster instance of `open_instance`.

    Args:
        data: the data root.
        config: its configuration, where it has been loaded already.

    Raises:
        ConfigError: a configuration file cannot be used.
    """
    config = config or load_config(data)
    with open_instance(data) as instance:
        yield Context(data, config, instance)


@contextmanager
def open_instance(data: DataRoot) -> Iterator[dg.DagsterInstance]:
    """The persistent Dagster instance of the data root, or the one that DAGSTER_HOME names."""
    home = str(dagster_home() or prepare_dagster_home(data))
    # Else each run would start processes that copy this terminal's output to a file.
    no_copies = {"module": NoOpComputeLogManager.__module__, "class": "NoOpComputeLogManager"}
    ref = InstanceRef.from_dir(home, overrides={"compute_logs": no_copies})
    with dg.DagsterInstance.from_ref(ref) as opened:
        yield opened


def prepare_dagster_home(data: DataRoot) -> Path:
    """The persistent DAGSTER_HOME of the data root, with the packaged `dagster.yaml`."""
    home = data.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists():
        shutil.copyfile(PACKAGE / "dagster.yaml", target)
    return home
