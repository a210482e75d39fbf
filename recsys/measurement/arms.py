"""Users of the arms of an experiment, from measured days: metrics of a period, and the same before it for CUPED.

The arm is a split of the measurement, such as arms.wider. Requests without an arm, of other surfaces or times, are not
counted; a user of several arms, since the assignment changed, is left out.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date

import polars as pl

from recsys.errors import ConfigError, DataError
from recsys.experiments.cohorts import CohortEffect, shrunk_effects
from recsys.experiments.effects import ArmUsers, Effect, effect
from recsys.expressions import suggestion
from recsys.measurement.kpis import Period, metrics_of, sums_of
from recsys.measurement.outcomes import MeasuredLog
from recsys.measurement.user_sums import ALL, NONE, names_of

FEWEST_USERS = 20
"""users of a cohort in an arm, at least, for an effect on it"""


def arm_users(
    log: MeasuredLog,
    split: str,
    arms: Mapping[str, str],
    period: Period,
    before: Period | None = None,
    among: Collection[str] | None = None,
) -> dict[str, dict[str, ArmUsers]]:
    """Return metric -> arm -> its users.

    arms: name in the analysis -> value of the split; before: days of the covariate; among: users of one cohort, None for all
    """
    users = _of_one_value(_totals(log, split, period.days(log)).filter(pl.col("value") != NONE))
    if among is not None:
        users = users.filter(pl.col("user").is_in([*among]))
    for value in arms.values():
        if value not in set(users["value"]):
            known = ", ".join(sorted(set(users["value"]) - {NONE})) or "none"
            raise ConfigError(f"no user was in the arm {value!r} of {split}; known are {known}")
    earlier = None if before is None else _totals(log, ALL, before.days(log)).drop("value")
    found: dict[str, dict[str, ArmUsers]] = {}
    for metric, (x, y) in metrics_of(log.settings).items():
        own = users.select("value", "user", x=x.cast(pl.Float64), y=y.cast(pl.Float64)).filter(pl.col("y") > 0)
        joined = own if earlier is None else _with_before(own, earlier, x, y)
        parts = {name: joined.filter(pl.col("value") == value) for name, value in arms.items()}
        found[metric] = {name: _arm(part) for name, part in parts.items()}
    return found


def cohort_effects(
    log: MeasuredLog,
    split: str,
    arms: Mapping[str, str],
    period: Period,
    before: Period | None,
    metric: str,
    by: str,
) -> tuple[dict[str, Effect], dict[str, CohortEffect]]:
    """Return the effect on a metric by cohort, as found and drawn towards the common mean.

    arms: the control and the treatment, as for `arm_users`; by: split whose values are the cohorts. A cohort of fewer than
    FEWEST_USERS in an arm is left out; DataError for fewer cohorts than shrinkage needs.
    """
    found = {}
    for value, users in sorted(cohort_users(log, by, period).items()):
        try:
            own = arm_users(log, split, arms, period, before, among=users)[metric]
        except (ConfigError, DataError):  # an arm without a user of this cohort
            continue
        if value != NONE and min(len(one.x) for one in own.values()) >= FEWEST_USERS:
            found[value] = effect(*(own[name] for name in arms))
    return found, shrunk_effects(found)


def user_values(log: MeasuredLog, metric: str, period: Period) -> ArmUsers:
    """Return the users of a period as one arm, for planning; ConfigError for a metric that is not measured."""
    metrics = metrics_of(log.settings)
    if metric not in metrics:
        raise ConfigError(f"{metric!r} is not measured; {suggestion(metric, metrics)}")
    x, y = metrics[metric]
    totals = _totals(log, ALL, period.days(log)).sort("user")
    return _arm(totals.select(x=x.cast(pl.Float64), y=y.cast(pl.Float64)).filter(pl.col("y") > 0))


def cohort_users(log: MeasuredLog, split: str, period: Period) -> dict[str, list[str]]:
    """Return value of a split, such as profile.segment -> the users who had that value alone."""
    users = _of_one_value(_totals(log, split, period.days(log)))
    return {value: group["user"].to_list() for (value,), group in users.partition_by("value", as_dict=True).items()}


def _of_one_value(totals: pl.DataFrame) -> pl.DataFrame:
    return totals.filter(pl.len().over("user") == 1).sort("user")


def _totals(log: MeasuredLog, split: str, days: Sequence[date]) -> pl.DataFrame:
    """Sums per value and user over days."""
    if not days:
        raise ConfigError("no day of the period was measured; choose days that the log has")
    return sums_of(log, days, split).group_by("value", "user").agg(pl.col(*names_of(log.settings)).sum())


def _with_before(own: pl.DataFrame, earlier: pl.DataFrame, x: pl.Expr, y: pl.Expr) -> pl.DataFrame:
    """Add the user's sums of before, 0 for one who was not there."""
    sums = earlier.select("user", x_before=x.cast(pl.Float64), y_before=y.cast(pl.Float64))
    return own.join(sums, on="user", how="left", maintain_order="left").fill_null(0.0)


def _arm(part: pl.DataFrame) -> ArmUsers:
    before = (part["x_before"].to_numpy(), part["y_before"].to_numpy()) if "x_before" in part.columns else None
    return ArmUsers(x=part["x"].to_numpy(), y=part["y"].to_numpy(), before=before)
