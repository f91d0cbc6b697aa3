"""Checks that the mixer in decay.py keeps to the interface: says nothing about its quality."""

from fparec_pipeline.config import load_config
from fparec_pipeline.models.contract import check_mixer, check_network

h = load_config().hyperparameters("ml-latest-small", "decay")
check_mixer(h)
check_network(h)
print("The mixer keeps to the interface.")
