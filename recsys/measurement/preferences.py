"""Preference between the two arms of an interleaved experiment: which arm's items the credit went to, by user."""

from collections.abc import Sequence

import polars as pl

from recsys.errors import DataError
from recsys.experiments.effects import ArmUsers, Effect, paired
from recsys.experiments.experiment_set import INTERLEAVED
from recsys.measurement.kpis import Period
from recsys.measurement.log_rows import CREDIT
from recsys.measurement.outcomes import IMPRESSIONS, MeasuredLog


def preference(log: MeasuredLog, split: str, arms: Sequence[str], outcome: str, period: Period) -> Effect:
    """Return the credit a request of both arms, control first, and the difference within users.

    split: arms.<experiment>. The user is the unit, and compared with themselves: what they click at all drops out.
    DataError where nothing was interleaved.
    """
    columns = ["id", "user", "team", split, CREDIT + outcome]
    parts = [log.table(IMPRESSIONS, day, columns) for day in period.days(log)]
    rows = pl.concat(parts).filter((pl.col(split) == INTERLEAVED) & pl.col(CREDIT + outcome).is_not_null())
    if rows.is_empty():
        raise DataError(f"no window of {outcome!r} is over for an interleaved slate; log longer")
    of_team = {arm: pl.col(CREDIT + outcome).filter(pl.col("team") == arm).sum().alias(arm) for arm in arms}
    users = rows.group_by("user").agg(pl.col("id").n_unique().alias("requests"), *of_team.values()).sort("user")
    requests = users["requests"].to_numpy().astype(float)
    return paired(*(ArmUsers(x=users[arm].to_numpy().astype(float), y=requests) for arm in arms))
