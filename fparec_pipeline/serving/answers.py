"""Requests in the caller's ids, answered one for one: what a served model says.

Travels with a registered model, as `model` does.

Here belong the checks of a request and the form of an answer. The scores belong to `topk.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fparec_pipeline.serving.model import PackedModel

DEFAULT_K = 10
MOST_ITEMS = 1000  # that one answer holds
LONGEST = 100_000  # items of a history
MOST_HISTORIES = 10_000  # of a request
SHOWN = 20  # unknown ids that an answer lists


class BadRequest(ValueError):
    """A request that cannot be answered; the message is a sentence for its sender."""


def answer(
    model: PackedModel, histories: Sequence[Any], k: Any = DEFAULT_K, exclude_seen: Any = True
) -> list[dict[str, Any]]:
    """The k best items for each history, in the order of the histories.

    Args:
        model: whom to ask.
        histories: each a list of item ids of the source, oldest first. Whole numbers count as their
            text. Ids that the model does not know are left out; an answer counts and lists them.
        k: how many items, 1 to MOST_ITEMS.
        exclude_seen: never answer an item of the history.

    Returns:
        For each history `items` (ids, best first; fewer than k where no more are left), `scores`
        (None by popularity), `by` ("model", or "popularity" where no known item is in the history),
        `k`, `exclude_seen`, `unknown` (the first SHOWN distinct ids) and `unknown_count`.

    Raises:
        BadRequest: any of these is not what it should be.
    """
    count = _whole(k)
    if not isinstance(exclude_seen, bool | np.bool_):
        raise BadRequest(f"`exclude_seen` must be true or false, not {exclude_seen!r}.")
    if len(histories) > MOST_HISTORIES:
        raise BadRequest(
            f"A request holds at most {MOST_HISTORIES:,} histories, not {len(histories):,}."
        )
    ids = [_ids(history, place) for place, history in enumerate(histories)]
    numbers = [[model.number[name] for name in names if name in model.number] for names in ids]
    values = np.array([item for items in numbers for item in items], np.int64)
    offsets = np.cumsum([0, *map(len, numbers)]).astype(np.int64)
    top = model.top(values, offsets, count, exclude_seen=bool(exclude_seen))
    answers = []
    for row, names in enumerate(ids):
        unknown = [name for name in names if name not in model.number]
        found = top.items[row][top.items[row] > 0]
        by_model = bool(top.by_model[row])
        scores = top.scores[row][: len(found)].tolist() if by_model else None
        answers.append(
            {
                "items": model.names.gather(found - 1).to_list(),
                "scores": scores,
                "by": "model" if by_model else "popularity",
                "k": count,
                "exclude_seen": bool(exclude_seen),
                "unknown": list(dict.fromkeys(unknown))[:SHOWN],
                "unknown_count": len(unknown),
            }
        )
    return answers


def _whole(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MOST_ITEMS:
        raise BadRequest(f"`k` must be a whole number from 1 to {MOST_ITEMS:,}, not {k!r}.")
    return int(k)


def _ids(history: Any, place: int) -> list[str]:
    """The ids of one history as text."""
    if not isinstance(history, list | tuple | np.ndarray):
        raise BadRequest(
            f"`history` {place} must be a list of item ids, oldest first, not {_short(history)}."
        )
    if len(history) > LONGEST:
        raise BadRequest(f"`history` {place} has {len(history):,} items; {LONGEST:,} are the most.")
    return [_text(name, place) for name in history]


def _text(name: Any, place: int) -> str:
    if isinstance(name, str):
        return name.strip()
    if isinstance(name, int | np.integer) and not isinstance(name, bool):
        return str(name)
    raise BadRequest(
        f"`history` {place} holds {_short(name)}, which is no item id (text or a whole number)."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
