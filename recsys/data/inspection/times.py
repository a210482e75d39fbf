"""Time statistics of a log: range, resolution, gaps, and distribution over days and hours."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from recsys.data.splits import DAY_S

RESOLUTIONS = {"days": 86_400.0, "hours": 3_600.0, "minutes": 60.0, "seconds": 1.0}
BARS = 60
"""maximum number of bins of equal length"""


@dataclass(frozen=True, kw_only=True)
class TimeFacts:
    """Statistics of the timestamps [R] of a log, in unix seconds."""

    first: float
    last: float
    resolution: str
    """coarsest unit of which all timestamps are multiples"""
    distinct: int
    commonest: float
    """share of the events at the commonest timestamp"""
    gap: tuple[float, float]
    """start and length of the longest gap, in seconds"""
    typical_gap: float
    """99th percentile of the seconds between neighbouring timestamps"""
    future: int
    """events after now"""
    bar_s: float
    """length of a bin in `bars`, whole days where the log is long enough"""
    bars: tuple[int, ...]
    """events per bin, from the day of `first` on"""
    hours: tuple[int, ...]
    """events per hour of the day, UTC; empty where the resolution is days"""

    @property
    def days(self) -> float:
        return (self.last - self.first) / DAY_S


def time_facts(timestamps: pl.Series, now: float) -> TimeFacts:
    """Compute the statistics of ascending timestamps [R], at least one."""
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
    """Return bin length and counts: several days where the log has more days than bins, else days or hours."""
    unit = DAY_S if times[-1] - times[0] >= 3 * DAY_S else 3_600.0
    begin = times[0] // unit * unit
    length = unit * max(1, int(np.ceil((times[-1] - begin + 1) / unit / BARS)))
    return length, tuple(np.bincount(((times - begin) // length).astype(int)).tolist())


def moment_text(seconds: float) -> str:
    """Return a timestamp as date and time, UTC; the number itself outside of the calendar."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"
    return f"{moment:%Y-%m-%d %H:%M}"


def duration_text(seconds: float) -> str:
    """Return a duration in the largest unit of which it has at least two."""
    for name, unit in RESOLUTIONS.items():
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.3g} seconds"
