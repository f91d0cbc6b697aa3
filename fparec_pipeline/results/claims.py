"""The paper's claims (`claims.toml`), each with a verdict from our own trials.

Here belong the verdicts. The tests that they rest on belong to `significance.py`.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal

import numpy as np

from fparec_pipeline.config import FILES, Frozen
from fparec_pipeline.results.significance import Comparison, Pair, compare

Verdict = Literal["held", "mixed", "reversed", "undecided"]
# (study, dataset, metric) -> arm -> (seeds, users); arms without a median are not in it.
Values = Callable[[str, str, str], dict[str, np.ndarray]]


class Claim(Frozen):
    """Arms of a study in groups: all of one group above all of the next, on each dataset."""

    text: str
    study: str
    metric: str
    datasets: tuple[str, ...]
    order: tuple[tuple[str, ...], ...]

    @property
    def pairs(self) -> list[Pair]:
        """Every (better, worse) that the claim speaks of."""
        return [pair for groups in pairwise(self.order) for pair in product(*groups)]


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict and what it rests on."""

    claim: Claim
    verdict: Verdict
    found: dict[tuple[str, Pair], Comparison | None]  # None: a trial is missing

    def count(self, verdict: Verdict) -> int:
        """How many of its comparisons say so; undecided includes what is missing."""
        return sum(_of_pair(comparison) == verdict for comparison in self.found.values())

    @property
    def missing(self) -> int:
        return sum(comparison is None for comparison in self.found.values())


def read_claims() -> list[Claim]:
    """The claims, in the order of the file."""
    content = tomllib.loads((FILES / "claims.toml").read_text(encoding="utf-8"))
    return [Claim.model_validate(entry) for entry in content["claims"]]


def judge(claims: list[Claim], values: Values) -> list[Judged]:
    """Give each claim its verdict.

    Held: every comparison is significant and as claimed. Reversed: at least one is significant
    the other way, and none as claimed. Mixed: some are significant as claimed, some the other way.
    Undecided: all else, missing trials included. Holm's correction is over all
    comparisons that any claim makes on the same study, dataset and metric.
    """
    cells = {(c.study, dataset, c.metric) for c in claims for dataset in c.datasets}
    compared = {
        cell: compare(
            values(*cell),
            [
                pair
                for claim in claims
                if (claim.study, claim.metric) == (cell[0], cell[2]) and cell[1] in claim.datasets
                for pair in claim.pairs
            ],
        )
        for cell in cells
    }
    return [_judge(claim, compared) for claim in claims]


def _judge(claim: Claim, compared: dict[tuple[str, str, str], dict[Pair, Comparison]]) -> Judged:
    found = {
        (dataset, pair): compared[claim.study, dataset, claim.metric].get(pair)
        for dataset in claim.datasets
        for pair in claim.pairs
    }
    verdicts = {_of_pair(comparison) for comparison in found.values()}
    if "reversed" in verdicts:
        return Judged(claim, "mixed" if "held" in verdicts else "reversed", found)
    return Judged(claim, "held" if verdicts == {"held"} else "undecided", found)


def _of_pair(comparison: Comparison | None) -> Verdict:
    if comparison is None or not comparison.significant:
        return "undecided"
    return "held" if comparison.difference > 0 else "reversed"
