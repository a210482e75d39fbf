"""Experiments of a store by name, and the days that are theirs in a log."""

from datetime import datetime, timedelta

from recsys.errors import ConfigError, DataError
from recsys.experiments.experiment_set import ExperimentSet, OnlineExperiment
from recsys.experiments.experiment_store import ExperimentStore
from recsys.measurement.kpis import Period
from recsys.measurement.outcomes import MeasuredLog

DAYS_BEFORE = 28
"""days of the covariate, at most"""


def published_now(store: ExperimentStore, name: str) -> OnlineExperiment:
    """Return an experiment that serves now; ConfigError for another name."""
    return ExperimentSet.parse(store.read(_serving(store))).named(name)


def published_last(store: ExperimentStore, name: str) -> OnlineExperiment:
    """Return an experiment as it was published last, also where it serves no more."""
    current = ExperimentSet.parse(store.read(_serving(store)))
    for entry in reversed(store.history()):
        listed = ExperimentSet.parse(store.text(entry.text)).experiments
        if found := [one for one in listed if one.name == name]:
            return found[0]
    return current.named(name)


def days_of(experiment: OnlineExperiment, log: MeasuredLog) -> tuple[Period, Period | None]:
    """Return the days of an experiment and those before it, None where none of them was logged."""
    start = datetime.fromisoformat(experiment.start).date()
    end = (datetime.fromisoformat(experiment.end) - timedelta(microseconds=1)).date()
    during = Period(first=start, last=end)
    if not during.days(log):
        raise DataError(f"no day from {start} to {end} was logged; the experiment {experiment.name!r} has not begun")
    before = Period(first=start - timedelta(days=DAYS_BEFORE), last=start - timedelta(days=1))
    return during, before if before.days(log) else None


def _serving(store: ExperimentStore) -> str:
    """Return the version that serves."""
    if (current := store.current()) is None:
        raise ConfigError(f"nothing was published in {store.folder}; publish a file of experiments first")
    return current.version
