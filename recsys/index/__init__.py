"""Nearest-neighbour search by inner product: exact and approximate indexes with one interface, patched between trainings."""

from recsys.index.choice import AS_TRAINED, IndexChoice
from recsys.index.exact import ExactIndex
from recsys.index.faiss_index import FaissIndex, IndexBuilder
from recsys.index.guarded_device import GuardedDeviceIndex
from recsys.index.patched import PatchedIndex

FixedIndex = ExactIndex | FaissIndex | GuardedDeviceIndex
Index = FixedIndex | PatchedIndex

__all__ = [
    "AS_TRAINED",
    "ExactIndex",
    "FaissIndex",
    "FixedIndex",
    "GuardedDeviceIndex",
    "Index",
    "IndexBuilder",
    "IndexChoice",
    "PatchedIndex",
]
