"""What the machine does while a trial trains: MLflow's system metrics, where its own switch asks.

Belongs here: when MLflow's monitor starts and ends. What it measures is MLflow's.
"""

import logging
from typing import TYPE_CHECKING

from fparec_pipeline.tracking.runs import Tracker

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)


class MachineMonitor:
    """Logs processor, memory, disk, network and GPU into the run of the trial that is training.

    Only where `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING` is true; MLflow's other variables of that kind
    set how often. It needs psutil.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._run: str | None = None
        self._monitor: SystemMetricsMonitor | None = None

    def follow(self, run_id: str) -> None:
        """Log into this run from now on. MLflow's thread ends by itself once the run has ended."""
        from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

        if run_id == self._run or not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            return
        self.end()
        self._run = run_id
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
        except ImportError:
            logger.warning(
                "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is set, but MLflow's system metrics need "
                "psutil: `pip install psutil`. Training goes on without them."
            )
            return
        self._monitor = self._tracker.reach(
            lambda _: SystemMetricsMonitor(
                run_id, resume_logging=True, tracking_uri=self._tracker.uri
            )
        )
        if self._monitor:
            self._monitor.start()

    def end(self) -> None:
        """Log no more."""
        if self._monitor:
            self._monitor.finish()
            self._monitor = None
