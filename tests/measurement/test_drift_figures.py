"""Figures, limits and alarms: what is an alarm, what is not, and what a file of thresholds may say."""

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import norm

from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.simulated_log import SimulatedLog
from recsys.data.simulation.visits import reactions, visits
from recsys.errors import ConfigError
from recsys.measurement.drift.calibration import calibration
from recsys.measurement.drift.drop import DayMean, detector
from recsys.measurement.drift.figures import DriftFigure, figures_of_window, moment_figure
from recsys.measurement.drift.reference import Reference
from recsys.measurement.drift.report import DriftReport
from recsys.measurement.drift.served import GROUPS, STRATA, Cells
from recsys.measurement.drift.thresholds import LIMITS, Thresholds
from recsys.measurement.drift.windows import DEGRADED, REQUESTS, Window
from recsys.measurement.kpis import Period
from recsys.measurement.outcomes import MeasuredLog
from recsys.measurement.settings import MeasurementSettings, Outcome

MONDAY = date(2024, 1, 1)
KINDS = {"context.device": "category"}


@pytest.fixture(scope="module")
def reference():
    users = [f"u{number}" for number in range(4_000)]
    cells = Cells(users=users, times=np.zeros(4_000), columns={"context.device": ["a", "b"] * 2_000})
    return Reference.fit([(cells, KINDS)], 5, ())


def window_of(reference, a, b, missing, hours=24, degraded=0, items=None):
    """Window in which each group has these numbers of requests."""
    column = reference.columns["context.device"].column
    counts = np.zeros((GROUPS, column.num_bins), dtype=np.int64)
    for label, number in (("a", a), ("b", b), ("missing", missing)):
        counts[:, column.labels.index(label)] = number
    total = counts.sum(axis=1, keepdims=True)
    own = {"context.device": counts, REQUESTS: total, DEGRADED: np.full((GROUPS, 1), degraded)}
    strata = np.zeros(STRATA)
    strata[12] = total.sum()
    return Window(hours=hours, counts=own, strata=strata, items=items or {})


def alarms(window, reference, thresholds=None):
    return {
        (one.figure, one.of) for one in figures_of_window(window, reference, thresholds or Thresholds()) if one.alarm
    }


def test_what_is_as_expected_is_no_alarm_and_what_is_far_off_is(reference):
    assert alarms(window_of(reference, 50, 50, 0), reference) == set()
    assert alarms(window_of(reference, 49, 49, 2), reference) == {("missing", "context.device")}
    assert alarms(window_of(reference, 90, 10, 0), reference) == {("psi", "context.device")}
    assert alarms(window_of(reference, 50, 50, 0, degraded=7), reference) == {("degraded", "")}


def test_a_limit_of_a_column_takes_the_place_of_the_general_one(reference):
    loose = Thresholds(columns={"context.device": {"missing": 0.05}})
    assert alarms(window_of(reference, 49, 49, 2), reference, loose) == set()
    off = Thresholds(limits={"missing": None})
    assert alarms(window_of(reference, 49, 49, 2), reference, off) == set()


def test_few_requests_have_no_figures_of_columns(reference):
    few = window_of(reference, 2, 2, 0)
    assert not [one for one in figures_of_window(few, reference, Thresholds()) if one.of == "context.device"]


def test_one_item_in_nine_of_a_hundred_positions_is_an_alarm(reference):
    items = {"hog": 90, **{f"i{number}": 10 for number in range(91)}}
    assert alarms(window_of(reference, 50, 50, 0, items=items), reference) == {("top_item", "hog")}
    even = {f"i{number}": 10 for number in range(100)}
    figures = figures_of_window(window_of(reference, 50, 50, 0, items=even), reference, Thresholds())
    values = {one.figure: one.value for one in figures}
    assert (values["top_item"], values["entropy"], values["coverage"]) == (0.01, pytest.approx(1.0), 100)
    hour = window_of(reference, 50, 50, 0, hours=1, items=items)
    assert alarms(hour, reference) == set()  # exposure is counted by quarters of a day


def test_longer_windows_need_fewer_standard_errors_since_fewer_are_looked_at():
    thresholds = Thresholds(errors=4.0)
    assert thresholds.errors_of(1) == pytest.approx(4.0)
    assert norm.sf(thresholds.errors_of(24)) == pytest.approx(24 * norm.sf(4.0))
    assert thresholds.errors_of(10**6) == pytest.approx(norm.isf(0.01))


def test_ages_have_limits_without_chance():
    thresholds = Thresholds(limits={"items_age_h": 24.0})
    assert [moment_figure("items_age_h", age, thresholds).alarm for age in (23.9, 24.1)] == [False, True]
    assert not moment_figure("model_age_d", 900.0, thresholds).alarm  # has no limit unless a file sets one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("errors: -1", "thresholds.errors"),
        ("limits: {mising: 1}", "mising"),
        ("limits: {missing: much}", "limits.missing is 'much'; write a number of at least 0, or null"),
        ("columns: {x: {drop: 1}}", "drop"),
        ("windows: 24", "windows is 24; write a list of hours"),
        ("windows: [0]", r"windows\[0\]"),
        ("fewest: many", "fewest is 'many'; write a number"),
        ("limit: {}", "limit"),
        ("[]", "the file"),
    ],
)
def test_a_wrong_file_of_thresholds_is_refused_by_file_and_key(tmp_path, text, message):
    file = tmp_path / "thresholds.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        Thresholds.read(file)
    assert str(raised.value).startswith(str(file))


