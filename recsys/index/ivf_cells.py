"""Cells of a faiss IVF index: items go to the nearest centroid, queries visit the cells with the best expected item.

faiss also assigns by inner product, which gives all items to the longest centroids where norms differ, and visits cells by
the score of their centroid alone. For a cell of n items around centroid c with a root mean square distance r the best
item is expected at q.c + ||q|| r sqrt(2 ln n / D), the largest of n Gaussian residuals.

Shapes: B queries, D dim, K results, P cells visited.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np

from recsys.contracts import PAD

POINTS_PER_CELL = 64
"""training items of k-means per cell"""


def nested_indexes(index: faiss.Index) -> Iterator[faiss.Index]:
    """An index and all indexes inside it."""
    yield index
    for name in ("index", "base_index"):
        if hasattr(index, name):
            yield from nested_indexes(faiss.downcast_index(getattr(index, name)))


@contextmanager
def euclidean_assignment(index: faiss.Index) -> Iterator[None]:
    """Context to train and add in: cells are assigned by Euclidean distance; searches outside use the inner product."""
    inside = [part for part in nested_indexes(index) if isinstance(part, faiss.IndexIVF)]
    flat = [part for part in inside if isinstance(faiss.downcast_index(part.quantizer), faiss.IndexFlat)]
    for part in flat:
        part.cp.spherical, part.cp.max_points_per_centroid = False, POINTS_PER_CELL
        part.quantizer.metric_type = faiss.METRIC_L2
    try:
        yield
    finally:
        for part in flat:
            part.quantizer.metric_type = faiss.METRIC_INNER_PRODUCT


class IVFCells:
    """Cell selection and search of an IVF index, also one inside RFlat."""

    def __init__(self, index: faiss.Index) -> None:
        self.index = index
        self.ivf = faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index
        self.centroids = self.ivf.quantizer.reconstruct_n(0, self.ivf.nlist)
        self.sizes = np.zeros(self.ivf.nlist, dtype=np.int64)
        self.bonuses = np.full(self.ivf.nlist, -np.inf, dtype=np.float32)
        """[cells] expected score of the best item above the centroid's, for a query of norm 1"""

    @staticmethod
    def supports(index: faiss.Index) -> bool:
        """Whether an index is an IVF index with flat centroids, or one inside RFlat."""
        inner = faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index
        return isinstance(inner, faiss.IndexIVF) and isinstance(faiss.downcast_index(inner.quantizer), faiss.IndexFlat)

    def search(self, queries: np.ndarray, k: int, selector: faiss.IDSelector | None) -> np.ndarray:
        """Rows [B, K] of the best candidates by the scores of faiss' codes, PAD where there are too few."""
        self._refresh_bonuses()
        assigned, scores = self._cells_to_visit(queries)
        found, rows = np.empty((len(queries), k), np.float32), np.full((len(queries), k), PAD)
        given = [faiss.swig_ptr(array) for array in (assigned, scores, found, rows)]
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=assigned.shape[1])
        self.ivf.search_preassigned_c(len(queries), faiss.swig_ptr(queries), k, *given, False, parameters)
        return rows

    def _cells_to_visit(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cells [B, P] int64 by expected best score, best first, and the scores [B, P] of their centroids."""
        scores = queries @ self.centroids.T
        expected = scores + np.linalg.norm(queries, axis=1, keepdims=True) * self.bonuses
        num = min(self.ivf.nprobe, len(self.sizes))
        cells = np.argpartition(-expected, num - 1, axis=1)[:, :num]
        cells = np.take_along_axis(cells, np.take_along_axis(-expected, cells, axis=1).argsort(axis=1), axis=1)
        return np.ascontiguousarray(cells), np.take_along_axis(scores, cells, axis=1)

    def _refresh_bonuses(self) -> None:
        if self.sizes.sum() == self.ivf.ntotal:
            return
        sizes = np.array([self.ivf.get_list_size(cell) for cell in range(self.ivf.nlist)])
        for cell in np.flatnonzero(sizes != self.sizes):
            self.bonuses[cell] = self._bonus(int(cell), int(sizes[cell]))
        self.sizes = sizes

    def _bonus(self, cell: int, size: int) -> float:
        rows = faiss.rev_swig_ptr(self.ivf.invlists.get_ids(cell), size).copy()
        residuals = self.index.reconstruct_batch(rows) - self.centroids[cell]
        dim = max(self.ivf.d, 1)
        return float(np.sqrt((residuals**2).sum(axis=1).mean() * 2 * np.log(size) / dim))
