"""How right the probabilities of a cascade are: every objective on all candidates of the requests of one period.

What is reached, and who asks, is what it is where the ranker learns (recsys/evaluation/moments.py).
Shapes: B moments, C candidates, T objectives, N items, Q bins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.contracts import PAD
from recsys.evaluation.metrics import reordered_ndcg
from recsys.evaluation.moments import Moments
from recsys.evaluation.probabilities import (
    auc,
    auc_per_user,
    log_loss,
    normalised_entropy,
    predicted_over_observed,
    reliability,
)
from recsys.evaluation.shown import PLACES

DECILES = 10
MEASURES = {
    "auc": "AUC",
    "auc_per_user": "AUC of a user",
    "normalised_entropy": "NE",
    "ece": "ECE",
    "predicted_over_observed": "predicted / observed",
    "rate": "rate",
    "ndcg@10": "NDCG@10",
}
"""measure -> its title"""

Measures = dict[str, Any]


def judged(
    moments: Moments, rows: np.ndarray, probabilities: np.ndarray, popularity: np.ndarray
) -> dict[str, Measures]:
    """objective -> MEASURES, log loss, bins of reliability, and predicted / observed by popularity and of users without a
    history; candidates rows [B, C], probabilities [B, C, T], popularity [N]. An objective that tells no user's candidates apart
    is left out. NDCG@10 is that of the candidates, ordered by the objective alone.
    """
    labels, replay = moments.labels(rows), moments.replay
    requests = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    users = replay.users[moments.rows][requests]
    asking, earlier = replay.earlier(moments.rows)
    new = ~np.isin(np.arange(len(rows)), asking[(replay.labels[earlier] > 0).any(axis=1)])
    found = {}
    for place, name in enumerate(replay.dataset.description.objectives):
        known = (rows != PAD) & ~np.isnan(labels[..., place])
        own = (labels[..., place][known] > 0).astype(np.float64)
        if _mixed(own, users[known]):
            predicted = probabilities[..., place][known].astype(np.float64)
            found[name] = measures(own, predicted, users[known]) | {
                "ndcg@10": reordered_ndcg(
                    np.where(known, labels[..., place], np.nan), probabilities[..., place], PLACES
                ),
                "by_popularity": _by_popularity(own, predicted, popularity[rows[known]]),
                "new_users": _ratio(own, predicted, new[requests[known]]),
            }
    return found


def measures(labels: np.ndarray, predicted: np.ndarray, users: np.ndarray) -> Measures:
    """Of one objective; labels [R] of 0 and 1, predictions [R] and users [R]."""
    bins = reliability(labels, predicted)
    return {
        "auc": auc(labels, predicted),
        "auc_per_user": auc_per_user(labels, predicted, users),
        "log_loss": log_loss(labels, predicted),
        "normalised_entropy": normalised_entropy(labels, predicted),
        "ece": bins.error,
        "predicted_over_observed": predicted_over_observed(labels, predicted),
        "rate": float(labels.mean()),
        "reliability": {"predicted": bins.predicted.tolist(), "observed": bins.observed.tolist()},
    }


def mean(parts: Sequence[Mapping[str, Measures]]) -> dict[str, Measures]:
    """Over seeds and splits; the lists are those of the last part."""
    merged: dict[str, Measures] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        own = [part[name] for part in parts if name in part]
        numbers = {key for key in own[-1] if all(isinstance(one[key], float) for one in own)}
        merged[name] = own[-1] | {key: float(np.mean([one[key] for one in own])) for key in sorted(numbers)}
    return merged


def _mixed(labels: np.ndarray, users: np.ndarray) -> bool:
    """Some user has both labels."""
    reached, all_of_them = np.bincount(users, labels), np.bincount(users)
    return bool(((reached > 0) & (reached < all_of_them)).any())


def _by_popularity(labels: np.ndarray, predicted: np.ndarray, popularity: np.ndarray) -> list[float | None]:
    """Predicted / observed by decile of the items' popularity, rare ones first; None where nothing was reached."""
    parts = np.array_split(np.argsort(popularity, kind="stable"), DECILES)
    return [_ratio(labels, predicted, part) for part in parts]


def _ratio(labels: np.ndarray, predicted: np.ndarray, rows: np.ndarray) -> float | None:
    """Predicted / observed of some rows, None where nothing was reached."""
    return predicted_over_observed(labels[rows], predicted[rows]) if labels[rows].sum() > 0 else None
