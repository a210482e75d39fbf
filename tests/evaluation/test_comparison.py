"""Comparison of the configurations of a sweep: order, pairing, seeds, and what does not compare."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from recsys.evaluation.chart import TITLES
from recsys.evaluation.comparison import Comparison, FailedJob, JobFigures, PrunedJob
from recsys.evaluation.intervals import bootstrap_interval, paired_bootstrap
from recsys.evaluation.wide_table import WideTable

USERS = 400
EASE = np.random.default_rng(0).random(USERS)
"""of the users, which all configurations share"""


def job(number: int, name: str, lift: float, *, by_seed: list[float] | None = None) -> JobFigures:
    """A job whose users are better off by `lift` than by luck, give or take its own noise."""
    noise = 0.05 * np.random.default_rng(number).standard_normal(USERS)
    values = EASE + lift + noise - noise.mean()
    rows = {metric: by_seed or [0.25] for metric in TITLES}
    return JobFigures(
        name=str(number),
        configuration=name,
        protocol="VALIDATION of letters",
        targets="a",
        metric="ndcg@10",
        by_seed=rows if by_seed else {**rows, "ndcg@10": [float(values.mean())]},
        goals={},
        users=[f"u{user}" for user in range(USERS)],
        per_user=values,
    )


def printed(comparison: Comparison) -> str:
    console = Console(width=220, file=io.StringIO(), color_system=None)
    console.print(WideTable(comparison.table()))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_best_comes_first_and_the_others_are_tested_against_it_user_by_user() -> None:
    jobs = [job(0, "dim=8", -0.1), job(1, "dim=32", 0.0), job(2, "dim=64", -0.001)]
    comparison = Comparison.of(jobs, [])
    assert [one.name for one in comparison.configurations] == ["dim=32", "dim=64", "dim=8"]
    assert comparison.best == comparison.configurations[0]
    nothing, close, far = comparison.differences
    assert nothing is None
    assert close is not None
    assert far is not None
    assert far[:3] == paired_bootstrap(jobs[0].per_user, jobs[1].per_user, 0)
    assert far.p < 0.01 < 0.05 < close.p
    low, high = bootstrap_interval(jobs[1].per_user, 0)
    assert low < jobs[2].per_user.mean() < high, "unpaired, all three look alike"
    assert low < jobs[0].per_user.mean() + 0.08
    text = printed(comparison)
    assert text.startswith("Configurations compared on VALIDATION of letters")
    assert text.index("1: dim=32") < text.index("2: dim=64") < text.index("0: dim=8")


def test_the_frame_has_the_numbers_of_the_table() -> None:
    comparison = Comparison.of([job(0, "dim=8", -0.1), job(1, "dim=32", 0.0)], [])
    best, other = comparison.frame().to_dicts()
    assert (best["configuration"], best["jobs"], best["to_best mean"], best["to_best p"]) == (
        "dim=32",
        ["1"],
        None,
        None,
    )
    assert (best["low"], best["high"]) == comparison.configurations[0].over_users()
    assert tuple(other[f"to_best {name}"] for name in ("mean", "low", "high", "p")) == comparison.differences[1]
    assert other["ndcg@10"] == comparison.configurations[1].mean


def test_p_values_grow_with_the_number_of_configurations() -> None:
    near = [job(0, "best", 0.0), job(1, "near", -0.008)]
    alone = Comparison.of(near, []).differences[1]
    among = Comparison.of([*near, *(job(number, f"dim={number}", -0.008) for number in range(2, 12))], []).differences[
        1:
    ]
    assert alone is not None
    assert max(one.p for one in among if one is not None) > alone.p


def test_jobs_that_differ_by_their_seed_are_one_configuration() -> None:
    seeds = [job(number, "dim=8", lift) for number, lift in enumerate((0.0, 0.02, -0.02))]
    several = job(3, "dim=16", -0.3, by_seed=[0.1, 0.3])
    comparison = Comparison.of([*seeds, several], [])
    best, other = comparison.configurations
    values = [float(one.per_user.mean()) for one in seeds]
    assert (best.jobs, best.by_seed) == (("0", "1", "2"), tuple(values))
    assert best.per_user == pytest.approx(np.mean([one.per_user for one in seeds], axis=0))
    assert best.over_seeds() == pytest.approx(stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)))
    assert other.by_seed == (0.1, 0.3)
    assert other.values["recall@10"] == pytest.approx(0.2)
    assert Comparison.of([several], []).configurations[0].over_seeds() is not None
    assert Comparison.of(seeds[:1], []).configurations[0].over_seeds() is None
    assert "0,1,2: dim=8" in printed(comparison)


def test_with_several_goals_the_front_is_named_and_the_first_goal_selects() -> None:
    points = {"a": (0.3, 0.1), "b": (0.2, 0.4), "c": (0.1, 0.2)}
    jobs = []
    for number, (name, (first, second)) in enumerate(points.items()):
        one = job(number, name, first)
        goals = {"pipeline/ndcg@10": first, "towers/recall@100": second}
        jobs.append(replace(one, goals=goals))
    comparison = Comparison.of(jobs, [])
    assert [one.name for one in comparison.front] == ["a", "b"]
    assert comparison.best is comparison.configurations[0] is comparison.front[0]
    assert [one["front"] for one in comparison.to_document()["configurations"]] == [True, True, False]
    text = printed(comparison)
    assert "1: b (front)" in text
    assert "2: c (front)" not in text


POINTS = {"slow": (0.5, 9.0), "good": (0.3, 4.0), "quick": (0.2, 1.0), "poor": (0.1, 2.0)}
"""configuration -> NDCG and CPU milliseconds"""


def costly(budget: dict[str, float]) -> Comparison:
    jobs = [
        replace(
            job(number, name, quality),
            goals={"pipeline/ndcg@10": quality, "serving/cpu_ms": cpu_ms},
            cost={"cpu_ms": cpu_ms, "memory_mib": 2.0, "rank_cpu_ms": 0.5},
            budget=budget,
        )
        for number, (name, (quality, cpu_ms)) in enumerate(POINTS.items())
    ]
    return Comparison.of(jobs, [])


def test_a_cost_is_minimised_on_the_front() -> None:
    comparison = costly({})
    assert [one.name for one in comparison.front] == ["slow", "good", "quick"]
    assert comparison.best is comparison.front[0]
    assert "CPU ms" in printed(comparison)


def test_a_configuration_over_the_budget_is_shown_last_and_not_chosen(tmp_path: Any) -> None:
    comparison = costly({"cpu_ms": 5.0, "memory_mib": 2.0})
    assert [one.name for one in comparison.configurations] == ["good", "quick", "poor", "slow"]
    assert comparison.best is comparison.configurations[0]
    assert [one.name for one in comparison.front] == ["good", "quick"]
    assert comparison.configurations[-1].over_budget == ("cpu_ms 9 > 5",)
    text = printed(comparison)
    assert "0: slow (over the budget)" in text
    assert "budget: cpu_ms 5 and memory_mib 2; 1 of 4 are over it" in text
    assert [one["over_budget"] for one in comparison.to_document()["configurations"]] == [[], [], [], ["cpu_ms 9 > 5"]]
    assert comparison.to_document()["budget"] == {"cpu_ms": 5.0, "memory_mib": 2.0}
    comparison.draw_front(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_chosen_where_all_are_over_the_budget(tmp_path: Any) -> None:
    comparison = costly({"memory_mib": 1.0})
    assert (comparison.best, comparison.front) == (None, ())
    comparison.draw_front(tmp_path / "front.png")


def test_a_pruned_job_is_a_row_with_its_last_value() -> None:
    pruned = PrunedJob(name="1: dim=8", metric="ranking/ndcg@10", epoch=2, value=0.1234)
    comparison = Comparison.of([job(0, "dim=16", 0.0)], [], [pruned])
    text = printed(comparison)
    assert "1: dim=8 pruned after epoch 2: ranking/ndcg@10 .1234" in text
    assert comparison.to_document()["pruned"] == [
        {"name": "1: dim=8", "metric": "ranking/ndcg@10", "epoch": 2, "value": 0.1234}
    ]
    assert "1: dim=8" in printed(Comparison.of([], [], [pruned]))


@pytest.mark.parametrize("part", ["targets", "users", "metric"])
def test_what_was_measured_on_something_else_is_not_chosen_from(part: str) -> None:
    one, other = job(0, "dim=8", 0.0), job(1, "dim=16", 0.1)
    match part:
        case "targets":
            other = replace(other, targets="b")
        case "users":
            other = replace(other, users=[*other.users[1:], "someone else"])
        case "metric":
            other = replace(other, metric="recall@10")
    comparison = Comparison.of([one, other], [])
    assert comparison.best is None
    assert comparison.differences == (None, None)
    assert "not comparable, none is chosen" in printed(comparison)
    assert comparison.to_document()["best"] is None


def test_without_values_of_users_the_means_choose_and_nothing_is_paired(tmp_path: Any) -> None:
    seeds, figures = {"a": [0.7, 0.8], "b": [0.9, 0.8]}, {"rate": [0.1], "gauc/user": [0.65, 0.67]}
    jobs = [
        replace(job(0, name, 0.0), metric="auc", by_seed=figures | {"auc": aucs}, users=(), per_user=np.empty(0))
        for name, aucs in seeds.items()
    ]
    comparison = Comparison.of(jobs, [])
    assert comparison.best is not None
    assert (comparison.best.name, comparison.differences) == ("b", (None, None))
    assert comparison.best.over_users() is None
    assert comparison.best.over_seeds() is not None
    text = printed(comparison)
    assert "GAUC user" in text
    assert ".6600" in text
    comparison.draw(tmp_path / "aucs.png")


def test_a_failed_job_is_a_row_with_its_error_and_its_log() -> None:
    failed = FailedJob(name="1: dim=15", error="ConfigError: 15 is no multiple", log="runs/1/error.log")
    comparison = Comparison.of([job(0, "dim=16", 0.0)], [failed])
    text = printed(comparison)
    assert "1: dim=15 failed: ConfigError: 15 is no multiple (runs/1/error.log)" in text
    assert comparison.to_document()["failures"] == [
        {"name": "1: dim=15", "error": "ConfigError: 15 is no multiple", "log": "runs/1/error.log"}
    ]
    assert Comparison.of([], [failed]).best is None
    assert "1: dim=15" in printed(Comparison.of([], [failed]))


def test_the_picture_grows_with_the_configurations(tmp_path: Any) -> None:
    from matplotlib.image import imread

    Comparison.of([job(0, "dim=$8", 0.0)], []).draw(tmp_path / "one.png")
    long = " ".join(f"retrieval.some_key={number}" for number in range(9))
    Comparison.of([job(number, f"dim={number} {long}", 0.0) for number in range(9)], []).draw(tmp_path / "many.png")
    one, many = (imread(tmp_path / name).shape for name in ("one.png", "many.png"))
    assert many[0] > one[0]
