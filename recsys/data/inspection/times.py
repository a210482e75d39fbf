"""When events happened: the range, how fine the clock is, holes in it, and how events spread over days and hours."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from recsys.data.splits import DAY_S

RESOLUTIONS = {"days": 86_400.0, "hours": 3_600.0, "minutes": 60.0, "seconds": 1.0}
BARS = 60
"""at most so many stretches of equal length are counted"""


@dataclass(frozen=True, kw_only=True)
class TimeFacts:
    """Of the timestamps [R] of a log, in unix seconds."""

    first: float
    last: float
    resolution: str
    """the coarsest unit that all timestamps are whole numbers of"""
    distinct: int
    commonest: float
    """share of the events at the commonest timestamp"""
    gap: tuple[float, float]
    """begin and length of the longest stretch without an event, in seconds"""
    typical_gap: float
    """seconds between neighbouring moments that 99% of them stay below"""
    future: int
    """events after now"""
    bar_s: float
    """length of one of the stretches in `bars`, whole days where the log is long enough"""
    bars: tuple[int, ...]
    """events of every stretch, from the day of `first` on"""
    hours: tuple[int, ...]
    """events of every hour of the day, UTC; empty where the resolution is days"""

    @property
    def days(self) -> float:
        return (self.last - self.first) / DAY_S


def time_facts(timestamps: pl.Series, now: float) -> TimeFacts:
    """Of rising timestamps [R], at least one."""
    times = timestamps.to_numpy()
    moments, counts = np.unique(times, return_counts=True)
    gaps = np.diff(moments) if len(moments) > 1 else np.zeros(1)
    resolution = next(
        (name for name, unit in RESOLUTIONS.items() if not (moments % unit).any()), "fractions of a second"
    )
    bar_s, bars = _bars(times)
    return TimeFacts(
        first=float(times[0]),
        last=float(times[-1]),
        resolution=resolution,
        distinct=len(moments),
        commonest=float(counts.max() / len(times)),
        gap=(float(moments[gaps.argmax()]), float(gaps.max())),
        typical_gap=float(np.quantile(gaps, 0.99)),
        future=int((times > now).sum()),
        bar_s=bar_s,
        bars=bars,
        hours=()
        if resolution == "days"
        else tuple(np.bincount((times % DAY_S // 3600).astype(int), minlength=24).tolist()),
    )


def _bars(times: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Whole days together as soon as the log has more days than bars, days or hours before."""
    unit = DAY_S if times[-1] - times[0] >= 3 * DAY_S else 3_600.0
    begin = times[0] // unit * unit
    length = unit * max(1, int(np.ceil((times[-1] - begin + 1) / unit / BARS)))
    return length, tuple(np.bincount(((times - begin) // length).astype(int)).tolist())


def moment_text(seconds: float) -> str:
    """A timestamp as people read it, UTC; the number itself where no calendar has it."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"
    return f"{moment:%Y-%m-%d %H:%M}"


def duration_text(seconds: float) -> str:
    """A length of time in the largest unit that it fills twice."""
    for name, unit in RESOLUTIONS.items():
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.3g} seconds"
