"""From a raw file to splits on disk: sources, readers, preprocessing, protocols, checks and audit.

Here belongs what needs neither a model nor Dagster; each module says what belongs in it.
"""
