"""Full-ranking metrics, vectorised over users, with pessimistic ties.

Shapes: B users, N items of the catalogue, K positions of a ranking, M relevant items of all users together.
A ranking is [B, K] int64 catalogue rows, best first, PAD in empty positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from recsys.contracts import PAD

K = 500
"""positions of a ranking that are evaluated"""
METRICS = (
    "recall@10",
    "ndcg@10",
    "recall@100",
    "recall@500",
    "debiased_ndcg@10",
    "micro_recall@10",
    "micro_recall@100",
)
"""metrics with one value per user"""
FURTHER_METRICS = ("precision@10", "hit_rate@10", "mrr@10", "map@10", "novelty@10", "serendipity@10")
"""metrics with one value per user that are measured on all queries and on no slice (recsys/evaluation/further_metrics.py)"""
_LAST_ROW = np.uint64(2**31 - 1)
_NOT_A_TARGET = np.uint64(2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Relevant items of B users as compressed rows; every user has at least one, no item twice.

    ValueError when the rows are malformed: a user without targets has no recall and may not be averaged.
    """

    indptr: np.ndarray
    """[B + 1] int64, the items of user b are items[indptr[b]:indptr[b + 1]]"""
    items: np.ndarray
    """[M] int64, catalogue rows"""

    def __post_init__(self) -> None:
        if len(self.indptr) < 2 or self.indptr[0] != 0 or self.indptr[-1] != len(self.items):
            raise ValueError(f"indptr must run from 0 to {len(self.items)} over at least one user")
        if (empty := np.flatnonzero(self.num_targets < 1)).size:
            raise ValueError(f"user row {empty[0]} has no targets; leave users without targets out")
        if (self.items < 0).any():
            raise ValueError("targets hold a negative item; catalogue rows start at 0")
        if np.unique(_pair_keys(self.users, self.items, self.items.max() + 1)).size < len(self.items):
            raise ValueError("a user has the same target twice; targets are sets")

    @staticmethod
    def of(lists: Sequence[Sequence[int]]) -> "Targets":
        """Build from one sequence of catalogue rows per user."""
        indptr = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return Targets(indptr=indptr, items=np.array([item for row in lists for item in row], dtype=np.int64))

    def only(self, kept: np.ndarray) -> "tuple[np.ndarray, Targets]":
        """Keep targets [M] bool; return the ascending rows of the users who still have one, and their targets."""
        left = np.bincount(self.users[kept], minlength=len(self.indptr) - 1)
        rows = np.flatnonzero(left)
        return rows, Targets(indptr=np.concatenate([[0], np.cumsum(left[rows])]), items=self.items[kept])

    def batch(self, rows: slice) -> "Targets":
        """Return the targets of consecutive users."""
        indptr = self.indptr[rows.start : rows.stop + 1]
        return Targets(indptr=indptr - indptr[0], items=self.items[indptr[0] : indptr[-1]])

    @property
    def num_targets(self) -> np.ndarray:
        """[B] int64."""
        return np.diff(self.indptr)

    @property
    def users(self) -> np.ndarray:
        """Return [M] int64, the user row of each item."""
        return np.repeat(np.arange(len(self.indptr) - 1), self.num_targets)


def rank_scores(
    scores: np.ndarray, k: int, excluded: np.ndarray | sparse.sparray | sparse.spmatrix, targets: Targets
) -> np.ndarray:
    """Return the k best items of every user, [B, k] int64, where a target loses against every equal score.

    `scores` [B, N] are compared as float32; `excluded` [B, N] is a bool array or a sparse matrix (nonzero entries are
    excluded). Excluded, NaN and -inf entries are never listed, and a target among them cannot be hit. A constant
    scorer therefore hits nothing as soon as k other items tie. Equal non-targets follow the order of the catalogue.
    """
    keys = _sortable(scores, excluded)
    if len(targets.indptr) - 1 != len(keys):
        raise ValueError(
            f"scores have {len(keys)} rows, targets {len(targets.indptr) - 1}; give one row a user to both"
        )
    keys[targets.users, targets.items] &= ~_NOT_A_TARGET
    return _largest(keys, k)


def score_hits(
    scores: np.ndarray, k: int, excluded: np.ndarray | sparse.sparray | sparse.spmatrix, targets: Targets
) -> np.ndarray:
    """Return `hits` of `rank_scores`, [B, k] bool, by counting the items before each target. Much faster than ranking."""
    values = scores.astype(np.float32)
    values[np.isnan(values)] = -np.inf
    values[_excluded_index(excluded)] = -np.inf
    own = values[targets.users, targets.items]
    values[targets.users, targets.items] = -np.inf
    before = np.array([np.count_nonzero(values[user] >= one) for user, one in zip(targets.users, own, strict=True)])
    order = np.lexsort((targets.items, -own, targets.users))
    positions = before[order] + np.arange(len(order)) - np.repeat(targets.indptr[:-1], targets.num_targets)
    found = np.zeros((len(values), k), dtype=bool)
    listed = (positions < k) & (own[order] > -np.inf)
    found[targets.users[listed], positions[listed]] = True
    return found


