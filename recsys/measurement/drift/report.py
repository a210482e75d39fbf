"""Drift of a bundle at a moment: all figures from one log, as JSON values and as Prometheus gauges.

recsys_drift{figure="wasserstein",of="profile.age",window="24"} 0.02
recsys_drift_limit{...}      its limit, where it has one
recsys_drift_alarm{...}      1 where it exceeds the limit by more than chance, else 0
recsys_drift_until           time of the newest request, unix seconds
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from recsys.measurement.drift.calibration import ObjectiveCalibration, calibration, to_document
from recsys.measurement.drift.drop import drops
from recsys.measurement.drift.figures import UNITS, DriftFigure, figures_of_window, moment_figure
from recsys.measurement.drift.thresholds import Thresholds
from recsys.measurement.drift.windows import HOUR_S, HOURS, DriftLog
from recsys.measurement.gauges import label_text
from recsys.measurement.kpis import Period
from recsys.measurement.outcomes import EPOCH, MeasuredLog
from recsys.measurement.settings import DAY_S

GAUGES, DOCUMENT = "drift.prom", "drift.json"
"""files of the folder of a measurement; the gateway serves the first one below its own metrics"""
CALIBRATION_DAYS = 7


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """All figures of a moment."""

    bundle: str
    until: float
    """time of the newest request, unix seconds"""
    figures: Sequence[DriftFigure]
    calibration: Sequence[ObjectiveCalibration]

    @property
    def alarms(self) -> list[DriftFigure]:
        """Return the figures that are alarms, the furthest beyond its limit first."""
        return sorted((one for one in self.figures if one.alarm), key=lambda one: -one.excess)

    def to_document(self) -> dict[str, Any]:
        """Return JSON values."""
        figures = [{**asdict(one), "unit": UNITS[one.figure]} for one in self.figures]
        calibrated = list(to_document(list(self.calibration)))
        return {"bundle": self.bundle, "until": self.until, "figures": figures, "calibration": calibrated}

    def gauges(self) -> str:
        """Return the page in Prometheus' text format; a segment has a series only where it is an alarm."""
        shown = [one for one in self.figures if one.alarm or "@" not in one.of]
        lines = [
            *_gauge("recsys_drift", {one: one.value for one in shown}),
            *_gauge("recsys_drift_limit", {one: one.limit for one in shown if one.limit is not None}),
            *_gauge("recsys_drift_alarm", {one: float(one.alarm) for one in shown}),
            "# TYPE recsys_drift_until gauge",
            f"recsys_drift_until {self.until}",
        ]
        return "\n".join([*lines, ""])


def drift_report(
    drift: DriftLog,
    thresholds: Thresholds,
    *,
    now: float,
    measured: MeasuredLog | None = None,
    items_changed: float | None = None,
) -> DriftReport:
    """Return all figures of a counted log.

    now: unix seconds; measured: outcomes of the same log, for drops and calibration; items_changed: time of the newest change
    of an item, None where that is not known
    """
    end = drift.end
    until = float((end + 1) * HOUR_S)
    figures = [
        figure
        for hours in thresholds.windows
        for figure in figures_of_window(drift.window(hours, end), drift.reference, thresholds)
    ]
    calibrated: list[ObjectiveCalibration] = []
    if measured is not None:
        until = measured.end
        figures += drops(measured, thresholds)
        last = EPOCH + timedelta(days=end // HOURS)
        period = Period(first=last - timedelta(days=CALIBRATION_DAYS), last=last)
        calibrated = calibration(measured, drift.bundle, period)
        figures += [one.figure(CALIBRATION_DAYS * HOURS, thresholds) for one in calibrated]
    ages = {"log_age_h": (until, HOUR_S), "model_age_d": (drift.reference.until, DAY_S)}
    if items_changed is not None:
        ages["items_age_h"] = (items_changed, HOUR_S)
    figures += [moment_figure(name, max(0.0, now - then) / unit, thresholds) for name, (then, unit) in ages.items()]
    return DriftReport(bundle=drift.bundle, until=until, figures=figures, calibration=calibrated)


def _gauge(name: str, values: Mapping[DriftFigure, float]) -> Iterator[str]:
    yield f"# TYPE {name} gauge"
    for one, value in values.items():
        of = "" if one.figure == "top_item" else label_text(one.of)
        yield f'{name}{{figure="{one.figure}",of="{of}",window="{one.window}"}} {value!r}'