def test_a_file_of_thresholds_changes_what_it_names_alone(tmp_path):
    file = tmp_path / "thresholds.yaml"
    file.write_text("windows: [6]\nlimits: {psi: 0.5, drop: null}\ncolumns: {profile.age: {psi: 1}}\n")
    found = Thresholds.read(file)
    assert (found.limit("psi"), found.limit("psi", "profile.age"), found.limit("drop")) == (0.5, 1, None)
    assert found.limit("missing", "profile.age") == LIMITS["missing"]
    assert (found.windows, found.errors) == ([6], 4.0)


def means_of(values, error):
    return {MONDAY + timedelta(days=day): DayMean(value=one, variance=error**2) for day, one in enumerate(values)}


def test_a_weekly_season_is_no_drop_and_a_lasting_loss_is_found():
    season = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.6, 0.6])
    quiet = np.tile(season, 8)
    steps = list(detector(means_of(quiet, 0.01), Thresholds()))
    assert len(steps) == 42  # two weeks have nothing before them
    assert max(statistic for *_, statistic in steps) < 10
    lost = quiet * np.where(np.arange(56) >= 35, 0.95, 1.0)
    found = [day for day, *_, statistic in detector(means_of(lost, 0.01), Thresholds()) if statistic >= 1_000]
    assert timedelta(days=35) <= found[0] - MONDAY <= timedelta(days=37)


def test_the_detector_seldom_cries_wolf_whenever_it_is_looked_at():
    """300 shops of 60 quiet days: at most 60 / 1,000 of them have an alarm, but for chance."""
    generator, wolves = np.random.default_rng(0), 0
    for _ in range(300):
        values = 1 + 0.02 * generator.standard_normal(60)
        wolves += any(statistic >= 1_000 for *_, statistic in detector(means_of(values, 0.02), Thresholds()))
    assert wolves <= 18


def test_the_mean_of_a_day_has_the_variance_of_the_delta_method():
    generator = np.random.default_rng(1)
    y = generator.integers(1, 5, 400).astype(float)
    x = y * generator.random(400)
    mean = DayMean.of(x, y)
    assert mean.value == pytest.approx(x.sum() / y.sum())
    boots = [x[rows].sum() / y[rows].sum() for rows in generator.integers(0, 400, (2_000, 400))]
    assert math.sqrt(mean.variance) == pytest.approx(np.std(boots), rel=0.1)
    assert DayMean.of(x[:5], y[:5]) is None


def test_calibration_of_what_was_shown_against_what_came_of_it(tmp_path):
    """The log says the true click probability times 2: the ratio is 2 within its error."""
    shop = SimulatedShop(users=400, items=60, days=3, slate=4, seed=5)
    shown = visits(shop)
    log = tmp_path / "events"
    SimulatedLog(history=0, files_per_day=1, late=0.0).write(log, shop, shown, reactions(shop, shown))
    for file in (log / "impressions").glob("*/*.parquet"):
        table = pl.read_parquet(file)
        said = pl.concat_str(pl.lit('{"click":'), pl.col("utility") * 2, pl.lit("}"))
        table.with_columns(probabilities=said).write_parquet(file)
    settings = MeasurementSettings(
        actions={"kind": "word"}, outcomes={"click": Outcome(value="kind == 'click'", window_s=3_600.0)}, k=(1,)
    )
    measured = MeasuredLog(log=log, folder=tmp_path / "measurement", settings=settings)
    measured.update()
    (found,) = calibration(measured, "simulated", Period(first=MONDAY, last=MONDAY + timedelta(days=9)))
    assert abs(found.log_ratio.value - math.log(2)) < 4 * found.log_ratio.error
    assert found.log_ratio.error < 0.1
    assert [one for one, _ in found.tenths] == sorted(one for one, _ in found.tenths)
    assert len(found.tenths) == 10
    figure = found.figure(168, Thresholds(limits={"miscalibration": 0.2}))
    assert figure.alarm
    assert not found.figure(168, Thresholds()).alarm
    assert calibration(measured, "another", Period(first=MONDAY, last=MONDAY)) == []


def test_the_gauges_are_a_page_that_prometheus_reads():
    def figure(**changes):
        values = {"figure": "psi", "of": "context.device", "window": 24, "value": 0.1, "error": 0.0}
        return DriftFigure(**{**values, "limit": 0.2, "alarm": False, "requests": 9, **changes})

    figures = [
        figure(),
        figure(of='context.device@context."x"=1'),
        figure(of="profile.age@context.device=d1", alarm=True, value=0.4),
        figure(figure="top_item", of="an item", limit=None),
    ]
    report = DriftReport(bundle="b", until=5.0, figures=figures, calibration=[])
    families = {one.name: one for one in text_string_to_metric_families(report.gauges())}
    shown = {(one.labels["figure"], one.labels["of"]): one.value for one in families["recsys_drift"].samples}
    assert shown == {
        ("psi", "context.device"): 0.1,
        ("psi", "profile.age@context.device=d1"): 0.4,
        ("top_item", ""): 0.1,
    }
    assert len(families["recsys_drift_limit"].samples) == 2
    assert [one.value for one in families["recsys_drift_alarm"].samples] == [0.0, 1.0, 0.0]
    assert families["recsys_drift_until"].samples[0].value == 5.0
    assert report.alarms == [figures[2]]
