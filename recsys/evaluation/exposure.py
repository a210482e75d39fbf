"""Whom the pages show: how evenly exposure is spread over the items and over the groups that they belong to.

Shapes: B users, K places of a ranking, N items of the catalogue, V values of a column, D dim of the units.
"""

import numpy as np
from scipy import sparse

from recsys.contracts import PAD
from recsys.evaluation.interactions import Histories


def exposure(ranking: np.ndarray, num_items: int, k: int, *, discounted: bool) -> np.ndarray:
    """[N] float64, how often each item stands in the first k places of rankings [B, K], PAD in empty ones.

    discounted: a place counts 1 / log2(place + 2), place from 0, as in DCG, in the place of 1.
    """
    places = ranking[:, :k]
    worth = 1 / np.log2(np.arange(places.shape[1]) + 2) if discounted else np.ones(places.shape[1])
    shown = places != PAD
    return np.bincount(places[shown], np.broadcast_to(worth, places.shape)[shown], minlength=num_items)


def gini(weights: np.ndarray) -> float:
    """Of exposure [N]: 0 where all items have the same, 1 - 1 / N where one has everything.

    Half of the mean difference between two items over the mean. Nothing shown at all is even.
    """
    num, total = len(weights), weights.sum()
    rising = np.arange(1, num + 1) @ np.sort(weights)
    return float(2 * rising / (num * total) - (num + 1) / num) if total > 0 else 0.0


def top_share(weights: np.ndarray, share: float) -> float:
    """What the most shown items have of the exposure [N]: `share` of the catalogue, rounded down, at least one item."""
    num = max(1, int(share * len(weights)))
    return float(np.sort(weights)[-num:].sum() / max(weights.sum(), 1e-300))


def distance(shares: np.ndarray, wanted: np.ndarray) -> float:
    """Half the sum of all differences of two shares [V]: what part of the exposure would have to change hands.

    With the catalogue as `wanted` it measures demographic parity of exposure, with relevance disparate treatment: Singh
    and Joachims, Fairness of Exposure in Rankings, KDD 2018.
    """
    return float(np.abs(shares - wanted).sum() / 2)


def intra_list_distance(ranking: np.ndarray, units: sparse.csr_array, k: int) -> np.ndarray:
    """[B] float64, mean over pairs of the first k places of 1 - cosine of their units [N, D]; 0 for a single item.

    Ziegler et al., Improving Recommendation Lists Through Topic Diversification, WWW 2005. The squared length of the sum
    of a page's vectors holds the cosines of all its pairs.
    """
    pages = _pages(ranking, units.shape[0], k)
    lengths = units.multiply(units).sum(axis=1)
    together = pages @ units
    num = np.diff(pages.indptr)
    cosines = together.multiply(together).sum(axis=1) - pages @ lengths
    return np.where(num > 1, 1 - cosines / np.maximum(num * (num - 1), 1), 0.0)


def average_popularity(ranking: np.ndarray, popularity: np.ndarray, k: int) -> np.ndarray:
    """[B] float64, mean popularity [N] of the first k places; 0 for an empty page.

    Abdollahpouri, Burke and Mobasher, Managing Popularity Bias in Recommender Systems with Personalized Re-ranking,
    FLAIRS 2019.
    """
    pages = _pages(ranking, len(popularity), k)
    return (pages @ popularity) / np.maximum(np.diff(pages.indptr), 1)


def popularity_lift(ranking: np.ndarray, popularity: np.ndarray, histories: Histories, k: int) -> float | None:
    """How much more popular the pages are than what their users met before: 0 alike, 1 twice as popular.

    Mean over users of the mean popularity, of pages over histories, - 1, of those who have both; None without any.
    Abdollahpouri et al., The Unfairness of Popularity Bias in Recommendation, 2019 (group average popularity).
    """
    own = np.bincount(histories.users, popularity[histories.items], minlength=len(histories))
    asked = (histories.lengths > 0) & (ranking[:, 0] != PAD)
    before = own[asked] / histories.lengths[asked]
    if not before.sum() > 0:
        return None
    return float(average_popularity(ranking[asked], popularity, k).mean() / before.mean() - 1)


def _pages(ranking: np.ndarray, num_items: int, k: int) -> sparse.csr_array:
    """[B, N] float64, 1 for what stands in the first k places."""
    places = ranking[:, :k]
    shown = places != PAD
    indptr = np.concatenate([[0], np.cumsum(shown.sum(axis=1))])
    return sparse.csr_array((np.ones(indptr[-1]), places[shown], indptr), shape=(len(places), num_items))
