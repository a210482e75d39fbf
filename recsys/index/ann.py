"""faiss behind the same call as the exact index. A FaissIndex belongs to one thread.

Shapes: B queries, N items, D dim, K results.
"""

from pathlib import Path

import faiss
import numpy as np

from recsys.errors import ConfigError, check_ranges
from recsys.index.exact import ExactIndex, recall_against

SAMPLE = 256
"""item vectors used as queries when the recall of a new index is measured"""


class FaissIndex:
    """A faiss index over inner products; made by IndexBuilder or read from a bundle."""

    def __init__(self, index: faiss.Index) -> None:
        self.index = index

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """queries [B, D] float32 -> scores [B, K] falling and catalogue rows [B, K] int64 (PAD where none was found)."""
        if k < 1:
            raise ConfigError(f"index: k is {k}; ask for at least 1 neighbour")
        return self.index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, self.index.ntotal))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """[R] catalogue rows -> [R, D] float32, as the index stores them."""
        return self.index.reconstruct_batch(rows)

    def write(self, path: Path) -> None:
        faiss.write_index(self.index, str(path))

    @staticmethod
    def read(path: Path) -> "FaissIndex":
        return FaissIndex(faiss.read_index(str(path)))


class IndexBuilder:
    """Builds an index by faiss' factory string and refuses one that finds too little."""

    def __init__(self, *, factory: str, nprobe: int, min_recall: float, recall_at: int) -> None:
        """
        factory: faiss' own notation, "Flat", "IVF1024,Flat", "HNSW32"
        nprobe: cells visited by an IVF index, ignored by others
        min_recall: build fails when the share of the exact `recall_at` neighbours found is lower, 0 to 1
        """
        check_ranges(
            "index", nprobe=(nprobe, 1, 1_000_000), min_recall=(min_recall, 0.0, 1.0), recall_at=(recall_at, 1, 100_000)
        )
        self.factory = factory
        self.nprobe = nprobe
        self.min_recall = min_recall
        self.recall_at = recall_at

    def build(self, vectors: np.ndarray) -> tuple[FaissIndex, float]:
        """vectors [N, D] -> the index and its measured recall; ConfigError when that is below min_recall."""
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        built = FaissIndex(self._train(vectors))
        queries = vectors[:: max(1, len(vectors) // SAMPLE)]
        _, exact = ExactIndex(vectors).search(queries, self.recall_at)
        recall = recall_against(exact, built.search(queries, self.recall_at)[1])
        if recall < self.min_recall:
            raise ConfigError(
                f"index.factory {self.factory!r} finds {recall:.3f} of the exact {self.recall_at} neighbours, "
                f"index.min_recall asks for {self.min_recall}; raise index.nprobe or choose another factory"
            )
        return built, recall

    def _train(self, vectors: np.ndarray) -> faiss.Index:
        try:
            index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError:
            raise ConfigError(
                f"index.factory {self.factory!r} is not known to faiss; use e.g. Flat or IVF256,Flat"
            ) from None
        try:
            index.train(vectors)
        except RuntimeError:
            raise ConfigError(
                f"index.factory {self.factory!r} cannot be trained on {len(vectors)} items; use index=flat"
            ) from None
        index.add(vectors)
        if hasattr(index, "nprobe"):
            index.nprobe = self.nprobe
            index.make_direct_map()  # type: ignore[attr-defined]
        return index
