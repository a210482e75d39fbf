"""Users of the arms of an experiment by periods of fixed shares, as its store says when shares were changed.

A day on which the shares changed is of no period: its users were divided in two ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from recsys.errors import ConfigError, DataError
from recsys.experiments.allocation import PeriodUsers
from recsys.experiments.analysis import CONTROL, TREATMENT
from recsys.experiments.experiment_set import ExperimentSet
from recsys.experiments.experiment_store import ExperimentStore
from recsys.measurement.kpis import Period, metrics_of, sums_of
from recsys.measurement.outcomes import MeasuredLog

Shares = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SharePeriod:
    """Days on which the shares of an experiment stayed the same."""

    shares: Shares
    days: Sequence[date]


def share_periods(store: ExperimentStore, name: str, period: Period, log: MeasuredLog) -> list[SharePeriod]:
    """Return the periods of fixed shares of an experiment within a period, oldest first.

    Days without a log, and those when it had other arms, are left out.
    """
    changes = _changes(store, name)
    if changes:  # there was no other division before the first one
        changes[0] = (date.min, changes[0][1])
    changed_on = {day for day, _ in changes[1:]}
    found: list[SharePeriod] = []
    for day in period.days(log):
        shares = next((shares for since, shares in reversed(changes) if since <= day), None)
        if shares is None or day in changed_on or shares.keys() != changes[-1][1].keys():
            continue
        if found and found[-1].shares == shares:
            found[-1] = SharePeriod(shares=shares, days=[*found[-1].days, day])
        else:
            found.append(SharePeriod(shares=shares, days=[day]))
    return found


def users_by_period(
    log: MeasuredLog, split: str, arms: Sequence[str], periods: Sequence[SharePeriod], metric: str
) -> dict[str, list[PeriodUsers]]:
    """Return arm -> its users in each period of shares; a user of several arms of the experiment is left out.

    DataError where no period has users of all arms.
    """
    metrics = metrics_of(log.settings)
    if metric not in metrics:
        raise ConfigError(f"the experiment names {metric!r}, which is not measured; known: {', '.join(metrics)}")
    x, y = metrics[metric]
    parts = [sums_of(log, one.days, split).with_columns(period=pl.lit(number)) for number, one in enumerate(periods)]
    if not parts:
        raise DataError("no whole day was logged with fixed shares; wait for one")
    sums = pl.concat(parts).filter(pl.col("value").is_in([*arms]))
    sums = sums.filter(pl.col("value").n_unique().over("user") == 1)
    totals = sums.group_by("value", "period", "user").agg(x=x.sum().cast(pl.Float64), y=y.sum().cast(pl.Float64))
    kept = totals.filter(pl.col("y") > 0).sort("value", "period", "user")
    return {arm: [_users(kept, arm, number) for number in range(len(periods))] for arm in arms}


def shares_over_periods(
    users: Mapping[str, Sequence[PeriodUsers]], arms: tuple[str, str], periods: Sequence[SharePeriod]
) -> dict[str, float]:
    """Return the share of the users of both arms, over all periods, that each should have by the shares of its periods."""
    expected = dict.fromkeys((CONTROL, TREATMENT), 0.0)
    for number, one in enumerate(periods):
        counted = sum(len(users[arm][number].users) for arm in arms)
        both = sum(one.shares[arm] for arm in arms)
        for role, arm in zip((CONTROL, TREATMENT), arms, strict=True):
            expected[role] += counted * one.shares[arm] / both
    return {role: count / sum(expected.values()) for role, count in expected.items()}


def _users(totals: pl.DataFrame, arm: str, number: int) -> PeriodUsers:
    own = totals.filter((pl.col("value") == arm) & (pl.col("period") == number))
    return PeriodUsers(users=own["user"].to_numpy(), x=own["x"].to_numpy(), y=own["y"].to_numpy())


def _changes(store: ExperimentStore, name: str) -> list[tuple[date, Shares]]:
    """Day and shares of each published change of the shares of an experiment, oldest first."""
    found: list[tuple[date, Shares]] = []
    for entry in store.history():
        listed = {one.name: one for one in ExperimentSet.parse(store.text(entry.text)).experiments}
        if name in listed:
            shares = {arm: own.share for arm, own in listed[name].arms.items()}
            if not found or found[-1][1] != shares:
                found.append((datetime.fromisoformat(entry.when).date(), shares))
    return found
