"""A trial: its identity, its hyper-parameters, and the fingerprint that tells whether it is fresh.

What belongs here: whatever decides that two trials are the same computation.
"""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from fparec_pipeline.config.schema import Frozen, Hyperparameters

# Raised by hand whenever training changes what a trial computes; a golden trial in the tests
# forces it. It is part of each trial's fingerprint.
TRAINING_VERSION = 2


# The names of a TrialId's parts in files, frames and tags.
TRIAL_KEYS = ("dataset", "model", "seed")


class TrialId(NamedTuple):
    """Which trial: a dataset, an arm (or an untrained reference) and a seed."""

    dataset: str
    arm: str
    seed: int

    @classmethod
    def of(cls, folder: Path) -> "TrialId":
        """The identity of a trial's folder, also of the one where a new attempt trains."""
        dataset, arm, name = folder.parts[-3:]
        return cls(dataset, arm, int(name.removeprefix("seed=").partition(".")[0]))

    def __str__(self) -> str:
        return f"{self.dataset}/{self.arm}/seed={self.seed}"

    @property
    def command(self) -> str:
        """What trains the trial where it is not there."""
        options = {"--datasets": self.dataset, "--models": self.arm, "--seeds": str(self.seed)}
        return shlex.join(["fparec", "run", *(word for pair in options.items() for word in pair)])


class Trial(Frozen):
    """One (dataset, arm, seed) with its resolved hyper-parameters."""

    dataset: str
    arm: str  # the name that it is trained as
    seed: int
    hyperparameters: Hyperparameters

    @property
    def id(self) -> TrialId:
        return TrialId(self.dataset, self.arm, self.seed)

    def fingerprint(self, data_hash: str, *, with_seed: bool = True) -> str:
        """16 hex digits over resolved configuration, logical data hash and TRAINING_VERSION.

        Without the seed it is what the trials of one median must share. The arm's name is left
        out, so that an arm that two studies name differently would be the same computation. So is
        a hyper-parameter at its default: those are switches that came later and change nothing.
        """
        seed = {"seed": self.seed} if with_seed else {}
        hyperparameters = self.hyperparameters.model_dump(exclude_defaults=True)
        return _fingerprint(self.dataset, data_hash, hyperparameters=hyperparameters, **seed)


def reference_fingerprint(dataset: str, reference: str, data_hash: str) -> str:
    """The fingerprint of an untrained reference row: it has neither hyper-parameters nor seeds."""
    return _fingerprint(dataset, data_hash, reference=reference)


def _fingerprint(dataset: str, data_hash: str, **content: Any) -> str:
    content |= {
        "dataset": dataset,
        "data_hash": data_hash,
        "training_version": TRAINING_VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
