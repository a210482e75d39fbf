"""Rank cold items by popularity predicted from content, as a non-personalised list.

Shapes: N items, V values and numbers of the catalogue.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator, lsqr

from recsys.candidates.candidate_source import TrainingInteractions, check_source
from recsys.candidates.content import one_hot
from recsys.candidates.popularity import ItemList, check_kept
from recsys.errors import check_ranges
from recsys.features.encode import DAY

POPULARITY_SMOOTHING = 0.1
"""share of the mean popularity, added before the logarithm: an item with one old event would be near minus infinity"""
LSQR_TOLERANCE = 1e-9
"""relative, of the regression coefficients"""


class ColdItemPopularityModel:
    """Ridge regression of log popularity on content, fitted on items with interactions, applied to items without.

    Popularity decays with the age of an event. Beside towers with id dropout it has not been shown to help
    (benchmarks/claims/retrieval/cold_items.py); alone it gives candidates to users without a history.
    """

    def __init__(self, *, num: int, weight: float, kept: int, half_life_days: float, regularisation: float) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        kept: length of the stored list
        half_life_days: age before the newest event at which an event counts half; without timestamps all count 1
        regularisation: of the squared coefficients
        """
        self.num, self.weight, self.kept = num, weight, kept
        self.half_life_days, self.regularisation = half_life_days, regularisation
        self.decays: tuple[float, ...] = ()
        check_source("promising", num, self.weight)
        check_kept("promising", kept, num)
        check_ranges(
            "candidates.promising",
            half_life_days=(half_life_days, 1e-3, 1e6),
            regularisation=(regularisation, 1e-6, 1e9),
        )

    def fit(self, interactions: TrainingInteractions) -> ItemList | None:
        """Fit the list; None when the catalogue has neither categories nor numbers."""
        content = _content(interactions)
        if not content.shape[1]:
            return None
        cold = np.setdiff1d(np.arange(interactions.num_items), interactions.items)
        expected = self._expected(content, self._popularity(interactions), np.unique(interactions.items))[cold]
        order = np.lexsort((cold, -expected))[: self.kept]
        return ItemList(rows=cold[order], scores=_linear_scores(expected[order]))

    def _popularity(self, interactions: TrainingInteractions) -> np.ndarray:
        """[N] decayed number of events."""
        age = np.nan_to_num(interactions.timestamps.max() - interactions.timestamps) / DAY
        return np.bincount(interactions.items, np.exp2(-age / self.half_life_days), minlength=interactions.num_items)

    def _expected(self, content: sparse.csr_array, popularity: np.ndarray, interacted: np.ndarray) -> np.ndarray:
        """[N] log popularity, predicted for all items by coefficients fitted on the rows `interacted`."""
        target = np.log(popularity[interacted] + POPULARITY_SMOOTHING * popularity[interacted].mean())
        mean = content[interacted].mean(axis=0)
        ones = np.ones((len(interacted), 1))
        centred = aslinearoperator(content[interacted]) - aslinearoperator(ones) @ aslinearoperator(mean[None])
        damping = np.sqrt(self.regularisation)
        coefficients = lsqr(centred, target - target.mean(), damp=damping, atol=LSQR_TOLERANCE, btol=LSQR_TOLERANCE)[0]
        return content @ coefficients + target.mean() - mean @ coefficients


def _content(interactions: TrainingInteractions) -> sparse.csr_array:
    """[N, V] of categories and numbers; text and image vectors predict too little for their many coefficients."""
    numbers = interactions.table.encoded.get("numbers", np.zeros((interactions.num_items + 1, 0)))[:-1]
    return sparse.csr_array(sparse.hstack([one_hot(interactions), sparse.csr_array(numbers)], dtype=np.float64))


def _linear_scores(expected: np.ndarray) -> np.ndarray:
    """Scale descending values linearly to 1 for the first and 0 for the last; 1 where all are equal."""
    span = np.ptp(expected) if len(expected) else 0.0
    return ((expected - expected[-1]) / span if span > 0 else np.ones(len(expected))).astype(np.float32)