def hits(ranking: np.ndarray, targets: Targets) -> np.ndarray:
    """Return [B, K] bool, positions that hold a target. ValueError when a target is listed twice for one user."""
    num_users = len(targets.indptr) - 1
    if ranking.ndim != 2 or len(ranking) != num_users:
        raise ValueError(
            f"the ranking has shape {ranking.shape}, wanted ({num_users}, K), one row a user of the targets"
        )
    stride = 1 + max(ranking.max(initial=PAD), targets.items.max())
    target_keys = np.sort(_pair_keys(targets.users, targets.items, stride))
    shown = _pair_keys(np.arange(num_users)[:, None], ranking, stride)
    slot = np.minimum(np.searchsorted(target_keys, shown), len(target_keys) - 1)
    found = (target_keys[slot] == shown) & (ranking != PAD)
    if np.unique(shown[found]).size < np.count_nonzero(found):
        raise ValueError("the ranking lists an item twice for one user; a ranking has every item once")
    return found


def recall(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64, share of a user's targets in the first k positions.

    The denominator is the number of targets, not min(k, that), so a user with more than k targets cannot reach 1.
    """
    return _first(hits, k).sum(axis=1) / num_targets


def ndcg(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64: binary gain, discount 1 / log2(1 + rank), ideal over min(k, number of targets).

    Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002.
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(num_targets, k) - 1]
    return _first(hits, k) @ discounts / ideal


def precision(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64, share of the first k positions that hold a target."""
    return _first(hits, k).sum(axis=1) / k


def hit_rate(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64, 1 for users with a target in the first k positions."""
    return _first(hits, k).any(axis=1).astype(np.float64)


def reciprocal_rank(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64, 1 / rank of the first target, 0 behind position k; its mean is MRR@k (Voorhees, TREC-8 1999)."""
    shown = _first(hits, k)
    return shown.any(axis=1) / (1 + shown.argmax(axis=1))


def average_precision(hits: np.ndarray, num_targets: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64, sum of the precisions at the ranks of the found targets over min(k, number of targets).

    Its mean is MAP@k (Manning, Raghavan and Schütze 2008, 8.4, cut off at k).
    """
    shown = _first(hits, k)
    return (shown * shown.cumsum(axis=1)) @ (1 / np.arange(1, k + 1)) / np.minimum(num_targets, k)


OF_HITS = {
    "recall": recall,
    "ndcg": ndcg,
    "precision": precision,
    "hit_rate": hit_rate,
    "mrr": reciprocal_rank,
    "map": average_precision,
}
"""metrics that need only the hits, by name: (hits [B, K], number of targets [B], k) -> [B]"""


def reordered_ndcg(labels: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return [B'] `ndcg` of candidates [B, C] sorted by score, stable, of the B' lists with a positive label.

    A candidate whose label is NaN is in no list.
    """
    positive = labels > 0
    reached = positive.any(axis=1)
    positive = positive[reached]
    order = np.where(np.isnan(labels), np.inf, -scores)[reached].argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(positive, order, axis=1)
    return ndcg(ordered, positive.sum(axis=1), min(k, labels.shape[1]))


def debiased_ndcg(ranking: np.ndarray, targets: Targets, weights: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64: `ndcg` with gain weights[item] instead of 1; weights [N] above 0.

    With inverse propensities as weights and the mean over users weighted by `ideal_gains`, it is the self-normalised
    inverse propensity estimate of NDCG under equal exposure of all items: sum of the gains over sum of the ideal
    gains. Yang et al., Unbiased offline recommender evaluation for missing-not-at-random implicit
    feedback, RecSys 2018. (Normalised within each user, as there, the weight of a single target would cancel out.)
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    shown = _first(ranking, k)
    gains = np.where(hits(shown, targets), weights[shown], 0.0)
    return gains @ discounts / ideal_gains(targets, weights, k)


def ideal_gains(targets: Targets, weights: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64, discounted gain of each user's k heaviest targets in the best order."""
    gains = weights[targets.items]
    order = np.lexsort((-gains, targets.users))
    position = np.arange(len(order)) - np.repeat(targets.indptr[:-1], targets.num_targets)
    discounted = np.where(position < k, gains[order] / np.log2(position + 2), 0.0)
    return np.bincount(targets.users, weights=discounted)


def inverse_propensities(popularity: np.ndarray) -> np.ndarray:
    """Return [N] float64: 1 / sqrt(events of the item), at least one event each.

    The square root of popularity models the propensity of an interaction, as in Saito et al., Unbiased recommender
    learning from missing-not-at-random implicit feedback, WSDM 2020.
    """
    return 1 / np.sqrt(np.maximum(popularity, 1.0))


def shown_items(ranking: np.ndarray, num_items: int, k: int) -> np.ndarray:
    """Return [N] bool, items in the first k positions of any user; their share of the catalogue is coverage@k."""
    rows = np.unique(_first(ranking, k))
    if rows.size and rows[-1] >= num_items:
        raise ValueError(f"the ranking lists catalogue row {rows[-1]}, the catalogue has {num_items} items")
    shown = np.zeros(num_items, dtype=bool)
    shown[rows[rows != PAD]] = True
    return shown


def per_user(ranking: np.ndarray, targets: Targets, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return METRICS -> [B] float64; the ranking needs K positions (PAD for empty ones).

    `weights` [N] are those of `debiased_ndcg`.
    """
    found = hits(ranking, targets)
    recalls = {f"recall@{k}": recall(found, targets.num_targets, k) for k in (10, 100, 500)}
    return {
        **recalls,
        "ndcg@10": ndcg(found, targets.num_targets, 10),
        "debiased_ndcg@10": debiased_ndcg(ranking, targets, weights, 10),
        "micro_recall@10": recalls["recall@10"],
        "micro_recall@100": recalls["recall@100"],
    }


def weight_per_user(metric: str, targets: Targets, weights: np.ndarray) -> np.ndarray:
    """Return [B] float64 weights of the users in the mean of a metric: 1, or the number of targets for micro averages.

    A micro recall is the share of all targets of all users that were found; `weights` [N] as in `per_user`.
    """
    if metric == "debiased_ndcg@10":
        return ideal_gains(targets, weights, 10)
    return targets.num_targets.astype(np.float64) if metric.startswith("micro") else np.ones(len(targets.num_targets))


def _pair_keys(users: np.ndarray, items: np.ndarray, stride: int) -> np.ndarray:
    return users * np.int64(stride) + items


def _first(ranking: np.ndarray, k: int) -> np.ndarray:
    if not 1 <= k <= ranking.shape[1]:
        raise ValueError(
            f"k is {k}, the ranking has {ranking.shape[1]} positions; rank at least k (PAD fills empty positions)"
        )
    return ranking[:, :k]


def _sortable(scores: np.ndarray, excluded: np.ndarray | sparse.sparray | sparse.spmatrix) -> np.ndarray:
    """Return sort keys [B, N] uint64, larger is better, unique within a row: score (32 bits), not a target (1), row (31).

    Floats with the sign handled compare like their bits, so one integer sort breaks all ties. 0 means not listed; every
    finite score gives more.
    """
    if scores.ndim != 2 or excluded.shape != scores.shape:
        raise ValueError(f"scores have shape {scores.shape}, excluded {excluded.shape}; wanted [B, N] for both")
    values = scores.astype(np.float32) + np.float32(0)  # + 0 makes -0.0 and 0.0 equal
    bits = values.view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(2**31))
    ties = _NOT_A_TARGET | (_LAST_ROW - np.arange(scores.shape[1], dtype=np.uint64))
    keys = (ordered.astype(np.uint64) << np.uint64(32)) | ties
    keys[np.isnan(values) | np.isneginf(values)] = 0
    keys[_excluded_index(excluded)] = 0
    return keys


def _excluded_index(excluded: np.ndarray | sparse.sparray | sparse.spmatrix) -> Any:
    if sparse.issparse(excluded):
        return excluded.nonzero()
    if excluded.dtype != np.bool_:
        raise ValueError(f"excluded is an array of {excluded.dtype}; wanted bool or a sparse matrix")
    return excluded


def _largest(keys: np.ndarray, k: int) -> np.ndarray:
    num_users, num_items = keys.shape
    if k < 1 or num_items < 1:
        raise ValueError(f"cannot rank the {k} best of {num_items} items; both must be at least 1")
    width = min(k, num_items)
    best = np.partition(keys, num_items - width, axis=1)[:, num_items - width :]
    best = np.sort(best, axis=1)[:, ::-1]
    ranking = np.full((num_users, k), PAD, dtype=np.int64)
    ranking[:, :width] = np.where(best > 0, (_LAST_ROW - (best & _LAST_ROW)).astype(np.int64), PAD)
    return ranking
