"""Device index in front of the CPU index that answers while the device is lost or full.

A search that the device refuses is answered by the CPU index; `degraded` says so until the device is back, which is tried again
every RETRY_S. Scores and order of both are those of recsys.index.scores.
"""

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from recsys.index.exact import ExactIndex
from recsys.index.faiss_index import FaissIndex

if TYPE_CHECKING:
    from recsys.index.gpu.device_index import DeviceIndex

RETRY_S = 30.0
ON_CPU = "index:cpu"
"""flag of a slate whose candidates the CPU index found in the place of the device"""
ROW_BYTES, VECTOR_BYTES = 4, 6
"""memory a row beside its vector, and a dimension of it: float32 and bfloat16"""
SPARE = 1.2
"""memory that is asked of a device relative to the vectors: searches need some"""

logger = logging.getLogger(__name__)


class GuardedDeviceIndex:
    """Exact search on one device; its owner in this process, so that searches wait for each other."""

    def __init__(
        self, below: ExactIndex | FaissIndex, device: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        below: answers while the device does not; its rows are copied
        device: of torch: cuda, cuda:1, cpu
        """
        self._below, self._name, self._clock = below, device, clock
        self._lock = Lock()
        self._retry_at = 0.0
        self._device = self._opened()

    def __len__(self) -> int:
        """Rows, removed ones too."""
        return len(self._below)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._below.dim

    @property
    def degraded(self) -> tuple[str, ...]:
        """Return the flags of slates made now."""
        return () if self._device is not None else (ON_CPU,)

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Search as ExactIndex.search."""
        with self._lock:
            if self._device is None and self._clock() >= self._retry_at:
                self._device = self._opened()
            if self._device is not None:
                try:
                    return self._device.search(queries, k, allowed)
                except RuntimeError as error:  # of torch: a lost device, or one without memory
                    self._give_up(str(error))
        return self._below.search(queries, k, allowed)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors [.., D] float32 of rows [..], zeros where a row is PAD."""
        return self._below.vectors(rows)

    def _opened(self) -> "DeviceIndex | None":
        """Copy the rows to the device; None where it has no room, or is not there."""
        from recsys.index.gpu.device_index import DeviceIndex, free_bytes

        needed = int(SPARE * len(self) * (ROW_BYTES + VECTOR_BYTES * self.dim))
        try:
            if (free := free_bytes(self._name)) is not None and free < needed:
                self._give_up(f"{needed / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} are free")
                return None
            opened = DeviceIndex(self._below.vectors(np.arange(len(self))), self._below.alive, self._name)
        except RuntimeError as error:
            self._give_up(str(error))
            return None
        logger.info("the index is on %s: %s rows, %.0f MiB", self._name, f"{len(self):,}", needed / 2**20)
        return opened

    def _give_up(self, reason: str) -> None:
        self._device, self._retry_at = None, self._clock() + RETRY_S
        line = reason.strip().partition("\n")[0]
        logger.warning("candidates are found on the CPU, since %s does not: %s", self._name, line)
