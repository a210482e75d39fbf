"""Quality of predicted probabilities per objective, on all candidates of the requests of one period.

Requests and labels are those of training (recsys/replay/labelled_requests.py).
Shapes: B requests, C candidates, T objectives, N items, Q bins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.contracts import PAD
from recsys.evaluation.exposure_report import POSITIONS
from recsys.evaluation.intervals import ratio_interval
from recsys.evaluation.probabilities import (
    auc,
    auc_per_user,
    log_loss,
    normalised_entropy,
    predicted_over_observed,
    reliability,
)
from recsys.metrics import reordered_ndcg
from recsys.replay.labelled_requests import LabelledRequests

DECILES = 10
MAX_MISCALIBRATION = 0.1
"""deviation of predicted / observed from 1, beyond noise, above which a score is called no probability"""
RATIO = "predicted_over_observed"
MEASURES = {
    "auc": "AUC",
    "auc_per_user": "AUC of\na user",
    "normalised_entropy": "NE",
    "ece": "ECE",
    RATIO: "predicted /\nobserved",
    "rate": "rate",
    "ndcg@10": "NDCG@10",
}
"""measure -> its title"""

Measures = dict[str, Any]


def evaluate_objectives(
    requests: LabelledRequests, rows: np.ndarray, probabilities: np.ndarray, popularity: np.ndarray
) -> dict[str, Measures]:
    """Return objective -> MEASURES, log loss, reliability bins, and predicted / observed by popularity and for new users.

    rows: candidates [B, C]. probabilities: [B, C, T]. popularity: [N]. An objective without a user who has both labels is
    left out. NDCG@10 ranks the candidates by the objective alone.
    """
    labels, replay = requests.labels(rows), requests.replay
    request_of_label = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    users = replay.users[requests.rows][request_of_label]
    asking, earlier = replay.earlier(requests.rows)
    new = ~np.isin(np.arange(len(rows)), asking[(replay.labels[earlier] > 0).any(axis=1)])
    found = {}
    for column, name in enumerate(replay.dataset.description.objectives):
        known = (rows != PAD) & ~np.isnan(labels[..., column])
        own = (labels[..., column][known] > 0).astype(np.float64)
        if _has_both_labels(own, users[known]):
            predicted = probabilities[..., column][known].astype(np.float64)
            found[name] = measures(own, predicted, users[known]) | {
                "ndcg@10": float(
                    reordered_ndcg(
                        np.where(known, labels[..., column], np.nan), probabilities[..., column], POSITIONS
                    ).mean()
                ),
                "by_popularity": _by_popularity(own, predicted, popularity[rows[known]]),
                "new_users": _ratio(own, predicted, new[request_of_label[known]]),
            }
    return found


def measures(labels: np.ndarray, predicted: np.ndarray, users: np.ndarray) -> Measures:
    """Return the measures of one objective; labels [R] of 0 and 1, predictions [R] and users [R]."""
    bins = reliability(labels, predicted)
    return {
        "auc": auc(labels, predicted),
        "auc_per_user": auc_per_user(labels, predicted, users),
        "log_loss": log_loss(labels, predicted),
        "normalised_entropy": normalised_entropy(labels, predicted),
        "ece": bins.error,
        RATIO: predicted_over_observed(labels, predicted),
        f"{RATIO} ci95": _ratio_over_users(labels, predicted, users),
        "rate": float(labels.mean()),
        "reliability": {"predicted": bins.predicted.tolist(), "observed": bins.observed.tolist()},
    }


def mean(parts: Sequence[Mapping[str, Measures]]) -> dict[str, Measures]:
    """Average measures over seeds and splits; lists but the interval are those of the last part."""
    merged: dict[str, Measures] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        own = [part[name] for part in parts if name in part]
        numbers = {key for key in own[-1] if all(isinstance(one[key], float) for one in own)}
        merged[name] = own[-1] | {key: float(np.mean([one[key] for one in own])) for key in sorted(numbers)}
        if f"{RATIO} ci95" in own[-1]:
            merged[name][f"{RATIO} ci95"] = np.mean([one[f"{RATIO} ci95"] for one in own], axis=0).tolist()
    return merged


def is_calibrated(measured: Mapping[str, Any]) -> bool:
    """Return whether predicted / observed is 1 within the noise of the users, or close to it."""
    low, high = measured.get(f"{RATIO} ci95", (0.0, np.inf))
    return bool(low <= 1 + MAX_MISCALIBRATION and high >= 1 - MAX_MISCALIBRATION)


def _ratio_over_users(labels: np.ndarray, predicted: np.ndarray, users: np.ndarray) -> list[float]:
    """Return the 95% interval of predicted / observed, resampling users with all of their rows."""
    _, index = np.unique(users, return_inverse=True)
    return list(ratio_interval(np.bincount(index, predicted), np.bincount(index, labels), seed=0))


def _has_both_labels(labels: np.ndarray, users: np.ndarray) -> bool:
    """Return whether some user has both labels."""
    reached, all_of_them = np.bincount(users, labels), np.bincount(users)
    return bool(((reached > 0) & (reached < all_of_them)).any())


def _by_popularity(labels: np.ndarray, predicted: np.ndarray, popularity: np.ndarray) -> list[float | None]:
    """Return predicted / observed by decile of item popularity, rare items first; None without a positive."""
    parts = np.array_split(np.argsort(popularity, kind="stable"), DECILES)
    return [_ratio(labels, predicted, part) for part in parts]


def _ratio(labels: np.ndarray, predicted: np.ndarray, rows: np.ndarray) -> float | None:
    """Return predicted / observed of some rows, None without a positive."""
    return predicted_over_observed(labels[rows], predicted[rows]) if labels[rows].sum() > 0 else None
