"""How much of what is shown falls to few items: one number, so that no item needs a label."""

import math
from collections import Counter
from collections.abc import Iterable

WINDOW = 200_000
"""shown items after which older ones begin to be forgotten"""
TOP = 0.01


class TopShare:
    """Counts of the present and the last window of shown items."""

    def __init__(self, window: int) -> None:
        self._window, self._num = window, 0
        self._present: Counter[str] = Counter()
        self._last: Counter[str] = Counter()

    def add(self, items: Iterable[str]) -> None:
        shown = list(items)
        self._present.update(shown)
        self._num += len(shown)
        if self._num >= self._window:
            self._last, self._present, self._num = self._present, Counter(), 0

    def share(self) -> float:
        """Of the 1% most shown of all items that were shown, at least one; 0 where nothing was."""
        counts = sorted((self._last + self._present).values(), reverse=True)
        return sum(counts[: math.ceil(TOP * len(counts))]) / sum(counts) if counts else 0.0
