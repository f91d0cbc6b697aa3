"""One context: data root, configuration, definitions and Dagster's instance, made once and passed.

Here belongs what is opened once for a command. What is done with it stands in the modules beside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg

from fparec_pipeline.config import Config, load_config
from fparec_pipeline.defs.build import build_defs
from fparec_pipeline.defs.private import InstanceRef, NoOpComputeLogManager
from fparec_pipeline.defs.resources import Workspace
from fparec_pipeline.paths import DataRoot, dagster_home
from fparec_pipeline.running.home import prepare_dagster_home
from fparec_pipeline.running.launcher import ForkingRunLauncher


@dataclass(frozen=True)
class Context:
    """What the commands work with."""

    data: DataRoot
    config: Config
    instance: dg.DagsterInstance

    @cached_property
    def repository(self) -> dg.RepositoryDefinition:
        """All assets, jobs, schedules and sensors of the configuration."""
        workspace = Workspace(data_root=str(self.data.root))
        return build_defs(self.config, {"workspace": workspace}).get_repository_def()


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
    """The persistent Dagster instance of the data root, or the one that DAGSTER_HOME names.

    On this machine a command says itself how many of its runs go on at once, and its terminal gets
    no copy of what they print. A cluster's limits stand.
    """
    home = str(dagster_home() or prepare_dagster_home(data))
    overrides: dict[str, Any] = {"compute_logs": _named(NoOpComputeLogManager)}
    if _is_local(InstanceRef.from_dir(home)):
        overrides |= {
            "run_launcher": _named(ForkingRunLauncher),
            "concurrency": {"runs": {"max_concurrent_runs": -1}},
        }
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(home, overrides=overrides)) as opened:
        yield opened


def _named(kind: type) -> dict[str, str]:
    return {"module": kind.__module__, "class": kind.__name__}


def _is_local(ref: InstanceRef) -> bool:
    """Whether the instance starts runs on this machine: with Dagster's own launcher or ours."""
    launcher = ref.run_launcher_data
    return launcher is None or launcher.class_name in (
        dg.DefaultRunLauncher.__name__,
        ForkingRunLauncher.__name__,
    )
