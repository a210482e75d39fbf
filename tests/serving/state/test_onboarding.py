"""What a new user likes is a history that every stage understands."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.contracts import Event
from recsys.errors import ConfigError, QueryError
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.features.state import EMPTY_HISTORY, fold_all
from recsys.pipeline import recommend
from recsys.stages import read_catalogue, read_spec
from serving.state.onboarding import Onboarding, OnboardingAnswers, actions_reaching, popularity

SPEC = FeatureSpec(
    items=TableSpec(
        name="items", columns=(Column(name="item", kind="category", vocabulary=("c", "gone", "b")),), extra_numbers=()
    ),
    profile=TableSpec(name="profile", columns=()),
    context=TableSpec(name="context", columns=()),
    history_length=3,
    actions=("click", "rating", "hours", "hidden"),
    objectives={
        "watch": "1",
        "click": "click",
        "like": "rating >= 4",
        "stay": "hours >= 12.5 and hidden < 1",
        "cold": "rating < -3",
        "never": "click > 1 and click < 1",
    },
    target="like",
)


@pytest.mark.parametrize(
    ("objectives", "actions"),
    [
        (["watch"], {}),
        (["click"], {"click": 1.0}),
        (["like"], {"rating": 4.0}),
        (["like", "watch", "like"], {"rating": 4.0}),
        (["stay"], {"hours": 12.5, "hidden": 0.0}),
        (["click", "like"], {"click": 1.0, "rating": 4.0}),
    ],
)
def test_the_fewest_and_smallest_actions_reach_the_objectives(objectives, actions):
    assert actions_reaching(SPEC, objectives) == actions
    labels = SPEC.labels({name: np.array([value]) for name, value in actions.items()}, 1)
    places = [list(SPEC.objectives).index(name) for name in objectives]
    assert (labels[0, places] > 0).all()


def test_words_are_found_that_reach_the_objectives():
    objectives = {"buy": "kind == 'buy'", "more": "kind in ['add', 'buy'] and where(kind == 'buy', price) > 2"}
    spec = replace(SPEC, actions={"kind": "word", "price": "number"}, objectives=objectives, target="buy")
    assert actions_reaching(spec, ["buy"]) == {"kind": "buy"}
    assert actions_reaching(spec, ["more"]) == {"kind": "buy", "price": 3.0}


@pytest.mark.parametrize(
    ("objectives", "sentence"),
    [
        (["never"], "no actions were found that reach all of never: click > 1 and click < 1"),
        (["cold"], "no actions were found"),
        (["likes"], "did you mean 'like'"),
    ],
)
def test_what_no_action_reaches_is_said(objectives, sentence):
    with pytest.raises(ConfigError, match=sentence):
        actions_reaching(SPEC, objectives)


def test_objectives_that_read_too_much_to_try_are_said():
    text = " + ".join(f"{list(SPEC.actions)[number % 4]} * {number}.5" for number in range(2, 60, 3))
    with pytest.raises(ConfigError, match=r"the objectives \['all'\] read too many actions to try"):
        actions_reaching(replace(SPEC, objectives={"all": f"{text} > 1"}), ["all"])


def test_the_order_of_popularity_is_the_recent_one_then_that_of_the_events_then_the_catalogue():
    lists = {"popular.rows": np.array([3])}
    bundle = SimpleNamespace(arrays=lambda name: lists)
    assert popularity(bundle, SPEC, ["a", "b", "c", "d"]) == (3, 2, 1, 0)
    lists.clear()
    assert popularity(bundle, SPEC, ["a", "b", "c", "d"]) == (2, 1, 0, 3)


@pytest.fixture(scope="module")
def onboarding(trained):
    return Onboarding(trained.bundle, objectives=["like"], items_per_value=3)


def test_seeds_are_remembered_and_make_the_first_slate_personal(trained, onboarding, stranger):
    catalogue = read_catalogue(trained.bundle)
    liked, value = catalogue["item"][5], catalogue["category"].drop_nulls()[0]
    seeds = onboarding.seeds("new", stranger.now, OnboardingAnswers(items=(liked,), values={"category": [value]}))
    assert seeds == onboarding.seeds(
        "new", stranger.now, OnboardingAnswers(items=(liked,), values={"category": [value]})
    )
    assert {type(one) for one in seeds} == {Event}
    assert seeds[0].item == liked
    spec = read_spec(trained.bundle)
    assert sorted(one.item for one in fold_all(EMPTY_HISTORY, seeds, spec)) == sorted(one.item for one in seeds)
    category = dict(zip(catalogue["item"], catalogue["category"], strict=True))
    assert {category[one.item] for one in seeds[1:]} == {value}
    query = replace(stranger, user="new", history=seeds)
    before, after = recommend([replace(stranger, user="new"), query], trained.stages)
    assert "history:empty" in before.degraded
    assert "history:empty" not in after.degraded
    assert [one.item for one in after.items] != [one.item for one in before.items]


def test_the_most_popular_items_stand_for_a_value(trained, onboarding):
    catalogue = read_catalogue(trained.bundle)
    order = popularity(trained.bundle, read_spec(trained.bundle), list(catalogue["item"]))
    value = catalogue["category"].drop_nulls()[0]
    having = [catalogue["item"][row] for row in order if catalogue["category"][row] == value]
    seeds = onboarding.seeds("new", 1.0, OnboardingAnswers(values={"category": [value, value]}))
    assert [one.item for one in seeds] == having[:3]


def test_there_are_no_more_seeds_than_a_history_keeps_and_the_liked_items_stay(trained, onboarding):
    items, most = tuple(read_catalogue(trained.bundle)["item"]), read_spec(trained.bundle).history_length
    assert [one.item for one in onboarding.seeds("new", 1.0, OnboardingAnswers(items=items))] == list(items[:most])
    assert onboarding.seeds("new", 1.0, OnboardingAnswers()) == ()


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (OnboardingAnswers(items=("nothing",)), "the catalogue has no item 'nothing'"),
        (
            OnboardingAnswers(values={"categorie": ["x"]}),
            "'categorie' is no column whose values can be liked; did you mean",
        ),
        (OnboardingAnswers(values={"price": ["1"]}), "'price' is no column whose values can be liked"),
        (OnboardingAnswers(values={"category": ["nothing"]}), "no item has the category 'nothing'"),
    ],
)
def test_what_nobody_can_like_is_said(onboarding, answers, sentence):
    with pytest.raises(QueryError, match=sentence):
        onboarding.seeds("new", 1.0, answers)


def test_a_number_out_of_range_is_said(trained):
    with pytest.raises(ConfigError, match=r"onboarding\.items_per_value is 0"):
        Onboarding(trained.bundle, objectives=[], items_per_value=0)
