"""Nearest-neighbour search by inner product: exact and approximate indexes with one interface, patched between trainings."""

from recsys.index.exact import ExactIndex
from recsys.index.faiss_index import FaissIndex, IndexBuilder
from recsys.index.patched import PatchedIndex

Index = ExactIndex | FaissIndex | PatchedIndex

__all__ = ["ExactIndex", "FaissIndex", "Index", "IndexBuilder", "PatchedIndex"]
