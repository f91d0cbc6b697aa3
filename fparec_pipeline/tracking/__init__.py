"""MLflow: runs as a view of the trial folders (`runs`, `medians`, `models`), and the registry.

Belongs here: all that speaks to MLflow. What it is told is worked out in the layers below.
"""

from fparec_pipeline.tracking.medians import Medians
from fparec_pipeline.tracking.runs import PAGE, Tracker, default_uri

__all__ = ["PAGE", "Medians", "Tracker", "default_uri"]
