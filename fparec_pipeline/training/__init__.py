"""One trial: batches, losses, metrics, evaluation, the loop, stacks of seeds, the trial's folder.

Here belongs what a bare machine with torch and Polars needs to train. What is made of many trials
does not.
"""
