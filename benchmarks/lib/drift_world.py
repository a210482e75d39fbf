"""A simulated shop under watch: the reference of one population, and what a monitor says of another one hour by hour."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import orjson
import polars as pl

from recsys.data.simulation.faults import Faults
from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.simulated_log import SimulatedLog
from recsys.data.simulation.visits import reactions, visits
from recsys.data.sources.planted import DAY, START
from recsys.features.spec import FeatureSpec, TableSpec
from recsys.measurement.drift.bins import Kind
from recsys.measurement.drift.drop import detector, metrics_to_watch, newest_means
from recsys.measurement.drift.figures import DriftFigure, figures_of_window
from recsys.measurement.drift.reference import Reference
from recsys.measurement.drift.served import (
    HISTORY,
    Cells,
    cells_of_first_items,
    cells_of_requests,
    kinds_of_slates,
)
from recsys.measurement.drift.thresholds import Thresholds
from recsys.measurement.drift.windows import HOUR_S, HOURS, DriftLog
from recsys.measurement.outcomes import EPOCH, MeasuredLog
from recsys.measurement.settings import MeasurementSettings, Outcome

WARM_UP = 14
"""days before anything is watched: histories fill, and a drop needs the same weekdays of two weeks"""
BUNDLE = "simulated"
HISTORY_LENGTH = 5
KINDS: Mapping[str, Kind] = {
    "context.device": "category",
    "profile.segment": "category",
    "profile.age": "number",
    HISTORY: "number",
}
OBJECTIVES = {"click": "kind == 'click'", "buy": "kind == 'buy'"}
SPEC = FeatureSpec(
    items=TableSpec(name="items", columns=()),
    profile=TableSpec(name="profile", columns=()),
    context=TableSpec(name="context", columns=()),
    history_length=HISTORY_LENGTH,
    actions={"kind": "word"},
    objectives=OBJECTIVES,
    target="click",
)
SETTINGS = MeasurementSettings(
    actions={"kind": "word"}, outcomes={"click": Outcome(value=OBJECTIVES["click"], window_s=3_600.0)}, k=(10,)
)


def write_log(folder: Path, shop: SimulatedShop, faults: Faults) -> int:
    """Write the event log of a shop below a folder; return the number of its requests."""
    rng = shop.random(9)
    shown = faults.of_visits(visits(shop), rng)
    done = faults.of_reactions(shown, reactions(shop, shown), rng)
    # events reach the states of this shop at once; what is late or comes twice is a test of its own
    SimulatedLog(history=HISTORY_LENGTH, late=0.0, twice=0.0).write(folder, shop, shown, done, faults)
    return len(shown)


def reference_of(log: Path, first: float) -> Reference:
    """Return the statistics of what a log holds from a day on."""
    files = sorted((log / "impressions").glob("*/*.parquet"))
    rows = pl.concat([pl.read_parquet(file).filter(pl.col("query").is_not_null()) for file in files])
    rows = rows.filter(pl.col("timestamp") >= START + first * DAY)
    requests = cells_of_requests([orjson.loads(text) for text in rows["query"]], tuple(KINDS), HISTORY_LENGTH)
    columns = cells_of_first_items(rows["utility"].to_list(), rows["sources"].to_list(), [{}] * rows.height, ())
    slates = Cells(users=requests.users, times=requests.times, columns=columns)
    return Reference.fit([(requests, KINDS), (slates, kinds_of_slates(()))], HISTORY_LENGTH, ())


def counts_of_log(folder: Path, reference: Reference) -> DriftLog:
    """Return the counts of the log in `events`, before anything is counted."""
    return DriftLog(log=folder / "events", folder=folder / "drift", bundle=BUNDLE, spec=SPEC, reference=reference)


@dataclass(frozen=True, kw_only=True)
class WatchedShop:
    """Log of a shop with the counts of a monitor."""

    drift: DriftLog
    measured: MeasuredLog
    thresholds: Thresholds

    @staticmethod
    def of(folder: Path, shop: SimulatedShop, reference: Reference, faults: Faults) -> "WatchedShop":
        write_log(folder / "events", shop, faults)
        drift = counts_of_log(folder, reference)
        measured = MeasuredLog(log=drift.log, folder=folder / "measurement", settings=SETTINGS)
        drift.update()
        measured.update()
        return WatchedShop(drift=drift, measured=measured, thresholds=Thresholds())

    def alarms(self) -> Iterator[tuple[int, DriftFigure]]:
        """Yield each alarm of every hour after the warm-up, as looked at then: hours since the start, and its figure."""
        start, end = int(START // HOUR_S), self.drift.end
        for hour in range(start + WARM_UP * HOURS, end + 1):
            for hours in self.thresholds.windows:
                window = self.drift.window(hours, hour)
                for figure in figures_of_window(window, self.drift.reference, self.thresholds):
                    if figure.alarm:
                        yield hour + 1 - start, figure
        yield from self._drops()

    def _drops(self) -> Iterator[tuple[int, DriftFigure]]:
        """Alarms of drops, each at the end of its day."""
        means = newest_means(self.measured)
        for metric in metrics_to_watch(self.measured):
            by_day = {day: own[metric] for day, own in means.items() if metric in own}
            for day, share, error, statistic in detector(by_day, self.thresholds):
                if statistic >= 1 / self.thresholds.alpha:
                    hours = (day + timedelta(days=1) - EPOCH).days * HOURS - int(START // HOUR_S)
                    yield hours, _drop(metric, share, error)


def _drop(metric: str, share: float, error: float) -> DriftFigure:
    return DriftFigure(
        figure="drop", of=metric, window=24, value=share, error=error, limit=0.05, alarm=True, requests=0
    )


def population(shop: SimulatedShop, seed: int) -> SimulatedShop:
    """Return the same shop with other users."""
    return replace(shop, population=seed)
