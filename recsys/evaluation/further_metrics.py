"""Metrics beside recall and NDCG: what of the list is right, new or unexpected, and how the catalogue shares in it.

Shapes: B queries, b in a batch, K positions of a ranking, N items of the catalogue, U users of all splits, M targets, P pairs.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.contracts import PAD
from recsys.metrics import OF_HITS, hits
from recsys.replay.evaluation_queries import EvaluationQueries

POSITIONS = 10
"""number of first positions that are measured"""
ACCURACY = ("precision", "hit_rate", "mrr", "map")
"""metrics of the hits"""
CATALOGUE_METRICS = {"coverage@10": "coverage", "entropy@10": "entropy"}
"""metric of all users together -> its name in `CatalogueShares`"""
TITLES = {
    "precision@10": "precision",
    "hit_rate@10": "hit\nrate",
    "mrr@10": "MRR",
    "map@10": "MAP",
    "novelty@10": "novelty\nbits",
    "serendipity@10": "seren-\ndipity",
    "entropy@10": "entropy\nbits",
}
"""metric -> its title"""


def further_metrics(queries: EvaluationQueries, ranking: np.ndarray) -> dict[str, np.ndarray]:
    """Return `recsys.metrics.FURTHER_METRICS` -> [B] float64 of a ranking [B, K]."""
    popularity, top = queries.known.popularity, ranking[:, :POSITIONS]
    found = hits(top, queries.targets)
    information = self_information(popularity, len(np.unique(queries.known.users)))
    return {
        **{f"{name}@10": OF_HITS[name](found, queries.targets.num_targets, POSITIONS) for name in ACCURACY},
        "novelty@10": novelty(top, information),
        "serendipity@10": serendipity(found, unexpected(top, popularity, queries.removed)),
    }


def self_information(popularity: np.ndarray, num_users: int) -> np.ndarray:
    """Return [N] bits, log2 of the users over those of the item before the period, at least one (Zhou et al., PNAS 2010)."""
    return np.log2(np.maximum(num_users, popularity) / np.maximum(popularity, 1))


def novelty(top: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return [B] bits, mean self-information [N] of the listed items [B, K]; 0 for an empty list.

    Mean self-information, as in Vargas and Castells, Rank and relevance in novelty and diversity metrics, RecSys 2011.
    """
    listed = top != PAD
    return np.where(listed, information[top], 0.0).sum(axis=1) / np.maximum(listed.sum(axis=1), 1)


def serendipity(found: np.ndarray, unexpected: np.ndarray) -> np.ndarray:
    """Return [B] float64, share of the positions [B, K] that hold a target which was not expected.

    Ge, Delgado-Battenfeld and Jannach, Beyond accuracy, RecSys 2010: useful items that a primitive model does
    not recommend. The primitive model is the most popular items (`unexpected`).
    """
    return (found & unexpected).sum(axis=1) / found.shape[1]


def unexpected(top: np.ndarray, popularity: np.ndarray, removed: sparse.csr_array) -> np.ndarray:
    """Return [B, K] bool, listed items that are not among the K most popular ones [N] of those a user may be shown.

    removed: [B, N] nonzero where an item may not be shown. Equal popularity follows the order of the catalogue.
    """
    num_items, queries = len(popularity), np.arange(len(top))[:, None]
    rank = np.empty(num_items, dtype=np.int64)
    rank[np.argsort(-popularity, kind="stable")] = np.arange(num_items)
    barred = np.sort(np.repeat(queries[:, 0], np.diff(removed.indptr)) * num_items + rank[removed.indices])
    more_popular = np.searchsorted(barred, queries * num_items + rank[top]) - removed.indptr[:-1, None]
    return (top != PAD) & (rank[top] - more_popular >= top.shape[1])


@dataclass(frozen=True, kw_only=True)
class CatalogueShares:
    """Coverage and entropy of what all users are shown, with the same figures without each user."""

    coverage: float
    """share of the catalogue that is shown"""
    coverage_without: np.ndarray
    """[U]"""
    entropy: float
    """bits, of the distribution of the shown items (Shannon 1948); 2 to the power of it is an effective number of items"""
    entropy_without: np.ndarray
    """[U]"""

    @staticmethod
    def of(top: np.ndarray, users: np.ndarray, num_items: int) -> "CatalogueShares":
        """Count the items [B, K] shown to users [B], from 0 to U - 1."""
        listed = top != PAD
        pairs, shown = np.unique((users[:, None] * num_items + top)[listed], return_counts=True)
        of_pair, items = np.divmod(pairs, num_items)
        total = np.bincount(items, shown, num_items)
        left, num_users = total[items] - shown, users.max() + 1
        lost = np.bincount(of_pair, left == 0, num_users)
        taken = np.bincount(of_pair, _weighted(total[items]) - _weighted(left), num_users)
        covered, sums = np.count_nonzero(total), total.sum() - np.bincount(of_pair, shown, num_users)
        return CatalogueShares(
            coverage=covered / num_items,
            coverage_without=(covered - lost) / num_items,
            entropy=float(_entropy(_weighted(total).sum(), total.sum())),
            entropy_without=_entropy(_weighted(total).sum() - taken, sums),
        )


def _weighted(counts: np.ndarray) -> np.ndarray:
    return counts * np.log2(np.maximum(counts, 1))


def _entropy(weighted: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Entropy of counts from the sum of count * log2(count) and their sum; 0 where nothing is shown."""
    return np.maximum(np.log2(np.maximum(total, 1)) - weighted / np.maximum(total, 1), 0.0)
