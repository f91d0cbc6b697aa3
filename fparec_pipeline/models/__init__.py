"""Sequence mixers, the network around them, and the untrained references.

Here belongs what maps sequences to scores. How one is trained or ranked does not.
"""
