"""How work is started and followed.

Here belongs what stands between the front doors and Dagster: the one context (configuration,
definitions and instance, made once), the runs that are asked for and what became of them, and what
Dagster is told of trials that it did not run. What an asset computes does not belong here.
"""
