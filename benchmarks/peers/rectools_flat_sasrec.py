"""RecTools' `fast_transformers`: FlatSASRecNet on sequences that `build_sequences` makes.

The library brings the network and the sequences; the loop is the one its documentation shows, with
full cross-entropy over the padded positions too, which `ignore_index` leaves out of the mean.
Its feed-forward is four times as wide as the others' and cannot be set.

Usage (in RecTools' environment): rectools_flat_sasrec.py <folder with train.csv> <threads>
"""

import sys
from importlib.metadata import version
from pathlib import Path

from gate import Gate

gate = Gate()

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from rectools.fast_transformers import FlatSASRecNet, build_sequences  # noqa: E402

gate.imported()
BATCH = 128  # users

folder, threads = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
columns = (torch.from_numpy(column) for column in pd.read_csv(folder / "train.csv").to_numpy().T)
inputs, targets, items, _ = build_sequences(*columns, max_len=50)
network = FlatSASRecNet(len(items), 50, n_blocks=2, n_heads=1, session_max_len=50, dropout=0.5)
optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
gate.ready(
    versions=f"RecTools {version('rectools')}, torch {torch.__version__}",
    threads=torch.get_num_threads(),
    batch=f"{BATCH} users",
    epoch_targets=int((targets != 0).sum()),
)
while True:
    for rows in torch.randperm(len(inputs)).split(BATCH):
        wanted = targets[rows]
        logits = network({"x": inputs[rows], "y": wanted})
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten() - 1, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gate.batch(int((wanted != 0).sum()), loss.detach())
