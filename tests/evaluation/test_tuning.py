"""Knobs are those with the best validation NDCG@10, found again by brute force; and the poison tests of all baselines.

N items.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest

from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, VALIDATION, GlobalTime, LeaveOneOut
from recsys.errors import ConfigError
from recsys.evaluation.baselines import Popularity, RecentPopularity
from recsys.evaluation.factor_baselines import ALS
from recsys.evaluation.linear_baselines import EASE, ItemKNN, Mix, WindowTransitions
from recsys.evaluation.tuning import TunedBaseline, best_for_new_users
from recsys.metrics import hits, ndcg
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.interactions import Histories
from recsys.replay.replay import Replay

SPLITTERS = {
    "global time": GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None),
    "leave one out": LeaveOneOut(min_events=5),
}
STEPS = {"window": [1, 3], "power": [0.25, 0.5], "decay": [0.5, 1.0]}
TUNED = {
    "popularity": TunedBaseline(baseline=Popularity, grid={}),
    "recent_popularity": TunedBaseline(baseline=RecentPopularity, grid={"days": [1.0, 7.0, 30.0]}),
    "item_knn": TunedBaseline(baseline=ItemKNN, grid={"neighbours": [5, 50], "shrinkage": [0.0, 10.0]}),
    "transitions": TunedBaseline(baseline=WindowTransitions, grid=STEPS),
    "linear_mix": TunedBaseline(baseline=Mix, grid={"damping": [0.3, 0.5], "weight": [0.1, 5.0], **STEPS}),
    "ease": TunedBaseline(baseline=partial(EASE, most_items=1_000), grid={"regularisation": [1.0, 30.0, 1000.0]}),
    "als": TunedBaseline(
        baseline=partial(ALS, factors=8, iterations=5, regularisation=1.0, threads=1, seed=0),
        grid={"confidence": [1.0, 20.0]},
    ),
}


@pytest.fixture(scope="module")
def dataset():
    return Synthetic(users=150, items=60, events=6_000, seed=1).load()


@pytest.fixture(scope="module", params=SPLITTERS)
def splitter(request):
    return SPLITTERS[request.param]


def asked(dataset, split):
    replay = Replay(dataset, split)
    return tuple(EvaluationQueries.of(dataset, split, replay, period) for period in (VALIDATION, TEST))


@pytest.fixture(scope="module")
def periods(dataset, splitter):
    return asked(dataset, splitter.splits(dataset)[-1])


@pytest.mark.parametrize("name", TUNED)
def test_the_choice_is_the_best_of_all_points_on_validation(name, periods):
    validation, test = periods
    tuned, reached = TUNED[name], []
    for point in tuned.points():
        scorer = tuned.baseline(**point).fit(validation.known)
        ranking = validation.rank(validation.scores_of(scorer))
        found = hits(ranking, validation.targets)
        reached.append(ndcg(found, validation.targets.num_targets, 10).mean())
    choice = tuned.fit(validation, test)
    best = tuned.points()[int(np.argmax(reached))]
    assert choice.parameters == best
    expected = tuned.baseline(**best).fit(test.known).scores(test.histories)
    assert np.array_equal(choice.scorer.scores(test.histories), expected)


def test_some_grid_has_something_to_choose(periods):
    validation, test = periods
    chosen = [TUNED[name].fit(validation, test).parameters for name in TUNED]
    assert any(knobs != tuned.points()[0] for knobs, tuned in zip(chosen, TUNED.values(), strict=True))


def test_the_points_are_all_combinations_in_order():
    grid = {"neighbours": [5, 50], "shrinkage": (0.0, 10.0)}
    points = [{"neighbours": n, "shrinkage": s} for n in (5, 50) for s in (0.0, 10.0)]
    assert TunedBaseline(baseline=ItemKNN, grid=grid).points() == points
    assert TunedBaseline(baseline=Popularity, grid={}).points() == [{}]


def test_a_knob_without_values_is_refused():
    with pytest.raises(ConfigError, match="no values for shrinkage"):
        TunedBaseline(baseline=ItemKNN, grid={"neighbours": [5], "shrinkage": []})


def test_the_best_baseline_for_new_users_is_the_best_on_the_new_users_of_validation(periods):
    """Found again by brute force; users of synthetic data are known, so histories are taken away."""
    validation, test = periods
    forgotten = np.arange(len(validation)) % 3 == 0
    histories = Histories.of([[] if new else own for new, own in zip(forgotten, lists_of(validation), strict=True)])
    judging = replace(validation, histories=histories)
    named = {name: TUNED[name] for name in ("popularity", "recent_popularity")}
    reached = {
        (name, *point.values()): validation.ndcg_at_10(
            validation.scores_of(tuned.baseline(**point).fit(validation.known))
        )[forgotten].mean()
        for name, tuned in named.items()
        for point in tuned.points()
    }
    name, fitted = best_for_new_users(named, judging, test)
    assert (name, *fitted.parameters.values()) == max(reached, key=reached.get)
    expected = named[name].baseline(**fitted.parameters).fit(test.known).scores(test.histories)
    assert np.array_equal(fitted.scorer.scores(test.histories), expected)
    assert best_for_new_users({}, judging, test) is None


def lists_of(queries):
    histories = queries.histories
    return np.split(histories.items, histories.indptr[1:-1])


def poisoned(dataset, chosen):
    """The chosen events meet other items; who, when and what was done stay."""
    ids = dataset.items["item"]
    other = pl.col("item").replace_strict(ids, np.roll(ids.to_numpy(), 17))
    item = pl.when(pl.Series(chosen)).then(other).otherwise(pl.col("item"))
    return replace(dataset, interactions=dataset.interactions.with_columns(item))


def answers(tuned, dataset, split):
    """Chosen knobs, and the scores for histories that no data set holds."""
    choice = tuned.fit(*asked(dataset, split))
    probe = Histories.of([[], [3], [1, 2, 3, 3, 50], list(range(60))])
    return choice.parameters, choice.scorer.scores(probe)


@pytest.mark.parametrize("name", TUNED)
def test_altered_test_targets_change_no_knob_and_no_bit_of_a_score(name, dataset, splitter):
    split = splitter.splits(dataset)[-1]
    knobs, scores = answers(TUNED[name], dataset, split)
    altered = poisoned(dataset, split.periods >= TEST)
    assert split.targets_sha256(altered) != split.targets_sha256(dataset)
    other_knobs, other_scores = answers(TUNED[name], altered, split)
    assert other_knobs == knobs
    assert np.array_equal(other_scores, scores)


@pytest.mark.parametrize("name", TUNED)
def test_altered_validation_changes_only_the_choice_and_what_test_may_know_of_it(name, dataset, splitter):
    split = splitter.splits(dataset)[-1]
    tuned, altered = TUNED[name], poisoned(dataset, split.periods == VALIDATION)
    for point in tuned.points():
        one, other = (
            tuned.baseline(**point).fit(asked(world, split)[0].known).scores(Histories.of([[3], [1, 2, 50]]))
            for world in (dataset, altered)
        )
        assert np.array_equal(one, other)
    fixed = TunedBaseline(baseline=partial(tuned.baseline, **tuned.points()[0]), grid={})
    _, scores = answers(fixed, dataset, split)
    _, other = answers(fixed, altered, split)
    assert np.array_equal(scores, other) == split.strict
