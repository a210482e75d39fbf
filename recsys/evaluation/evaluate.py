"""Metrics of any system's rankings, by the same functions that measure ours."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from recsys.contracts import PAD
from recsys.errors import DataError
from recsys.evaluation.intervals import bootstrap_interval
from recsys.metrics import OF_HITS, Targets, hits

Rankings = Mapping[str, Sequence[str]]
"""user -> items, best first, of the whole catalogue without sampled negatives; a user who is missing gets 0"""
Relevant = Mapping[str, Collection[str]]
"""user -> items that were right; users without any do not count"""


def evaluate(
    rankings: Rankings, relevant: Relevant, *, ks: Sequence[int] = (10, 100)
) -> dict[str, float | tuple[float, float]]:
    """Return recall@k, ndcg, precision, hit_rate, mrr and map, means over all users of `relevant`, each with its 95% interval.

    rankings: user -> items, best first, of the whole catalogue without sampled negatives; a user who is missing gets 0.
    relevant: user -> items that were right; users without any do not count.
    The result maps "recall@10" to a mean, "recall@10 ci95" to its interval, and so on; "coverage@10" is the number of distinct
    items in the first ten of all rankings. DataError for no user, for an item listed twice, or for a k below 1.
    """
    users = evaluate_users(rankings, relevant, ks=ks)
    figures: dict[str, float | tuple[float, float]] = {}
    for k in ks:
        for name in OF_HITS:
            values = users[f"{name}@{k}"].to_numpy()
            figures[f"{name}@{k}"] = float(values.mean())
            figures[f"{name}@{k} ci95"] = bootstrap_interval(values, 0)
        figures[f"coverage@{k}"] = float(len({item for user in users["user"] for item in rankings.get(user, ())[:k]}))
    return figures


def evaluate_users(rankings: Rankings, relevant: Relevant, *, ks: Sequence[int] = (10, 100)) -> pl.DataFrame:
    """Return the values behind `evaluate`, a row a user: `user`, `relevant` (number of items), recall@k, ndcg@k and so on."""
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
    found, num_targets = hits(ranking, targets), targets.num_targets
    values = {f"{name}@{k}": metric(found, num_targets, k) for k in ks for name, metric in OF_HITS.items()}
    return pl.DataFrame({"user": users, "relevant": num_targets, **values})


def slice_means(values: pl.DataFrame, by: str, metric: str) -> pl.DataFrame:
    """Return a row a value of the column `by`, the largest slice first: its number of rows, and the mean of `metric` with its
    95% bootstrap interval.

    values: a row a user, for instance of `evaluate_users` joined with columns of the users. Missing values are a slice.
    """
    for name in (by, metric):
        if name not in values.columns:
            raise DataError(f"there is no column {name!r}; the table has {', '.join(values.columns)}")
    slices = []
    for (value,), part in values.group_by(by, maintain_order=True):
        own = part[metric].to_numpy().astype(np.float64)
        low, high = bootstrap_interval(own, 0)
        slices.append({by: value, "rows": len(own), metric: float(own.mean()), "low": low, "high": high})
    bounds = {"low": pl.Float64, "high": pl.Float64}
    schema: dict[str, Any] = {by: values.schema[by], "rows": pl.Int64, metric: pl.Float64, **bounds}
    return pl.DataFrame(slices, schema=schema).sort("rows", by, descending=[True, False], nulls_last=True)


def _row(rows: dict[str, int], item: str) -> int:
    return rows.setdefault(item, len(rows))
