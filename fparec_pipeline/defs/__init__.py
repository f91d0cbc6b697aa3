"""Dagster, thin: assets, checks, partitions, jobs, automation and resources.

Here belongs what Dagster is told. An asset reads with one function of the layers below, calls one,
and reports; what it computes does not belong here.
"""
