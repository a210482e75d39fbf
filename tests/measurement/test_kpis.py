"""Key figures: by hand, and against the truth of a simulated shop."""

from datetime import date

import numpy as np
import polars as pl
import pytest

from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.simulated_log import SimulatedLog
from recsys.data.simulation.visits import reactions, visits
from recsys.errors import ConfigError
from recsys.experiments.effects import effect
from recsys.experiments.mean_intervals import standard_error
from recsys.experiments.ratios import linearised, ratio
from recsys.measurement.arms import arm_users, cohort_users
from recsys.measurement.gauges import MAX_VALUES, gauges_page
from recsys.measurement.kpis import SCHEMA, Period, followed, kpis
from recsys.measurement.outcomes import MeasuredLog, seconds_of
from recsys.measurement.settings import MeasurementSettings, Outcome

EVER = Period(first=date(1970, 1, 1), last=date(2100, 1, 1))


def test_the_error_of_a_ratio_is_that_of_the_delta_method():
    x, y = np.array([1.0, 0.0, 4.0, 2.0]), np.array([3.0, 1.0, 5.0, 3.0])
    estimate, (low, high) = ratio(x, y)
    assert estimate == pytest.approx(7 / 12)
    (xx, xy), (_, yy) = np.cov(x, y)
    variance = (xx - 2 * estimate * xy + estimate**2 * yy) / (4 * 3.0**2)
    assert standard_error(linearised(x, y)) == pytest.approx(variance**0.5)
    assert low < estimate < high
    assert ratio(x[:1], y[:1]) == (pytest.approx(1 / 3), (None, None))


def test_retention_counts_the_days_whose_time_has_passed():
    days = [date(2026, 1, day) for day in (1, 2, 4)]
    active = pl.DataFrame({"value": "all", "user": "a", "day": days})
    other = pl.DataFrame({"value": "all", "user": "b", "day": days[:1]})
    sums = pl.concat([active, other])
    found = followed(sums, sums, 2, seconds_of(date(2026, 1, 5)) + 7_200).sort("user")
    # of a: day 1 is followed by 2, not by 3; day 2 by 4; day 4 is too new, since only the 4th is over
    assert found.select("user", "count", "return", "retention").rows() == [("a", 2, 2, 1), ("b", 1, 0, 0)]


@pytest.fixture(scope="module")
def shop():
    return SimulatedShop(users=300, items=200, days=5, slate=4, seed=3, arms={"control": 0.0, "treatment": 1.0})


@pytest.fixture(scope="module")
def shown(shop):
    return visits(shop)


