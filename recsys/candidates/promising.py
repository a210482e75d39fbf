"""What nobody has met yet, by the popularity that its content lets expect: the same list for everybody.

Shapes: N items, V values and numbers of the catalogue.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator, lsqr

from recsys.candidates.content import one_hot
from recsys.candidates.contract import Known, check_source
from recsys.candidates.lists import DAY, ItemList, check_kept
from recsys.errors import check_ranges

FLOOR = 0.1
"""of the mean popularity, added before the logarithm, so that items met once long ago are not minus infinity"""
TOLERANCE = 1e-9
"""relative, of the coefficients"""


class Promising:
    """How to fit the list: ridge regression of log popularity on content, over the items that were met.

    Popularity fades with the age of an event. Beside towers with id dropout it has not been shown to help
    (benchmarks/cold_items.py); alone it fills places for whom nothing else is known.
    """

    def __init__(
        self, *, num: int, weights: Sequence[float], kept: int, half_life_days: float, regularisation: float
    ) -> None:
        """
        num: candidates it offers a query
        weights: of its scores in the merge, to choose from
        kept: length of the stored list
        half_life_days: an event so much older than the newest counts half; without time all count alike
        regularisation: of the squared coefficients
        """
        self.num, self.weights, self.kept = num, tuple(weights), kept
        self.half_life_days, self.regularisation = half_life_days, regularisation
        self.decays: tuple[float, ...] = ()
        check_source("promising", num, self.weights)
        check_kept("promising", kept, num)
        check_ranges(
            "candidates.promising",
            half_life_days=(half_life_days, 1e-3, 1e6),
            regularisation=(regularisation, 1e-6, 1e9),
        )

    def fit(self, known: Known) -> ItemList | None:
        """None when the catalogue has neither categories nor numbers."""
        content = _content(known)
        if not content.shape[1]:
            return None
        cold = np.setdiff1d(np.arange(known.num_items), known.items)
        expected = self._expected(content, self._popularity(known), np.unique(known.items))[cold]
        order = np.lexsort((cold, -expected))[: self.kept]
        return ItemList(rows=cold[order], scores=_shares(expected[order]))

    def _popularity(self, known: Known) -> np.ndarray:
        """[N] faded number of events."""
        age = np.nan_to_num(known.timestamps.max() - known.timestamps) / DAY
        return np.bincount(known.items, np.exp2(-age / self.half_life_days), minlength=known.num_items)

    def _expected(self, content: sparse.csr_array, popularity: np.ndarray, met: np.ndarray) -> np.ndarray:
        """[N] log popularity, of all items by the coefficients of those that were met."""
        wanted = np.log(popularity[met] + FLOOR * popularity[met].mean())
        centre = content[met].mean(axis=0)
        ones = np.ones((len(met), 1))
        centred = aslinearoperator(content[met]) - aslinearoperator(ones) @ aslinearoperator(centre[None])
        damp = np.sqrt(self.regularisation)
        coefficients = lsqr(centred, wanted - wanted.mean(), damp=damp, atol=TOLERANCE, btol=TOLERANCE)[0]
        return content @ coefficients + wanted.mean() - centre @ coefficients


def _content(known: Known) -> sparse.csr_array:
    """[N, V] of categories and numbers; words and looks promise too little to be worth their coefficients."""
    numbers = known.table.encoded.get("numbers", np.zeros((known.num_items + 1, 0)))[:-1]
    return sparse.csr_array(sparse.hstack([one_hot(known), sparse.csr_array(numbers)], dtype=np.float64))


def _shares(expected: np.ndarray) -> np.ndarray:
    """Falling numbers -> evenly from 1 for the first to 0 for the last; 1 where all are alike."""
    spread = np.ptp(expected) if len(expected) else 0.0
    return ((expected - expected[-1]) / spread if spread > 0 else np.ones(len(expected))).astype(np.float32)
