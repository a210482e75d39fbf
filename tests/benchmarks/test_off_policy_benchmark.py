"""The benchmark of off-policy evaluation in worlds and shops that take no time."""

import dataclasses

import numpy as np
import pytest

from benchmarks.claims.policy import off_policy
from benchmarks.claims.policy.off_policy import (
    BOOTSTRAP,
    INTERVAL,
    LOGGED,
    Direction,
    choose,
    directions,
    figures,
    shop,
    simulated,
)
from benchmarks.lib import off_policy_report
from benchmarks.lib.bandit_world import WORLDS, World
from recsys.errors import DataError
from recsys.experiments.logged_policy import shares
from recsys.experiments.off_policy import DEFAULT, ESTIMATORS, OffPolicyData, ips

SMALL = World(
    name="small", rounds=300, actions=4, rate=0.2, interaction=0.5, logging=0.5, wanted=1.5, explored=0.1, people=50
)


def test_the_truth_of_a_world_is_what_its_parts_say():
    value = 0.0
    for policy, chances in zip(SMALL.policy, SMALL.chances, strict=True):
        value += sum(p * chance for p, chance in zip(policy, chances, strict=True)) / SMALL.people
    assert SMALL.truth == pytest.approx(value)
    for policy in (SMALL.policy, SMALL.logger):
        np.testing.assert_allclose(policy.sum(axis=1), 1)


def test_a_log_is_drawn_by_the_chances_of_its_world():
    """Frequencies within 5 standard errors of the exact ones; the seed is fixed."""
    world = dataclasses.replace(SMALL, rounds=200_000)
    log, who = world.draw(0)
    np.testing.assert_array_equal(log.propensities, world.logger[who, log.actions])
    chances = world.logger.mean(axis=0)
    found = np.bincount(log.actions, minlength=4) / len(log)
    assert (np.abs(found - chances) < 5 * np.sqrt(chances / len(log))).all()
    logged = (world.logger * world.chances).sum(axis=1).mean()
    assert log.rewards.mean() == pytest.approx(logged, abs=5 * np.sqrt(logged / len(log)))
    again, _ = world.draw(0)
    np.testing.assert_array_equal(again.actions, log.actions)


def test_a_step_of_the_stairs_belongs_to_its_own_action():
    """Each person's first and last moment on the stairs: no draw leaves the person's actions."""
    heights = SMALL._stairs
    for person in range(SMALL.people):
        first, last = np.searchsorted(heights, [person, np.nextafter(person + 1, 0)], side="right")
        assert (first - person * 4, last - person * 4) == (0, 3)


def test_every_world_explores_all_that_its_policy_wants():
    assert len({world.name for world in WORLDS}) == len(WORLDS) == 18
    assert all((world.logger > 0).all() for world in WORLDS)


@pytest.fixture(scope="module")
def simulation():
    return simulated(SMALL, 6)


def test_a_simulation_has_a_row_an_estimator(simulation):
    assert [row["estimator"] for row in simulation] == list(ESTIMATORS)
    for row in simulation:
        assert row["rmse"] >= abs(row["bias"]) - 1e-4
        assert (BOOTSTRAP in row["coverage"]) == (row["estimator"] == DEFAULT)
        assert all(0 <= share <= 1 for share in row["coverage"].values())
    errors = []
    for seed in range(6):
        log, who = SMALL.draw(seed)
        question = OffPolicyData(log=log, policy=SMALL.policy[who], predicted=np.zeros((300, 4)))
        errors.append(ips(question).mean() / SMALL.truth - 1)
    (row,) = (row for row in simulation if row["estimator"] == "IPS")
    assert row["bias"] == pytest.approx(np.mean(errors), abs=1e-4)


def row(world, estimator, rmse, **coverage):
    return {"world": world, "estimator": estimator, "rmse": rmse, "coverage": coverage}


