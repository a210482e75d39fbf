"""faiss with the interface of the exact index: candidates by faiss, scores and order as in recsys.index.scores.

Calls into faiss are serialised: its GPU indexes are not safe even for readers, nor is a growing index (faiss#367, #4525).
With a GPU one thread of the index makes all calls; without one the calling thread does, because handing a search over costs
as much as a small search. Any thread may search, add and remove.

Shapes: B queries, N items, D dim, K results.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TypeVar

import faiss
import numpy as np

from recsys.contracts import PAD
from recsys.errors import ConfigError, check_ranges
from recsys.index.exact import ExactIndex
from recsys.index.ivf_cells import IVFCells, euclidean_assignment, nested_indexes
from recsys.index.scores import allowed_rows, check_k, check_rows, check_vectors, inner_products, oracle

RECALL_SAMPLE = 256
"""item vectors that stand in for queries when the recall of a new index is measured"""
FEW_VECTORS = 4_096
"""so many are scored at once, in less time than it takes to compile the exact scan, which numba does anew in each process"""

T = TypeVar("T")


class FaissIndex:
    """A faiss index over inner products; made by IndexBuilder or read from a bundle.

    Scores and `vectors` are exact where faiss keeps the vectors (Flat, IVF..,Flat, HNSW, everything with RFlat).
    """

    degraded: tuple[str, ...] = ()
    """flags of slates made by it: none"""

    def __init__(self, index: faiss.Index, alive: np.ndarray) -> None:
        """alive: [N] bool, False for rows that were removed."""
        self._index = index
        self._alive = alive
        self._cells = IVFCells(index) if IVFCells.supports(index) else None
        self._clone: faiss.Index | None = None
        self._lock = Lock()
        self._faiss_thread = ThreadPoolExecutor(1, "faiss") if faiss.get_num_gpus() else None

    def __len__(self) -> int:
        """Rows, removed ones too."""
        return len(self._alive)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._index.d

    @property
    def alive(self) -> np.ndarray:
        """[N] bool, False for rows that were removed."""
        return self._alive

    def to_exact(self) -> ExactIndex:
        """Copy the rows into an exact index."""
        exact = ExactIndex(self.vectors(np.arange(len(self))))
        exact.remove(np.flatnonzero(~self._alive))
        return exact

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Search as ExactIndex.search, approximately: more results may be PAD."""
        check_k(k)
        return self._exclusive(lambda: self._search(check_vectors(queries, self._index.d), min(k, len(self)), allowed))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors [.., D] float32 of rows [..], zeros where a row is PAD."""
        return self._exclusive(lambda: self._vectors(rows))

    def add(self, vectors: np.ndarray) -> np.ndarray:
        """Append vectors [M, D] without training; returns their rows [M]."""
        return self._exclusive(lambda: self._add(check_vectors(vectors, self._index.d)))

    def remove(self, rows: np.ndarray) -> None:
        """Exclude rows from all searches; `vectors` still returns them."""
        self._exclusive(lambda: self._remove(check_rows(rows, len(self))))

    def set_search_parameters(self, *, nprobe: int, ef_search: int, k_factor: float) -> None:
        """Set the breadth of the search, see IndexBuilder; stored with the index."""
        self._exclusive(lambda: _set_search_parameters(self._index, nprobe, ef_search, k_factor))
        self._clone = None

    def write(self, path: Path) -> None:
        """Write a faiss file, in which removed rows have the id PAD."""
        self._exclusive(lambda: faiss.write_index(self._with_ids(), str(path)))

    @staticmethod
    def read(path: Path) -> "FaissIndex":
        index = faiss.read_index(str(path))
        if not isinstance(index, faiss.IndexIDMap):
            return FaissIndex(index, np.ones(index.ntotal, dtype=bool))
        alive = faiss.vector_to_array(index.id_map) != PAD
        index.own_fields = False
        return FaissIndex(faiss.downcast_index(index.index), alive)

    def _exclusive(self, call: Callable[[], T]) -> T:
        if self._faiss_thread is not None:
            return self._faiss_thread.submit(call).result()
        with self._lock:
            return call()

    def _search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if k < 1 or not len(queries):
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        rows = np.concatenate([self._rows(own, k, mask) for own, mask in self._masked(queries, allowed)])
        scores = inner_products(queries[:, None], self._vectors(rows))
        scores[rows == PAD] = -np.inf
        order = np.lexsort((rows, -scores), axis=-1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _masked(self, queries: np.ndarray, allowed: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Group queries by mask: (queries, bool [N] or None for all rows)."""
        if allowed is None and self._alive.all():
            return [(queries, None)]
        masks = allowed_rows(allowed, self._alive, len(queries))
        if allowed is None or np.asarray(allowed).ndim == 1:
            return [(queries, masks[0])]
        return [(queries[at : at + 1], own) for at, own in enumerate(masks)]

    def _rows(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> np.ndarray:
        """Candidates [B, at least K] by faiss, in any order."""
        if mask is None and faiss.get_num_gpus():
            return self._on_gpus().search(queries, k)[1]
        bits = None if mask is None else np.packbits(mask, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(len(self), faiss.swig_ptr(bits))
        if self._cells is not None:
            wider = int(k * getattr(self._index, "k_factor", 1))
            return self._cells.search(queries, min(wider, len(self)), selector)
        return self._index.search(queries, k, params=selector and _selector_parameters(self._index, selector))[1]

    def _on_gpus(self) -> faiss.Index:
        if self._clone is None:
            self._clone = faiss.index_cpu_to_all_gpus(self._index)
        return self._clone

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        found = self._index.reconstruct_batch(np.maximum(rows, 0).reshape(-1)).reshape(*rows.shape, self._index.d)
        found[rows == PAD] = 0
        return found

    def _add(self, vectors: np.ndarray) -> np.ndarray:
        first = len(self)
        with euclidean_assignment(self._index):
            self._index.add(vectors)
        self._alive = np.concatenate([self._alive, np.ones(len(vectors), dtype=bool)])
        self._clone = None
        return np.arange(first, len(self))

    def _remove(self, rows: np.ndarray) -> None:
        self._alive[rows] = False

    def _with_ids(self) -> faiss.Index:
        if self._alive.all():
            return self._index
        with_ids = faiss.IndexIDMap(faiss.IndexFlatIP(self._index.d))
        with_ids.index, with_ids.ntotal = self._index, len(self)
        faiss.copy_array_to_vector(np.where(self._alive, np.arange(len(self)), PAD), with_ids.id_map)
        return with_ids


class IndexBuilder:
    """Configuration of a faiss index; `build` refuses an index of too low a recall."""

    def __init__(
        self, *, factory: str, nprobe: int, ef_search: int, k_factor: float, min_recall: float, recall_at: int
    ) -> None:
        """
        factory: faiss' own notation, "Flat", "IVF1024,Flat", "IVF1024,PQ32x4fs,RFlat", "HNSW32"
        nprobe: cells visited by an IVF index, ignored by others
        ef_search: breadth of the search in an HNSW graph, ignored by others
        k_factor: candidates per result that are rescored by exact vectors where the factory ends in RFlat
        min_recall: lowest recall of the exact `recall_at` neighbours, 0 to 1, below which `build` fails
        """
        check_ranges(
            "index",
            nprobe=(nprobe, 1, 1_000_000),
            ef_search=(ef_search, 1, 1_000_000),
            k_factor=(k_factor, 1.0, 1000.0),
            min_recall=(min_recall, 0.0, 1.0),
            recall_at=(recall_at, 1, 100_000),
        )
        self.factory = factory
        self.nprobe = nprobe
        self.ef_search = ef_search
        self.k_factor = k_factor
        self.min_recall = min_recall
        self.recall_at = recall_at

    def build(self, vectors: np.ndarray, queries: np.ndarray | None = None) -> tuple[FaissIndex, float]:
        """Build the index of vectors [N, D] and measure its recall; ConfigError when that is below min_recall.

        queries: [B, D] of the kind to be searched; None takes a sample of the items.
        """
        vectors = check_vectors(vectors)
        built = FaissIndex(self._trained(vectors), np.ones(len(vectors), dtype=bool))
        built.set_search_parameters(nprobe=self.nprobe, ef_search=self.ef_search, k_factor=self.k_factor)
        sample = vectors[:: max(1, len(vectors) // RECALL_SAMPLE)] if queries is None else queries
        exact = _exact_scores(vectors, sample, self.recall_at)
        recall = _recall(vectors, sample, exact, built.search(sample, self.recall_at)[1])
        if recall < self.min_recall:
            raise ConfigError(
                f"index.factory {self.factory!r} finds {recall:.3f} of the exact {self.recall_at} neighbours, "
                f"index.min_recall asks for {self.min_recall}; raise index.nprobe or choose another factory"
            )
        return built, recall

    def _trained(self, vectors: np.ndarray) -> faiss.Index:
        try:
            index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError:
            raise ConfigError(
                f"index.factory {self.factory!r} is not known to faiss for {vectors.shape[1]} dimensions; "
                "use e.g. Flat or IVF256,Flat"
            ) from None
        try:
            with euclidean_assignment(index):
                index.train(vectors)
                index.add(vectors)
        except RuntimeError:
            raise ConfigError(
                f"index.factory {self.factory!r} cannot be trained on {len(vectors)} items; use index=flat"
            ) from None
        return index


def _exact_scores(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Scores [B, K] of the exact neighbours; both ways give the same bits, see `recsys.index.scores`."""
    if len(vectors) <= FEW_VECTORS:
        return oracle(vectors, queries, k)[0]
    return ExactIndex(vectors).search(queries, k)[0]


def _recall(vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray, rows: np.ndarray) -> float:
    """Recall of `rows` [B, K] by exact scores [B, K]: a row counts that scores no less than the k-th exact neighbour.

    Items with equal vectors thus count for each other.
    """
    scores = inner_products(queries[:, None], vectors[rows])
    found = (scores >= exact.min(axis=1, keepdims=True)) & (rows != PAD)
    return float(found.sum() / max(np.isfinite(exact).sum(), 1))


def _set_search_parameters(index: faiss.Index, nprobe: int, ef_search: int, k_factor: float) -> None:
    for part in nested_indexes(index):
        match part:
            case faiss.IndexIVF():
                part.nprobe = nprobe
                part.make_direct_map()
            case faiss.IndexHNSW():
                part.hnsw.efSearch = ef_search
            case faiss.IndexRefine():
                part.k_factor = k_factor


def _selector_parameters(index: faiss.Index, selector: faiss.IDSelector) -> faiss.SearchParameters:
    """Search parameters of the index that restrict it to the selected rows and change nothing else."""
    match index:
        case faiss.IndexRefine():
            base = _selector_parameters(faiss.downcast_index(index.base_index), selector)
            return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=base)
        case faiss.IndexPreTransform():
            inner = _selector_parameters(faiss.downcast_index(index.index), selector)
            return faiss.SearchParametersPreTransform(index_params=inner)
        case faiss.IndexIVF():
            return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
        case faiss.IndexHNSW():
            return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
        case _:
            return faiss.SearchParameters(sel=selector)
