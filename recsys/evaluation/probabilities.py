"""Calibration and ranking metrics of the predicted probabilities of one objective.

Shapes: R rows, Q bins.
"""

from dataclasses import dataclass

import numpy as np

from recsys.errors import DataError

BINS = 20
"""of equal mass, for the calibration error"""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Mean prediction and observed rate in bins of equal mass."""

    predicted: np.ndarray
    """[Q] mean prediction"""
    observed: np.ndarray
    """[Q] share of positives"""
    sizes: np.ndarray
    """[Q] rows"""

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends [Q] of the 95% interval of each observed rate (Wilson 1927), for labels of 0 and 1 of independent rows."""
        z, rows, rate = 1.959964, self.sizes, self.observed
        middle = (rate + z**2 / (2 * rows)) / (1 + z**2 / rows)
        half = z / (1 + z**2 / rows) * np.sqrt(rate * (1 - rate) / rows + (z / (2 * rows)) ** 2)
        return np.clip(middle - half, 0.0, rate), np.clip(
            middle + half, rate, 1.0
        )  # rounding moves an end across a rate of 0

    @property
    def error(self) -> float:
        """Expected calibration error: mean |predicted - observed| over rows (Naeini et al. 2015, of equal mass)."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.sizes))


def reliability(labels: np.ndarray, predicted: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin predictions [R] against labels [R] of 0 and 1, or true probabilities. Equal predictions share a bin."""
    _, value, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    middles = (np.cumsum(counts) - counts / 2) / len(predicted)
    own = np.minimum((middles * bins).astype(int), bins - 1)[value]
    sizes = np.bincount(own, minlength=bins)
    full = np.flatnonzero(sizes)
    sums = (np.bincount(own, one, bins)[full] for one in (predicted, labels))
    predicted, observed = (one / sizes[full] for one in sums)
    return Reliability(predicted=predicted, observed=observed, sizes=sizes[full])


def chance_error(predicted: np.ndarray, draws: int = 50, bins: int = BINS) -> float:
    """Return the expected calibration error of perfect predictions [R], by labels sampled from them."""
    rng = np.random.default_rng(0)
    drawn = (rng.random(len(predicted)) < predicted for _ in range(draws))
    return float(np.mean([reliability(one.astype(float), predicted, bins).error for one in drawn]))


def log_loss(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean negative log likelihood of labels [R] in nats."""
    predicted = np.asarray(predicted, dtype=np.float64).clip(1e-9, 1 - 1e-9)
    return float(-(labels * np.log(predicted) + (1 - labels) * np.log1p(-predicted)).mean())


def normalised_entropy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return log loss over that of the base rate (He et al. 2014): below 1 is better than the base rate.

    DataError when all labels are equal.
    """
    _check_both(labels)
    return log_loss(labels, predicted) / log_loss(labels, np.full(len(labels), labels.mean()))


def predicted_over_observed(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the ratio of mean prediction and observed rate; 1 is calibrated on average."""
    return float(predicted.mean() / labels.mean())


def auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the probability that a positive scores above a negative, a tie counts half (Hanley and McNeil 1982); [R] each.

    weights: multiplicity of each row. DataError when all labels of positive weight are equal.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    _check_both(labels[weights > 0])
    _, index = np.unique(scores, return_inverse=True)
    positives = np.bincount(index, weights * labels)
    negatives = np.bincount(index, weights * (1 - labels))
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / (positives.sum() * negatives.sum()))


def auc_per_user(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """Return the mean AUC over users with both labels, the quality of the order within a user; [R] each, users int64."""
    aucs, _ = _group_aucs(labels, scores, users)
    if not len(aucs):
        raise DataError("no user has both a positive and a negative; give more events to learn what a user prefers")
    return float(aucs.mean())


def group_auc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float | None:
    """Return GAUC, the mean AUC over groups with both labels weighted by their rows (Zhu et al. 2018); [R] each, groups int64.

    None where no group has both labels.
    """
    aucs, rows = _group_aucs(labels, scores, groups)
    return float(np.average(aucs, weights=rows)) if len(aucs) else None


def _group_aucs(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AUC and number of rows of each group with both labels, [G] each."""
    _, scores = np.unique(scores, return_inverse=True)
    _, groups = np.unique(groups, return_inverse=True)
    order = np.lexsort((scores, groups))
    groups, labels, scores = groups[order], labels[order], scores[order]
    changed = (np.diff(groups) != 0) | (np.diff(scores) != 0)
    tied = np.concatenate([[0], np.cumsum(changed)])
    owner = groups[np.concatenate([[True], changed])]
    positives, negatives = (np.bincount(tied, weights=one) for one in (labels, 1 - labels))
    total = np.bincount(owner, weights=negatives)
    before = np.cumsum(negatives) - negatives / 2 - (np.cumsum(total) - total)[owner]
    pairs = np.bincount(owner, weights=positives) * total
    won = np.bincount(owner, weights=positives * before)
    return won[pairs > 0] / pairs[pairs > 0], np.bincount(groups)[pairs > 0]


def _check_both(labels: np.ndarray) -> None:
    if not len(labels) or labels.min() == labels.max():
        raise DataError("all labels are alike; an order or a likelihood against the base rate needs both kinds")
