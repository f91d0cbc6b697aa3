"""The audit: what about a dataset decides how far its numbers can be trusted.

What belongs here: facts of ordered interactions (time, ties, repeats, cold start, the leak of
leave-one-out, drift) as plain values, and their wording. What does not: whether a file is sound
(`checks`, `inspecting`), and how well a model does on shuffled histories (`training.sequential`).
Ideas from SplitLight (arXiv 2602.19339) and "Time to Split" (arXiv 2507.16289).
"""

from typing import Any

import numpy as np
import polars as pl

from fparec_pipeline.datasets.times import DAY_S, TICKS

TIED = (pl.col("time").diff() == 0).over("user").fill_null(False)  # of rows by user, then time
QUANTILE = 0.9  # where `temporal` cuts by default
MANY_TIES = 0.01  # share of interactions
FEW_MEETINGS = 100  # of two items that tie twice: fewer say nothing
REGULAR = 0.75  # agreement of ties that chance (0.5) does not explain


def audit(rows: pl.DataFrame, unit: str | None) -> dict[str, Any]:
    """What the audit finds, as plain values.

    Args:
        rows: user, item and time (where there are times), by user, then position: all interactions
            of the splits.
        unit: of the times, a key of TICKS; None: not known, or there are no times.

    Returns:
        Keys of every dataset: interactions, repeats (share of interactions with an item that their
        user had before), leave_one_out_cold_items (share of test targets that no training has).
        Of one with times: ties (share with the time of their user's one before), tie_agreement
        (`_tie_agreement`), duplicates (share that repeat user, item and time), leak (share of
        leave-one-out's test targets that are earlier than training's last interaction),
        leak_median (for the median target, the share of training that is later than it), drift
        (total variation distance of the items' shares between the first and the second half, 0 to
        1), new_items (share of the last tenth that are of items that the nine tenths before have
        not), temporal_users, temporal_cold_items, temporal_cold_users (of the test targets of the
        protocol temporal at its defaults: how many, the share of cold items, the share of users
        without training). Where the unit is known: first, last (ISO dates), days and months (ISO
        month → interactions).
    """
    place = pl.int_range(pl.len()).over("user")
    left = pl.len().over("user") - place
    lazy = rows.lazy().with_columns(
        repeated=pl.int_range(pl.len()).over("user", "item") > 0,
        part=pl.when(left == 1).then(2).when(left == 2).then(1).otherwise(0),
    )
    marked = lazy.with_columns(trained=(pl.col("part") == 0).any().over("item")).collect()
    targets = marked.filter(pl.col("part") == 2)
    found: dict[str, Any] = {
        "interactions": rows.height,
        "repeats": _share(marked["repeated"]),
        "leave_one_out_cold_items": _share(~targets["trained"]),
    }
    if "time" in rows.columns:
        found |= _of_times(marked, targets) | _of_calendar(rows, unit)
    return found


def _share(flags: pl.Series) -> float:
    return float(flags.sum()) / max(1, len(flags))


def _of_times(marked: pl.DataFrame, targets: pl.DataFrame) -> dict[str, Any]:
    ties = marked.select(
        ties=TIED,
        duplicates=pl.struct("user", "item", "time").is_first_distinct().not_(),
    )
    training = marked.filter(pl.col("part") == 0)["time"].sort()
    places = training.search_sorted(targets["time"], side="right").to_numpy()
    later = 1 - places / max(1, len(training))  # the share of training that is later
    return {
        "ties": _share(ties["ties"]),
        "tie_agreement": _tie_agreement(marked),
        "duplicates": _share(ties["duplicates"]),
        "leak": float((later > 0).mean()),
        "leak_median": float(np.median(later)),
        **_drift(marked),
        **_temporal(marked),
    }


