"""Metrics of any system's rankings, by the same functions that measure ours."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from recsys.contracts import PAD
from recsys.errors import DataError
from recsys.evaluation.intervals import bootstrap_interval
from recsys.metrics import Targets, hits, ndcg, recall, shown_items


def evaluate(
    rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Collection[str]], *, ks: Sequence[int] = (10, 100)
) -> dict[str, float | tuple[float, float]]:
    """Return recall@k and ndcg@k, means over all users of `relevant`, each with its 95% interval over users.

    rankings: user -> items, best first, of the whole catalogue without sampled negatives; a user who is missing gets 0.
    relevant: user -> items that were right; users without any do not count.
    The result maps "recall@10" to a mean, "recall@10 ci95" to its interval, and so on; "coverage@10" is the number of distinct
    items in the first ten of all rankings. DataError for no user, for an item listed twice, or for a k below 1.
    """
    users = [user for user, items in relevant.items() if len(items)]
    if not users:
        raise DataError("no user has a relevant item; give at least one to measure rankings by")
    if not ks or min(ks) < 1:
        raise DataError(f"ks is {tuple(ks)}; give numbers of 1 and more")
    rows: dict[str, int] = {}
    targets = Targets.of([[_row(rows, item) for item in dict.fromkeys(relevant[user])] for user in users])
    ranking = np.full((len(users), max(ks)), PAD, dtype=np.int64)
    for number, user in enumerate(users):
        listed = rankings.get(user, ())[: max(ks)]
        if len(set(listed)) < len(listed):
            raise DataError(f"the ranking of user {user!r} lists an item twice; a ranking has every item once")
        ranking[number, : len(listed)] = [_row(rows, item) for item in listed]
    found = hits(ranking, targets)
    figures: dict[str, float | tuple[float, float]] = {}
    for k in ks:
        for name, metric in (("recall", recall), ("ndcg", ndcg)):
            values = metric(found, targets.num_targets, k)
            figures[f"{name}@{k}"] = float(values.mean())
            figures[f"{name}@{k} ci95"] = bootstrap_interval(values, 0, np.ones(len(values)))
        figures[f"coverage@{k}"] = float(shown_items(ranking, len(rows), k).sum())
    return figures


def _row(rows: dict[str, int], item: str) -> int:
    return rows.setdefault(item, len(rows))
