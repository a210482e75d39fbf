"""Splits by time: every event belongs to one period, and no period sees what comes after it.

R rows of the interactions, in canonical order.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, TIMESTAMP, USER
from recsys.errors import ConfigError, DataError

FIT, RANK, VALIDATION, TEST = range(4)
PERIODS = ("FIT", "RANK", "VALIDATION", "TEST")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Which period every event belongs to."""

    name: str
    periods: np.ndarray
    """[R] int8, FIT for retrieval, RANK for the ranker, VALIDATION for choices, TEST for figures"""
    cuts: tuple[float, ...] | None
    """timestamps at which RANK, VALIDATION and TEST begin; None where every user has other ones"""

    def targets(self, dataset: Dataset) -> np.ndarray:
        """[R] bool, the first positive in TEST of every (user, item) pair that no event of an earlier period holds."""
        rows = dataset.interactions.select(
            USER,
            ITEM,
            asked=pl.Series((self.periods == TEST) & dataset.positives()),
            met=pl.Series(self.periods < TEST),
        )
        new = rows.select(USER, ITEM, new=pl.col("asked") & ~pl.col("met").any().over(USER, ITEM))
        first = new.select(pl.col("new") & (pl.col("new").cum_sum().over(USER, ITEM) == 1))
        return first.to_series().to_numpy()

    def targets_sha256(self, dataset: Dataset) -> str:
        """sha256 of the sorted (user, item) pairs of `targets`: reports with one hash were asked the same questions."""
        pairs = dataset.interactions.select(USER, ITEM).filter(pl.Series(self.targets(dataset))).sort(USER, ITEM)
        text = "".join(f"{user}\0{item}\n" for user, item in pairs.iter_rows())
        return hashlib.sha256(text.encode()).hexdigest()


class Splitter(Protocol):
    """What every way to split offers."""

    def split(self, dataset: Dataset) -> Split: ...


@dataclass(frozen=True, kw_only=True)
class GlobalTime:
    """One timeline for all: FIT | RANK | VALIDATION | TEST, cut where the given fractions of events lie to the right.

    Events of one timestamp stay together, in the later period. Raises ConfigError for a fraction out of range.
    """

    rank: float
    validation: float
    test: float

    def __post_init__(self) -> None:
        for key in ("rank", "validation", "test"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ConfigError(f"{key} is {value!r}; write a fraction of the events between 0 and 1")
        if (total := self.rank + self.validation + self.test) >= 1:
            raise ConfigError(
                f"rank + validation + test is {total:g}; keep the sum below 1, the rest is there to fit on"
            )

    def split(self, dataset: Dataset) -> Split:
        """Raises DataError when a period stays empty."""
        times = dataset.interactions[TIMESTAMP].to_numpy()
        shares = np.array([self.rank + self.validation + self.test, self.validation + self.test, self.test])
        starts = np.minimum(np.rint((1 - shares) * len(times)).astype(np.int64), len(times) - 1)
        cuts = times[starts]
        periods = np.searchsorted(cuts, times, side="right").astype(np.int8)
        _check_filled(periods, "events share too few timestamps; give more events or other fractions")
        return Split(name="global time", periods=periods, cuts=tuple(cuts.tolist()))


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Strict leave-one-out in time order: the last positive of a user is TEST, the two before VALIDATION and RANK.

    Events that are no positives belong to the period of the next positive of their user, after the last one to TEST,
    so that nothing of a user is fitted on that comes after what is asked. Users with fewer than `min_events` positives
    are all FIT.
    """

    min_events: int

    def __post_init__(self) -> None:
        value = self.min_events
        if isinstance(value, bool) or not isinstance(value, int) or value < 3:
            raise ConfigError(
                f"min_events is {value!r}; write a whole number of at least 3, one for each period held out"
            )

    def split(self, dataset: Dataset) -> Split:
        """Raises DataError when a period stays empty."""
        events = dataset.interactions.select(USER, positive=pl.Series(dataset.positives()).cast(pl.Int64))
        counted = events.select(
            ahead=pl.col("positive").cum_sum(reverse=True).over(USER), total=pl.col("positive").sum().over(USER)
        )
        ahead = counted["ahead"].to_numpy()
        held_out = np.clip(TEST + 1 - ahead, FIT, TEST)
        periods = np.where(counted["total"].to_numpy() < self.min_events, FIT, held_out).astype(np.int8)
        _check_filled(periods, f"too few positives a user; change min_events ({self.min_events}) or give more events")
        return Split(name="leave one out", periods=periods, cuts=None)


def _check_filled(periods: np.ndarray, advice: str) -> None:
    counts = np.bincount(periods, minlength=len(PERIODS))
    for name, count in zip(PERIODS, counts, strict=True):
        if count == 0:
            raise DataError(f"the period {name} of the split is empty ({len(periods)} events in all): {advice}")
