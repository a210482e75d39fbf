"""Split of a click log into training, validation and test rows: given by a column, or shares by time.

Shapes: R rows.
"""

from dataclasses import dataclass

import numpy as np

from recsys.data.click_log import ClickLog, ImpressionKeys
from recsys.data.splits import FIT, TEST, VALIDATION
from recsys.errors import DataError, check_ranges

NAMES = {FIT: "training", VALIDATION: "validation", TEST: "test"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ImpressionSplit:
    """Assignment of every row to one period; a ranker for TEST is fitted on FIT and calibrated on VALIDATION."""

    name: str
    """name in reports"""
    periods: np.ndarray
    """[R] int8: FIT, VALIDATION or TEST"""


@dataclass(frozen=True, kw_only=True)
class ImpressionShares:
    """Newest shares of the rows, or the split that the log has; without a split and an order the rows are drawn.

    Rows of one time stay together, in the later period. A given split without validation gives the newest share of its
    training rows to it.
    """

    validation: float
    """of all rows, or of the training rows of a given split"""
    test: float
    seed: int
    """draws the rows where nothing orders them"""

    def __post_init__(self) -> None:
        shares = {name: (getattr(self, name), 1e-6, 1 - 1e-6) for name in ("validation", "test")}
        check_ranges("protocol", **shares, seed=(self.seed, 0, 2**63 - 1))
        check_ranges("protocol", **{"validation + protocol.test": (self.validation + self.test, 0.0, 1 - 1e-6)})

    def split(self, log: ClickLog, keys: ImpressionKeys) -> ImpressionSplit:
        """Assign the rows; DataError for an empty period, and for a label that all rows of a period have alike."""
        ordered = "" if keys.times is not None else " (not by time)"
        if keys.parts is not None:
            name, periods = f"given split{ordered}", self._given(keys)
        else:
            name, periods = f"split by time{ordered}", self._shares(self._times(keys), (self.validation, self.test))
        for period in NAMES:
            _check_period(log, keys.labels[periods == period], period)
        return ImpressionSplit(name=name, periods=periods)

    def _times(self, keys: ImpressionKeys) -> np.ndarray:
        """Times of the rows; without an order a drawn one."""
        drawn = np.random.default_rng(self.seed)
        return drawn.permutation(len(keys)).astype(np.float64) if keys.times is None else keys.times

    @staticmethod
    def _shares(times: np.ndarray, shares: tuple[float, float]) -> np.ndarray:
        """Periods [R] of the newest shares (validation, test); each begins with the first row of a time."""
        starts = np.rint((1 - np.array([sum(shares), shares[1]])) * len(times)).astype(np.int64)
        cuts = np.sort(times)[np.minimum(starts, len(times) - 1)]
        reached = np.searchsorted(cuts, times, side="right")
        return np.array([FIT, VALIDATION, TEST], dtype=np.int8)[reached]

    def _given(self, keys: ImpressionKeys) -> np.ndarray:
        parts = keys.parts
        assert parts is not None
        periods = np.select([parts == "test", parts == "validation"], [TEST, VALIDATION], FIT).astype(np.int8)
        train = periods == FIT
        if train.any() and not (periods == VALIDATION).any():
            late = self._shares(self._times(keys)[train], (self.validation, 0.0))
            periods[train] = np.minimum(late, VALIDATION)
        return periods


def _check_period(log: ClickLog, labels: np.ndarray, period: int) -> None:
    """Raise DataError for a period without rows, or with a label that is alike in all of them."""
    if not len(labels):
        raise DataError(
            f"{log.table.path}: the {NAMES[period]} rows of the split are empty; give more rows, other shares "
            "(protocol.validation, protocol.test), or another split column"
        )
    for name, column in zip(log.columns.labels, labels.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known) or known.min() == known.max():
            alike = "unknown" if not len(known) else f"{known[0]:g}"
            raise DataError(
                f"{log.where(name)}: the label is {alike} in all {len(labels)} {NAMES[period]} rows; "
                "a ranker learns and is judged by both labels, give more rows or other shares"
            )