def _tie_agreement(rows: pl.DataFrame) -> float | None:
    """How often two items that tie, one right after the other, are in the same order as when they
    tie another time: 0.5 by chance, 1 in a file that is sorted by item. None if there are few.

    A pair that ties n times, u of them one way, meets itself n(n-1)/2 times and agrees in
    u(u-1)/2 + (n-u)(n-u-1)/2; both are summed over all pairs.

    Args:
        rows: user, item, time; by user, then position.
    """
    item, before = pl.col("item"), pl.col("item").shift().over("user")
    tied = TIED & (item != before)
    up, down = pl.col("up"), pl.col("down")
    orders = (
        rows.lazy()
        .select(low=pl.min_horizontal(item, before), high=pl.max_horizontal(item, before),
                up=item > before, tied=tied)
        .filter("tied")
        .group_by("low", "high")
        .agg(up.sum().cast(pl.Int64), down=(~up).sum().cast(pl.Int64))
    )  # fmt: skip
    agreeing, differing = (
        orders.select(((up * (up - 1) + down * (down - 1)) // 2).sum(), differing=(up * down).sum())
        .collect()
        .row(0)
    )
    meetings = agreeing + differing
    return agreeing / meetings if meetings >= FEW_MEETINGS else None


def _drift(rows: pl.DataFrame) -> dict[str, float]:
    ordered = rows.select("item", "time").sort("time", maintain_order=True)
    half, last = ordered.height // 2, int(QUANTILE * ordered.height)
    shares = [
        part.group_by("item").agg((pl.len() / part.height).alias(name))
        for name, part in (("a", ordered.head(half)), ("b", ordered.slice(half)))
    ]
    both = shares[0].join(shares[1], on="item", how="full", coalesce=True).fill_null(0.0)
    both = both.sort("item")  # a sum of floats depends on its order
    end = ordered.slice(last)
    return {
        "drift": float((both["a"] - both["b"]).abs().sum()) / 2,
        "new_items": end.join(ordered.head(last), on="item", how="anti").height
        / max(1, end.height),
    }


def _temporal(rows: pl.DataFrame) -> dict[str, float]:
    """Cold start among the last interactions of users after the second cut of the defaults."""
    times = rows["time"].sort()
    test_from = times[int(QUANTILE * len(times))]
    before = times.filter(times < test_from)
    valid_from = before[int(QUANTILE * len(before))] if len(before) else test_from
    early = rows.filter(pl.col("time") < valid_from)
    targets = rows.filter(pl.col("time") >= test_from).group_by("user").last()
    size = max(1, targets.height)
    return {
        "temporal_users": targets.height,
        "temporal_cold_items": targets.join(early, on="item", how="anti").height / size,
        "temporal_cold_users": targets.join(early, on="user", how="anti").height / size,
    }


def _of_calendar(rows: pl.DataFrame, unit: str | None) -> dict[str, Any]:
    if unit is None:
        return {}
    moment = pl.from_epoch(pl.col("time") // TICKS[unit], time_unit="s")
    day = (pl.col("time") // (DAY_S * TICKS[unit])).alias("day")  # Python's dates end with 9999
    first, last = (
        rows.select(each.dt.strftime("%Y-%m-%d")).item() for each in (moment.min(), moment.max())
    )
    days = int(rows.select(day.max() - day.min()).item()) + 1
    months = rows.group_by(moment.dt.strftime("%Y-%m").alias("month")).len().sort("month")
    return {
        "first": first,
        "last": last,
        "days": days,
        "months": dict(months.iter_rows()),
    }


def sentences(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What `audit` (and `training.sequential`) found, as labels and sentences for people."""
    lines = []
    if "first" in found:
        busiest = max(found["months"], key=found["months"].get)
        lines.append(
            (
                "time",
                f"{found['first']} to {found['last']}, {found['days']:,} days; the busiest of "
                f"{len(found['months'])} months is {busiest} with {found['months'][busiest]:,} of "
                f"{found['interactions']:,} interactions",
            )
        )
    if "ties" in found:
        lines.append(("ties", _on_ties(found["ties"], found.get("tie_agreement"))))
    repeats = (
        f"{found['repeats']:.1%} of the interactions are with an item that the user had before"
    )
    lines.append(("repeats", repeats))
    if "duplicates" in found:
        duplicates = f"{found['duplicates']:.1%} of the interactions repeat user, item and time"
        lines.append(("duplicates", duplicates))
    cold = (
        f"leave_one_out: {found['leave_one_out_cold_items']:.1%} of the test targets are cold items"
    )
    if "temporal_users" in found:
        cold += (
            f"; temporal: {found['temporal_users']:,} users have a test target, "
            f"{found['temporal_cold_items']:.1%} of the targets are cold items, "
            f"{found['temporal_cold_users']:.1%} of these users have no training"
        )
    lines.append(("cold start", cold))
    if "leak" in found:
        lines.append(
            (
                "leak",
                f"leave_one_out: {found['leak']:.1%} of the test targets are earlier than "
                f"training's last interaction; {found['leak_median']:.1%} of training is later "
                "than the median target",
            )
        )
        lines.append(
            (
                "drift",
                f"{found['drift']:.0%} of the second half would need another item to be like the "
                f"first half; {found['new_items']:.1%} of the last tenth are with new items",
            )
        )
    if "transitions" in found:
        lines.append(
            (
                "order",
                f"the untrained row Transitions has NDCG@10 {found['transitions']:.4f}, and "
                f"{found['transitions_shuffled']:.4f} with each history in training shuffled",
            )
        )
    return lines


def _on_ties(share: float, agreement: float | None) -> str:
    told = (
        f"{share:.1%} of the interactions happened at the same time as their user's previous one, "
        "so that time does not order them"
    )
    if agreement is None:
        return told
    told += (
        f". Where the same two items tie again, {agreement:.0%} are in the same order "
        "(by chance: 50%)"
    )
    if share > MANY_TIES and agreement > REGULAR:
        told += (
            ". So the file is sorted there, for example by item, and a model can learn that. "
            "With shuffle_ties = true in datasets.toml their order is drawn instead"
        )
    return told
