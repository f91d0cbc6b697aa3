"""Lists and interactions that RecTools has valued too, and its values.

RecTools 0.19.0 needs an older NumPy than this project, so its values are kept here. In an
environment with RecTools, `python tests/training/rectools_values.py` prints them.
"""

import random

N_USERS, N_ITEMS, K = 40, 60, 10

RECTOOLS = {
    "coverage": 0.9,
    "novelty": 3.737086970772185,
    "user_coverage": 0.925,
    "hr": 0.1,
    "ndcg": 0.05797031391174952,
}


def interactions() -> list[list[int]]:
    """Each user's items, in order, with repeats; the last two are held out for validation, test."""
    draw = random.Random(3)
    weights = [1 / i for i in range(1, N_ITEMS + 1)]
    return [
        draw.choices(range(1, N_ITEMS + 1), weights, k=draw.randrange(4, 15))
        for _ in range(N_USERS)
    ]


def lists() -> list[list[int]]:
    """Each user's list, some shorter than K, some empty; of the last items nobody gets one."""
    draw = random.Random(4)
    return [
        draw.sample(range(1, N_ITEMS - 5), draw.choice([0, 4, K, K, K, K])) for _ in range(N_USERS)
    ]


def ranks() -> list[int]:
    """The place of each user's test item in its list, else some later rank."""
    return [
        given.index(own[-1]) + 1 if own[-1] in given else N_ITEMS
        for own, given in zip(interactions(), lists(), strict=True)
    ]


if __name__ == "__main__":
    import pandas as pd
    from rectools import Columns
    from rectools.metrics import NDCG, CatalogCoverage, CoveredUsers, HitRate, MeanInvUserFreq

    def table(items: list[list[int]]) -> pd.DataFrame:
        rows = [(u, i, r) for u, own in enumerate(items) for r, i in enumerate(own, start=1)]
        return pd.DataFrame(rows, columns=[Columns.User, Columns.Item, Columns.Rank])

    given = table(lists())
    training = table([own[:-2] for own in interactions()])
    targets = table([own[-1:] for own in interactions()])
    catalogue = range(1, N_ITEMS + 1)
    values = {
        "coverage": CatalogCoverage(k=K, normalize=True).calc(given, catalogue),
        "novelty": MeanInvUserFreq(k=K).calc(given, training),
        "user_coverage": CoveredUsers(k=K).calc(given, targets),
        "hr": HitRate(k=K).calc(given, targets),
        "ndcg": NDCG(k=K, divide_by_achievable=True).calc(given, targets),
    }
    print({name: float(value) for name, value in values.items()})
