"""All drift figures of a moment: what each is, its chance, its limit, and whether it is an alarm.

A figure is an alarm where it exceeds its limit by more than chance explains: the limit says what matters, the standard error
what is known. A small change is none in any window, a large one is one as soon as there are enough requests.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.measurement.drift.effects import DriftEffect, effects_of, jackknife
from recsys.measurement.drift.reference import Reference
from recsys.measurement.drift.served import GROUPS
from recsys.measurement.drift.thresholds import Thresholds
from recsys.measurement.drift.windows import DEGRADED, JUDGED, REQUESTS, STALE, Window

FEWEST_GROUPS = GROUPS // 2
"""groups with a request, at least, for a standard error"""
EXPOSURE_HOURS = 24
"""shortest window of figures of exposure, which is counted by quarters of a day"""
UNITS = {
    "missing": "share of requests, beyond the expected one",
    "unknown": "share of values without a bin, beyond the expected one",
    "psi": "population stability index",
    "js": "Jensen-Shannon distance, 0 to 1",
    "wasserstein": "standard deviations of the reference",
    "degraded": "share of slates with a flag, beyond that of the reference",
    "stale_state": "share of requests whose history lacks an event that is five minutes old",
    "top_item": "share of all positions",
    "entropy": "share of the entropy of even exposure",
    "coverage": "distinct items",
    "drop": "share of the usual value of the weekday",
    "miscalibration": "absolute log of predicted / observed",
    "log_age_h": "hours since the newest request",
    "items_age_h": "hours since the newest change of an item",
    "model_age_d": "days since the newest event of the training data",
}
"""figure -> unit"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftFigure:
    """One figure."""

    figure: str
    """of UNITS"""
    of: str
    """column, outcome or item that it is about, with @<segment> where of a part of the requests; empty for all"""
    window: int
    """hours, 0 for a moment"""
    value: float
    error: float
    """standard error, 0 for what is counted in full"""
    limit: float | None
    alarm: bool
    requests: int
    """of the window"""

    @property
    def excess(self) -> float:
        """Return the value in units of its limit; 0 without one."""
        return self.value / self.limit if self.limit else 0.0


def figures_of_window(window: Window, reference: Reference, thresholds: Thresholds) -> list[DriftFigure]:
    """Return the figures of columns, segments, flags and exposure of one window."""
    return [
        *_columns(window, reference, thresholds),
        *_flags(window, reference, thresholds),
        *_exposure(window, thresholds),
    ]


def moment_figure(figure: str, value: float, thresholds: Thresholds, of: str = "") -> DriftFigure:
    """Return a figure without chance, such as an age."""
    limit = thresholds.limit(figure)
    alarm = limit is not None and value > limit
    return DriftFigure(figure=figure, of=of, window=0, value=value, error=0.0, limit=limit, alarm=alarm, requests=0)


def _columns(window: Window, reference: Reference, thresholds: Thresholds) -> Iterator[DriftFigure]:
    """Figures of all columns, over all requests and by segment."""
    for name, own in reference.columns.items():
        parts = {name: own.expected(window.strata)}
        parts |= {f"{name}@{segment}": expected_of(counts) for segment, counts in own.segments.items()}
        for label, expected in parts.items():
            live = window.counts.get(label)
            if live is None or live.sum() < thresholds.fewest or (live.any(axis=1)).sum() < FEWEST_GROUPS:
                continue
            judged = _Judge(window=window.hours, requests=int(live.sum()), thresholds=thresholds)
            for figure, effect in effects_of(own.column, live, expected).items():
                yield judged.figure(figure, effect, label, thresholds.limit(figure, name))


def _flags(window: Window, reference: Reference, thresholds: Thresholds) -> Iterator[DriftFigure]:
    """Shares of requests by counters, beyond the expected ones."""
    counters = (("degraded", DEGRADED, REQUESTS, reference.degraded), ("stale_state", STALE, JUDGED, 0.0))
    for figure, counted, of, expected in counters:
        numerator, denominator = window.counter(counted), window.counter(of)
        if denominator.sum() >= thresholds.fewest and (denominator > 0).sum() >= FEWEST_GROUPS:
            judged = _Judge(window=window.hours, requests=int(denominator.sum()), thresholds=thresholds)
            share = share_of(numerator, denominator)
            beyond = DriftEffect(value=share.value - expected, error=share.error)
            yield judged.figure(figure, beyond, "", thresholds.limit(figure))


def _exposure(window: Window, thresholds: Thresholds) -> Iterator[DriftFigure]:
    """Exposure of the most shown item, evenness and breadth of what was shown; a window of an hour is counted by quarters."""
    shown = np.array([*window.items.values()], dtype=np.float64)
    if window.hours < EXPOSURE_HOURS or window.requests < thresholds.fewest or shown.sum() == 0:
        return
    shares = shown / shown.sum()
    judged = _Judge(window=window.hours, requests=window.requests, thresholds=thresholds)
    # positions of a slate are not independent: a request is the unit of the error
    error = math.sqrt(shares[0] * (1 - shares[0]) / window.requests)
    yield judged.figure(
        "top_item",
        DriftEffect(value=float(shares[0]), error=error),
        next(iter(window.items)),
        thresholds.limit("top_item"),
    )
    evenness = -float((shares * np.log(shares)).sum()) / math.log(len(shares)) if len(shares) > 1 else 0.0
    yield judged.figure("entropy", DriftEffect(value=evenness, error=0.0), "", None)
    yield judged.figure("coverage", DriftEffect(value=float(len(shares)), error=0.0), "", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Window and thresholds that the figures of one sample of requests share."""

    window: int
    requests: int
    thresholds: Thresholds

    def figure(self, figure: str, effect: DriftEffect, of: str, limit: float | None) -> DriftFigure:
        alarm = limit is not None and effect.above(limit, self.thresholds.errors_of(self.window))
        return DriftFigure(
            figure=figure,
            of=of,
            window=self.window,
            value=effect.value,
            error=effect.error,
            limit=limit,
            alarm=alarm,
            requests=self.requests,
        )


def share_of(numerator: np.ndarray, denominator: np.ndarray) -> DriftEffect:
    """Return the share of the sums of groups [GROUPS]."""
    without = (numerator.sum() - numerator) / np.maximum(denominator.sum() - denominator, 1)
    return jackknife(float(numerator.sum() / max(denominator.sum(), 1)), without)


def expected_of(counts: np.ndarray) -> np.ndarray:
    """Return the shares [GROUPS, bins] of a segment of the reference, whose own chance is left out."""
    shares = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return np.tile(shares, (GROUPS, 1))
