"""Nearest neighbours of a query vector: exact (the oracle) and approximate, behind one call."""

from recsys.index.ann import FaissIndex, IndexBuilder
from recsys.index.exact import ExactIndex

Index = ExactIndex | FaissIndex

__all__ = ["ExactIndex", "FaissIndex", "Index", "IndexBuilder"]
