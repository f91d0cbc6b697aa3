"""MLflow: runs as a view of the trial folders (`runs`, `medians`, `models`), the registry, and the
machine's own metrics.

Belongs here: all that speaks to MLflow. What it is told is worked out in the layers below.
"""

from fparec_pipeline.tracking.machine import MachineMonitor
from fparec_pipeline.tracking.medians import Medians
from fparec_pipeline.tracking.runs import PAGE, Tracker, default_uri

__all__ = ["PAGE", "MachineMonitor", "Medians", "Tracker", "default_uri"]