def test_the_criterion_wants_coverage_first_then_least_error_then_the_truest_interval():
    rows = [
        row("a", "precise", 0.1, normal=0.94, skewed=0.95),
        row("b", "precise", 0.1, normal=0.85, skewed=0.89),
        row("a", "right", 0.2, normal=0.93, skewed=0.95),
        row("b", "right", 0.2, normal=0.91, skewed=0.94),
        row("a", "wide", 0.3, normal=0.97, skewed=0.97),
        row("b", "wide", 0.3, normal=0.97, skewed=0.97),
    ]
    assert choose(rows) == ("right", "skewed")
    assert choose(rows[:2]) == ("precise", "skewed")
    too_wide = [row("a", "timid", 0.1, normal=1.0), row("a", "right", 0.2, normal=0.98)]
    assert choose(too_wide) == ("right", "normal")


@pytest.fixture
def folder(tmp_path):
    """A shop of 4 items and 120 rounds a log, where bts likes item 3."""
    rng = np.random.default_rng(0)
    head = "item_id,position,click,propensity_score," + ",".join(f"user_feature_{n}" for n in range(4))
    for policy, chances in (("random", [0.25] * 4), ("bts", [0.1, 0.1, 0.2, 0.6])):
        (tmp_path / policy).mkdir()
        for campaign in ("all", "men", "women"):
            items = rng.choice(4, size=120, p=chances)
            lines = [f"{i},{n % 3 + 1},{int(n % 5 == 0)},{chances[i]},a,b,c,d" for n, i in enumerate(items)]
            (tmp_path / policy / f"{campaign}.csv").write_text("\n".join([head, *lines]) + "\n")
            (tmp_path / policy / f"{campaign}_items.csv").write_text("item_id\n0\n1\n2\n3\n")
    return tmp_path


def test_both_directions_of_every_campaign_are_asked(folder):
    asked = list(directions(folder))
    assert [(one.campaign, one.name) for one in asked] == [
        (campaign, name) for campaign in ("all", "men", "women") for name in ("random -> bts", "bts -> random")
    ]
    to_bts, to_random = asked[:2]
    np.testing.assert_array_equal(to_bts.policy, shares(to_random.log))
    np.testing.assert_array_equal(to_random.policy, np.full((3, 4), 0.25))
    assert to_bts.truth == to_random.log.rewards.mean()


def test_the_clicks_of_the_policy_asked_about_are_no_part_of_an_estimate(folder):
    """Poison: they are turned around."""
    one = next(directions(folder))
    turned = dataclasses.replace(one, clicks=1 - one.clicks)
    assert [row["value"] for row in shop(one, 1)] == [row["value"] for row in shop(turned, 1)]
    assert one.truth == pytest.approx(1 - turned.truth)


def test_the_figures_are_those_of_the_default_and_of_random_to_bts(folder, simulation, tmp_path):
    real = [row for one in directions(folder) for row in shop(one, 2)]
    assert [row["estimator"] for row in real[:9]] == [*ESTIMATORS, LOGGED]
    ours = [row for row in real if row["estimator"] == DEFAULT and row["direction"] == "random -> bts"]
    claimed = figures(simulation, real)
    errors = [one for row in ours for one in row["relative_errors"]]
    assert len(errors) == 6
    assert claimed["median_relative_error_random_to_bts"].value == pytest.approx(np.median(errors), abs=1e-4)
    (default,) = (row for row in simulation if row["estimator"] == DEFAULT)
    assert claimed["worst_coverage"].value == claimed["greatest_coverage"].value == default["coverage"][INTERVAL]
    off_policy.console.print(off_policy_report.coverage_table(simulation, DEFAULT, BOOTSTRAP))
    off_policy.console.print(off_policy_report.shop_table(real, DEFAULT))
    picture = off_policy_report.draw(simulation, real, INTERVAL, tmp_path / "picture.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_copies_of_a_round_are_predicted_by_a_model_that_has_not_seen_it(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(
        off_policy,
        "cross_fitted",
        lambda log, seed, groups: seen.append(groups) or np.zeros((len(log), log.num_actions)),
    )
    one = next(directions(folder))
    places = np.array([5, 5, 7])
    assert isinstance(one, Direction)
    one.question(places, seed=0)
    np.testing.assert_array_equal(seen[0], places)


def test_a_missing_folder_is_said(monkeypatch):
    monkeypatch.delenv("RECSYS_DATA", raising=False)
    with pytest.raises(DataError, match="RECSYS_DATA is not set; set it to the folder that holds open-bandit-small"):
        off_policy.data_folder()