@pytest.fixture(scope="module")
def measured_shop(shop, shown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kpis")
    SimulatedLog(history=1, files_per_day=1).write(folder / "events", shop, shown, reactions(shop, shown))
    day_s = 86_400.0
    settings = MeasurementSettings(
        actions={"kind": "word", "amount": "number", "seconds": "number"},
        outcomes={
            "click": Outcome(value="kind == 'click'", window_s=3_600.0),
            "revenue": Outcome(value="where(kind == 'buy', amount)", window_s=2 * day_s),
            "watch": Outcome(value="where(kind == 'click', seconds)", window_s=3_600.0, credit="position"),
        },
        k=(1, 4),
        by=("context.arm",),
        return_days=(1, 3),
    )
    log = MeasuredLog(log=folder / "events", folder=folder / "measured", settings=settings)
    log.update()
    return log


@pytest.fixture(scope="module")
def figures(measured_shop):
    return kpis(measured_shop, EVER)


def figure(figures, metric, split="all", value="all"):
    (row,) = figures.filter(
        (pl.col("split") == split) & (pl.col("value") == value) & (pl.col("metric") == metric)
    ).iter_rows(named=True)
    return row


def near(row, truth):
    """Whether the truth is within twice the interval: one seed is to be on the safe side of 95%."""
    reach = row["high"] - row["low"]
    return 0 < reach < truth and abs(row["estimate"] - truth) < reach


def test_figures_of_a_simulated_shop_are_near_the_truth(shop, shown, figures):
    assert near(figure(figures, "click@1"), shown.click[:, 0].mean())
    assert near(figure(figures, "click@4"), shown.click.mean())
    assert near(figure(figures, "click_per_request"), shown.click.sum(axis=1).mean())
    assert near(figure(figures, "watch_per_request"), shown.watched.sum(axis=1).mean())
    assert near(figure(figures, "revenue_per_request"), shown.paid.sum(axis=1).mean())
    assert near(figure(figures, "retention_1d"), shop.retained())
    assert near(figure(figures, "retention_3d"), shop.retained())
    assert near(figure(figures, "return_3d"), shop.returned(3))
    for index, arm in enumerate(shop.arms):
        truth = shown.click[shop.arm[shown.user] == index].mean()
        assert near(figure(figures, "click@4", "context.arm", arm), truth)


def test_the_period_is_the_sum_of_its_days(figures):
    days = figures.filter((pl.col("split") == "day") & (pl.col("metric") == "click@4"))
    whole = figure(figures, "click@4")
    assert days.height == 5
    assert (days["numerator"].sum(), days["denominator"].sum()) == (whole["numerator"], whole["denominator"])
    assert days["users"].max() < whole["users"] < days["users"].sum()


def test_gauges_have_bounded_and_quoted_labels():
    rows = [
        ("hour", f'{number:02d}"\\\n', "m", 0.5, None, None, number + 1, 1.0, 2.0) for number in range(MAX_VALUES + 5)
    ]
    rows.append(("day", "2026-01-01", "m", 0.5, 0.4, 0.6, 9, 1.0, 2.0))
    page = gauges_page(pl.DataFrame(rows, schema=SCHEMA, orient="row"), 12.5)
    lines = [line for line in page.splitlines() if line.startswith("recsys_kpi{")]
    assert len(lines) == MAX_VALUES
    assert lines[0] == 'recsys_kpi{split="hour",value="05\\"\\\\\\n",metric="m"} 0.5'
    assert page.endswith("recsys_measured_until 12.5\n")
    assert "recsys_kpi_low{" not in page


def test_arms_are_those_of_the_log_with_what_users_did_before(measured_shop, shop, shown):
    first, last = date(2024, 1, 3), date(2024, 1, 5)
    arms = arm_users(
        measured_shop,
        "context.arm",
        {"a": "control", "b": "treatment"},
        Period(first=first, last=last),
        Period(first=date(2024, 1, 1), last=date(2024, 1, 2)),
    )
    found = arms["click_per_request"]
    shown_then = pl.DataFrame({"user": shown.user, "day": (shown.now // 86_400).astype(int)})
    start = (first - date(1970, 1, 1)).days
    for index, name in enumerate(("a", "b")):
        of_arm = shown_then.filter(pl.Series(shop.arm[shown.user] == index))
        inside = of_arm.filter(pl.col("day") >= start)
        # the last hour is not observed yet
        assert 0.97 * inside.height < found[name].y.sum() <= inside.height
        before = of_arm.filter((pl.col("day") < start) & pl.col("user").is_in(inside["user"].unique().implode()))
        assert 0.95 * before.height < found[name].before[1].sum() <= before.height
    assert effect(found["a"], found["b"]).p_value < 0.001
    cohorts = cohort_users(measured_shop, "context.arm", Period(first=first, last=last))
    assert sorted(cohorts) == ["control", "treatment"]
    names = {"a": "control", "b": "treatment"}
    some = cohorts["control"][:20] + cohorts["treatment"][:30]
    fewer = arm_users(measured_shop, "context.arm", names, Period(first=first, last=last), among=some)
    assert 15 < len(fewer["click_per_request"]["a"].x) <= 20 < len(fewer["click_per_request"]["b"].x) <= 30
    with pytest.raises(ConfigError, match="known are control, treatment"):
        arm_users(measured_shop, "context.arm", {"a": "c", "b": "treatment"}, Period(first=first, last=last))
