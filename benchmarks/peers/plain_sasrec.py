"""SASRec in plain PyTorch, as a person who knows PyTorch writes it: what our own work adds to that.

Batches of users of similar length, cut to the longest; `scaled_dot_product_attention`; scores for
the positions that have a target only; `F.cross_entropy`; the fused Adam; the network through
torch.compile where a C++ compiler is there.

Usage: plain_sasrec.py <folder with train.csv> <threads>
"""

import shutil
import sys
from pathlib import Path

from gate import Gate

gate = Gate()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

gate.imported()
BATCH, WINDOW, WIDTH, DROPOUT = 128, 50, 50, 0.5


class Block(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm and with its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.projections = nn.Linear(WIDTH, 3 * WIDTH)
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.projections(self.norms[0](x)).chunk(3, -1)
        rate = DROPOUT if self.training else 0.0
        x = x + F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        hidden = F.dropout(self.inner(self.norms[1](x)).relu(), DROPOUT, self.training)
        return x + F.dropout(self.outer(hidden), DROPOUT, self.training)


class SASRec(nn.Module):
    """(b, L) items, left-aligned, 0 is padding → (b, L, d). What is padded comes after all else."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, WIDTH, padding_idx=0)
        self.positions = nn.Embedding(WINDOW, WIDTH)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, items: Tensor) -> Tensor:
        x = self.items(items) + self.positions.weight[: items.shape[1]]
        out: Tensor = self.norm(self.blocks(F.dropout(x, DROPOUT, self.training)))
        return out


folder, threads = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
users, items, _ = np.loadtxt(folder / "train.csv", np.int64, delimiter=",", skiprows=1).T
histories = np.split(items, np.flatnonzero(np.diff(users)) + 1)
sequences = [torch.from_numpy(history[-WINDOW - 1 :]) for history in histories if len(history) > 1]
lengths = torch.tensor([len(sequence) - 1 for sequence in sequences])
network = SASRec(int(items.max()))
compiles = shutil.which("g++") is not None
forward = torch.compile(network, dynamic=True) if compiles else network
optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
gate.ready(
    versions=f"torch {torch.__version__}, {'compiled' if compiles else 'no C++ compiler'}",
    threads=torch.get_num_threads(),
    batch=f"{BATCH} users",
    epoch_targets=int(lengths.sum()),
)
while True:
    order = torch.randperm(len(sequences))
    pools = (pool[lengths[pool].argsort()] for pool in order.split(16 * BATCH))
    batches = [batch for pool in pools for batch in pool.split(BATCH)]
    for number in torch.randperm(len(batches)).tolist():
        rows = nn.utils.rnn.pad_sequence([sequences[i] for i in batches[number]], batch_first=True)
        inputs, targets = rows[:, :-1], rows[:, 1:]
        there = targets != 0
        scores = forward(inputs)[there] @ network.items.weight[1:].T
        loss = F.cross_entropy(scores, targets[there] - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gate.batch(int(there.sum()), loss.detach())
