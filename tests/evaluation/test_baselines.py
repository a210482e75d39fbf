"""What holds for every baseline: names and order carry nothing, knobs are checked, popularity by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.evaluation.baselines import (
    SECONDS_PER_DAY,
    NotApplicableError,
    Popularity,
    RecentPopularity,
    ScorerByHistory,
)
from recsys.evaluation.factor_baselines import ALS
from recsys.evaluation.linear_baselines import EASE, LARGEST_DENSE, ItemKNN, Mix, WindowTransitions
from recsys.replay.interactions import Histories, Interactions

BY_HISTORY = [
    ItemKNN(neighbours=2, shrinkage=0.5),
    WindowTransitions(window=2, power=0.5, decay=0.7),
    Mix(damping=0.3, window=3, power=0.25, decay=0.8, weight=0.7),
    EASE(regularisation=1.5, most_items=20_000),
]
BASELINES = [Popularity(), RecentPopularity(days=2.0), *BY_HISTORY]
FACTORS = ALS(factors=4, iterations=3, regularisation=0.1, confidence=5.0, threads=1, seed=0)


def called(baseline):
    return type(baseline).__name__


def interactions_of(events, num_users, num_items):
    users, items, days = (np.array(column) for column in zip(*events, strict=True))
    return Interactions(
        users=users,
        items=items,
        timestamps=days * SECONDS_PER_DAY,
        num_users=num_users,
        num_items=num_items,
        order="time",
    )


@pytest.fixture
def tiny():
    """Users 0 and 1 met items 0 and 1, user 2 met 1 and 2 (1 twice), nobody met 3."""
    return interactions_of([(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3), (2, 1, 4), (2, 2, 5), (2, 1, 6)], 3, 4)


@pytest.fixture
def crowd():
    generator = np.random.default_rng(11)
    events = zip(generator.integers(0, 30, 250), generator.integers(0, 12, 250), np.arange(250.0), strict=True)
    return interactions_of(list(events), 30, 12)


def test_popularity_counts_events(tiny):
    assert Popularity().fit(tiny).scores(Histories.of([[], [0]])).tolist() == [[2, 4, 1, 0]] * 2


def test_users_without_a_history_get_the_scores_of_the_other_baseline(tiny):
    popular, by_history = Popularity().fit(tiny), ItemKNN(neighbours=2, shrinkage=0.5).fit(tiny)
    histories = Histories.of([[0], [], [2], []])
    both = ScorerByHistory(with_history=by_history, without_history=popular).scores(histories)
    expected = by_history.scores(histories)
    assert np.array_equal(both[[0, 2]], expected[[0, 2]])
    assert both[[1, 3]].tolist() == [[2, 4, 1, 0]] * 2


def test_recent_popularity_counts_from_the_newest_event(tiny):
    assert RecentPopularity(days=2.0).fit(tiny).scores(Histories.of([[]])).tolist() == [[0, 2, 1, 0]]
    assert RecentPopularity(days=100.0).fit(tiny).scores(Histories.of([[]])).tolist() == [[2, 4, 1, 0]]


@pytest.mark.parametrize("baseline", [*BASELINES, FACTORS], ids=called)
def test_scores_are_dense_float32(baseline, crowd):
    scores = baseline.fit(crowd).scores(crowd.histories.batch(slice(0, 5)))
    assert (type(scores), scores.dtype, scores.shape) == (np.ndarray, np.float32, (5, 12))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("baseline", [*BASELINES, FACTORS], ids=called)
def test_a_user_has_the_same_scores_alone_and_among_others(baseline, crowd):
    scorer = baseline.fit(crowd)
    alone = [scorer.scores(crowd.histories.batch(slice(user, user + 1))) for user in range(30)]
    np.testing.assert_allclose(scorer.scores(crowd.histories), np.concatenate(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("baseline", [*BY_HISTORY, FACTORS], ids=called)
def test_an_item_that_nobody_met_speaks_for_nobody(baseline, tiny):
    scores = baseline.fit(tiny).scores(Histories.of([[3], [0, 1, 2]]))
    assert abs(scores[:, 3]).max() < 1e-6


@pytest.mark.parametrize("baseline", [*BY_HISTORY, FACTORS], ids=called)
def test_a_history_over_another_catalogue_is_refused(baseline, crowd):
    with pytest.raises(ValueError, match="catalogue row 12, the catalogue has 12"):
        baseline.fit(crowd).scores(Histories.of([[12]]))


@st.composite
def permuted(draw):
    num_users, num_items = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    event = st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1), st.integers(0, 5))
    events = draw(st.lists(event, min_size=1, max_size=25))
    users, items = draw(st.permutations(range(num_users))), draw(st.permutations(range(num_items)))
    return events, np.array(users), np.array(items)


@pytest.mark.parametrize("baseline", BASELINES, ids=called)
@settings(deadline=None, max_examples=50)
@given(permuted())
def test_names_and_order_do_not_matter(baseline, case):
    """Renaming users and items, and mixing users while the order within each stays, only renames the scores."""
    events, users, items = case
    mixed = sorted(events, key=lambda event: users[event[0]])
    renamed = [(users[user], items[item], day) for user, item, day in mixed]
    before, after = (interactions_of(some, len(users), len(items)) for some in (events, renamed))
    expected = baseline.fit(before).scores(before.histories)
    scores = baseline.fit(after).scores(after.histories)
    np.testing.assert_allclose(scores[users][:, items], expected, atol=1e-5)


@pytest.mark.parametrize(
    "baseline", [ItemKNN(neighbours=2, shrinkage=0.5), EASE(regularisation=1.5, most_items=20_000), FACTORS], ids=called
)
def test_what_knows_no_order_reads_a_history_as_a_set(baseline, crowd):
    scorer = baseline.fit(crowd)
    one, other = scorer.scores(Histories.of([[3, 1, 4], [4, 1, 3, 3]]))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("baseline", "changed", "reason"),
    [
        (RecentPopularity(days=1.0), {"order": "file"}, "no timestamps"),
        (BY_HISTORY[1], {"order": "none"}, "histories are sets"),
        (BY_HISTORY[2], {"order": "none"}, "histories are sets"),
        (
            EASE(regularisation=1.0, most_items=20_000),
            {"num_items": LARGEST_DENSE + 1},
            r"20,001 items are too many to invert \(3.0 GiB and 0.1 hours a fit\), wanted at most 20,000",
        ),
    ],
)
def test_what_the_data_are_not_for_is_left_out_with_the_reason(baseline, changed, reason, tiny):
    with pytest.raises(NotApplicableError, match=reason):
        baseline.fit(replace(tiny, **changed))


MIX = {"damping": 0.3, "window": 3, "power": 0.25, "decay": 0.8, "weight": 0.7}
STEPS = {"window": 3, "power": 0.25, "decay": 0.8}
ALTERNATING = {"factors": 4, "iterations": 3, "regularisation": 0.1, "confidence": 5.0, "threads": 1, "seed": 0}


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: RecentPopularity(days=0), "days is 0"),
        (lambda: RecentPopularity(days=float("inf")), "days is inf"),
        (lambda: ItemKNN(neighbours=0, shrinkage=0), "neighbours is 0"),
        (lambda: ItemKNN(neighbours=1.5, shrinkage=0), "neighbours is 1.5"),
        (lambda: ItemKNN(neighbours=True, shrinkage=0), "neighbours is True"),
        (lambda: ItemKNN(neighbours=5, shrinkage=-1), "shrinkage is -1"),
        (lambda: EASE(regularisation=0.0, most_items=20_000), "regularisation is 0.0"),
        (lambda: EASE(regularisation="abc", most_items=20_000), "regularisation is 'abc'"),
        (lambda: EASE(regularisation=float("nan"), most_items=20_000), "regularisation is nan"),
        (lambda: WindowTransitions(**STEPS | {"window": 0}), "window is 0"),
        (lambda: WindowTransitions(**STEPS | {"decay": 0.0}), "decay is 0.0"),
        (lambda: Mix(**MIX | {"damping": 1.1}), "damping is 1.1"),
        (lambda: Mix(**MIX | {"power": -0.1}), "power is -0.1"),
        (lambda: Mix(**MIX | {"weight": -1.0}), "weight is -1.0"),
        (lambda: ALS(**ALTERNATING | {"confidence": 0.5}), "confidence is 0.5"),
        (lambda: ALS(**ALTERNATING | {"threads": -1}), "threads is -1"),
    ],
)
def test_a_knob_out_of_range_is_named(build, key):
    with pytest.raises(ConfigError, match=key):
        build()
