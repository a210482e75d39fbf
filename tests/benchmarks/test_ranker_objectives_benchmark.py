"""The benchmark of several real objectives on worlds that take no time: nothing of an answer is in its question."""

import dataclasses
import pickle

import numpy as np
import polars as pl
import pytest

from benchmarks.claims.ranking import ranker_objectives
from benchmarks.claims.ranking.ranker_objectives import BOOSTED, OURS, RATE, Answers, figures, jobs, read, run, twin
from benchmarks.lib.objective_cases import PRIOR, Case, folder_of
from recsys.contracts import PAD
from recsys.data.dataset import canonical
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, VALIDATION, GlobalTime
from recsys.errors import ConfigError, DataError

WORLD = Synthetic(users=60, items=40, events=3_000, seed=0)
SIZES = dataclasses.replace(ranker_objectives.CONFIG.sizes, dim=8, expert_dim=8, num_experts=1)
SMALL = dataclasses.replace(ranker_objectives.CONFIG, sizes=SIZES, epochs=1)


def as_sets(dataset):
    """The same without time; a pair of user and item is met once."""
    pairs = dataset.interactions.unique(["user", "item"], keep="first", maintain_order=True)
    return canonical(
        name="sets",
        interactions=pairs.with_columns(timestamp=pl.lit(0.0)),
        items=dataset.items,
        users=dataset.users,
        description=dataclasses.replace(dataset.description, order="none"),
    )


@pytest.fixture(scope="module")
def dataset():
    return WORLD.load()


@pytest.fixture(scope="module", params=["time", "sets"])
def case(request, dataset):
    return Case.of(dataset if request.param == "time" else as_sets(dataset))


def test_periods_are_asked_apart_and_every_candidate_has_its_rates(case, dataset):
    assert len(case.train) > len(case.valid) > 0
    assert len(case.test) == len(case.users) > 0
    for one in (case.train, case.valid, case.test):
        shown = one.candidate_rows != PAD
        assert shown[:, 0].all()
        assert one.candidate_scores.shape == (*one.candidate_rows.shape, case.spec.num_objectives + 2)
        assert np.isfinite(one.candidate_scores).all()
        assert (one.candidate_scores[~shown] == 0).all()
        assert np.isnan(one.labels[~shown]).all()


def test_the_rates_of_a_log_are_those_of_the_events_before(dataset):
    case = Case.of(dataset)
    split = GlobalTime(rank=0.1, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[0]
    labels = dataset.labels()
    mean = np.nanmean(labels[split.known(VALIDATION)], axis=0)
    items = dataset.interactions["item"].to_numpy()
    first = np.flatnonzero(split.periods == TEST)[0]
    before = labels[:first][items[:first] == items[first]]
    rates = (np.nansum(before, axis=0) + PRIOR * mean) / ((~np.isnan(before)).sum(axis=0) + PRIOR)
    rates = rates.clip(1e-4, 1 - 1e-4)
    logits = np.log(rates / (1 - rates))
    np.testing.assert_allclose(case.test.candidate_scores[0, 0, 1:-1], logits, rtol=1e-4)
    assert case.test.candidate_scores[0, 0, -1] == pytest.approx(np.log1p(len(before)))


@pytest.mark.parametrize("form", ["time", "sets"])
def test_what_is_asked_in_the_test_changes_no_question_before_it(dataset, form):
    """Poison: the labels of the test are turned around."""
    plain = dataset if form == "time" else as_sets(dataset)
    case = Case.of(plain)
    asked = {
        (int(user), int(row)) for user, rows in zip(case.users, case.test.candidate_rows, strict=True) for row in rows
    }
    assert asked
    name = next(iter(plain.description.actions))
    column = plain.interactions[name].to_numpy().copy()
    periods = _periods(plain)
    column[periods == TEST] = 1 - column[periods == TEST]
    turned = dataclasses.replace(plain, interactions=plain.interactions.with_columns(pl.Series(name, column)))
    other = Case.of(turned)
    for part in ("train", "valid"):
        one, two = getattr(case, part), getattr(other, part)
        np.testing.assert_array_equal(one.candidate_scores, two.candidate_scores)
        np.testing.assert_array_equal(one.labels, two.labels)
        for tensor, array in one.request.items():
            np.testing.assert_array_equal(array, two.request[tensor], err_msg=tensor)
    if form == "sets":
        np.testing.assert_array_equal(case.test.candidate_scores, other.test.candidate_scores)
    assert not np.array_equal(case.test.labels, other.test.labels)


def _periods(dataset):
    from recsys.data.splits import Random

    if dataset.description.clock:
        return (
            GlobalTime(rank=0.1, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None)
            .splits(dataset)[0]
            .periods
        )
    return Random(rank=0.05, validation=0.2, test=0.2, seed=0).splits(dataset)[0].periods


def test_every_system_answers_and_a_row_says_what_it_is_worth(case, tmp_path, monkeypatch):
    monkeypatch.setattr(ranker_objectives, "CONFIG", SMALL)
    monkeypatch.setattr(ranker_objectives, "SEEDS", 1)
    monkeypatch.setattr(ranker_objectives, "RESAMPLES", 5)
    file = tmp_path / "case"
    file.write_bytes(pickle.dumps(case))
    objective = case.objectives[0]
    planned = [job for job in jobs(case, file) if job.system in (OURS, twin(objective), BOOSTED, RATE)]
    assert [job.system for job in planned] == [OURS, twin(objective), BOOSTED, RATE]
    found = [(job, run(job)) for job in planned]
    for job, predicted in found:
        assert set(predicted) == set(job.objectives)
        assert all(((one >= 0) & (one <= 1)).all() for one in predicted.values())
    answers = Answers.of(case, objective, ranker_objectives._of(found, case.name, objective))
    rows = answers.rows()
    assert [row["system"] for row in rows] == [OURS, "twin", BOOSTED, RATE]
    assert rows[0]["ranker_ahead"] == 0
    for row in rows:
        assert row["auc_ci95"][0] <= row["auc_ci95"][1]
        assert 0 < row["ece"] < 1
    assert figures(rows).keys() >= {"worst_auc_ahead_of_twin", "worst_auc_ahead_of_lightgbm", "worst_pcoc_distance"}
    assert ranker_objectives.draw([answers], tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_arguments_and_the_folder_are_checked(monkeypatch):
    assert read([]) == ["informfully", "steam", "retailrocket"]
    assert read(["steam"]) == ["steam"]
    with pytest.raises(ConfigError, match="'stem' is no data set"):
        read(["stem"])
    monkeypatch.delenv("RECSYS_DATA", raising=False)
    with pytest.raises(DataError, match="RECSYS_DATA is not set"):
        folder_of("steam")
