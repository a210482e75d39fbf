"""Exposure metrics: concentration over items and groups, intra-list distance and popularity bias.

Shapes: B users, K positions of a ranking, N items of the catalogue, V values of a column, D dim of the units.
"""

import numpy as np
from scipy import sparse

from recsys.contracts import PAD
from recsys.replay.interactions import Histories


def exposure(ranking: np.ndarray, num_items: int, k: int, *, discounted: bool) -> np.ndarray:
    """Return [N] float64 counts of each item in the first k positions of rankings [B, K], PAD in empty ones.

    discounted: a position from 0 counts 1 / log2(position + 2), as in DCG, instead of 1.
    """
    top = ranking[:, :k]
    discount = 1 / np.log2(np.arange(top.shape[1]) + 2) if discounted else np.ones(top.shape[1])
    shown = top != PAD
    return np.bincount(top[shown], np.broadcast_to(discount, top.shape)[shown], minlength=num_items)


def gini(weights: np.ndarray) -> float:
    """Return the Gini coefficient of exposure [N]: 0 for equal exposure, 1 - 1 / N where one item has all.

    Half of the mean difference between two items over the mean; 0 without any exposure.
    """
    num, total = len(weights), weights.sum()
    rising = np.arange(1, num + 1) @ np.sort(weights)
    return float(2 * rising / (num * total) - (num + 1) / num) if total > 0 else 0.0


def top_share(weights: np.ndarray, share: float) -> float:
    """Return the exposure share of the most shown items: `share` of the catalogue, rounded down, at least one."""
    num = max(1, int(share * len(weights)))
    return float(np.sort(weights)[-num:].sum() / max(weights.sum(), 1e-300))


def distance(shares: np.ndarray, target: np.ndarray) -> float:
    """Return the total variation distance of two shares [V]: the part of the exposure that would have to move.

    With the catalogue as `target` it measures demographic parity of exposure, with relevance disparate treatment: Singh
    and Joachims, Fairness of Exposure in Rankings, KDD 2018.
    """
    return float(np.abs(shares - target).sum() / 2)


def intra_list_distance(ranking: np.ndarray, units: sparse.csr_array, k: int) -> np.ndarray:
    """Return [B] float64, mean over pairs of the first k positions of 1 - cosine of their units [N, D]; 0 for a single item.

    Ziegler et al., Improving Recommendation Lists Through Topic Diversification, WWW 2005. The squared length of the sum
    of a slate's vectors contains the cosines of all its pairs, so no pair is enumerated.
    """
    pages = _pages(ranking, units.shape[0], k)
    lengths = units.multiply(units).sum(axis=1)
    together = pages @ units
    num = np.diff(pages.indptr)
    cosines = together.multiply(together).sum(axis=1) - pages @ lengths
    return np.where(num > 1, 1 - cosines / np.maximum(num * (num - 1), 1), 0.0)


def average_popularity(ranking: np.ndarray, popularity: np.ndarray, k: int) -> np.ndarray:
    """Return [B] float64, mean popularity [N] of the first k positions; 0 for an empty slate.

    Abdollahpouri, Burke and Mobasher, Managing Popularity Bias in Recommender Systems with Personalized Re-ranking,
    FLAIRS 2019.
    """
    pages = _pages(ranking, len(popularity), k)
    return (pages @ popularity) / np.maximum(np.diff(pages.indptr), 1)


def popularity_lift(ranking: np.ndarray, popularity: np.ndarray, histories: Histories, k: int) -> float | None:
    """Return the popularity lift of slates over their users' histories: 0 equal, 1 twice as popular.

    Mean popularity of slates over that of histories, each a mean over the users who have both, - 1; None without any.
    Abdollahpouri et al., The Unfairness of Popularity Bias in Recommendation, 2019 (group average popularity).
    """
    own = np.bincount(histories.users, popularity[histories.items], minlength=len(histories))
    rows = (histories.lengths > 0) & (ranking[:, 0] != PAD)
    before = own[rows] / histories.lengths[rows]
    if not before.sum() > 0:
        return None
    return float(average_popularity(ranking[rows], popularity, k).mean() / before.mean() - 1)


def _pages(ranking: np.ndarray, num_items: int, k: int) -> sparse.csr_array:
    """Return [B, N] float64, 1 for items in the first k positions."""
    top = ranking[:, :k]
    shown = top != PAD
    indptr = np.concatenate([[0], np.cumsum(shown.sum(axis=1))])
    return sparse.csr_array((np.ones(indptr[-1]), top[shown], indptr), shape=(len(top), num_items))
