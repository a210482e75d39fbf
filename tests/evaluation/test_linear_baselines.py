"""Linear baselines against their formulas: loops over pairs, closed forms, and a mix by hand.

N items.
"""

import numpy as np
import pytest

from recsys.evaluation.linear_baselines import EASE, ItemKNN, Mix, WindowTransitions
from recsys.replay.interactions import Histories, Interactions


def interactions_of(histories, num_items):
    users = np.repeat(np.arange(len(histories)), [len(one) for one in histories])
    items = np.array([item for one in histories for item in one], dtype=np.int64)
    timestamps = np.zeros(len(items))
    return Interactions(
        users=users,
        items=items,
        timestamps=timestamps,
        num_users=len(histories),
        num_items=num_items,
        order="user",
    )


@pytest.fixture
def tiny():
    """Users 0 and 1 met items 0 and 1, user 2 met 1 and 2 (1 twice), nobody met 3."""
    return interactions_of([[0, 1], [0, 1], [1, 2, 1]], 4)


@pytest.fixture
def crowd():
    generator = np.random.default_rng(11)
    return interactions_of([generator.integers(0, 12, generator.integers(1, 15)).tolist() for _ in range(30)], 12)


def operator_of(scorer, num_items):
    """What each single item of a history speaks for."""
    return scorer.scores(Histories.of([[item] for item in range(num_items)]))


def test_item_knn_is_the_shrunken_cosine(tiny):
    operator = operator_of(ItemKNN(neighbours=3, shrinkage=1.0).fit(tiny), 4)
    zero_one, one_two = 2 / (np.sqrt(2 * 3) + 1), 1 / (np.sqrt(3 * 1) + 1)
    expected = [[0, zero_one, 0, 0], [zero_one, 0, one_two, 0], [0, one_two, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(operator, expected, rtol=1e-6)


def test_item_knn_adds_up_the_history(tiny):
    scores = ItemKNN(neighbours=3, shrinkage=0.0).fit(tiny).scores(Histories.of([[0, 2]]))
    np.testing.assert_allclose(scores, [[0, 2 / np.sqrt(6) + 1 / np.sqrt(3), 0, 0]], rtol=1e-6)


def test_item_knn_keeps_the_nearest_of_a_row(tiny):
    operator = operator_of(ItemKNN(neighbours=1, shrinkage=0.0).fit(tiny), 4)
    assert np.argwhere(operator > 0).tolist() == [[0, 1], [1, 0], [2, 1]]


def test_item_knn_keeps_all_that_tie_with_the_last_neighbour():
    operator = operator_of(ItemKNN(neighbours=1, shrinkage=0.0).fit(interactions_of([[0, 1, 2]], 3)), 3)
    assert operator.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("neighbours", [1, 3, 100])
def test_item_knn_equals_a_loop_over_pairs(crowd, neighbours):
    sets = [set(crowd.users[crowd.items == item]) for item in range(12)]
    expected = np.zeros((12, 12))
    for i, a in enumerate(sets):
        cosines = {j: len(a & b) / (np.sqrt(len(a) * len(b)) + 2) for j, b in enumerate(sets) if j != i and a & b}
        least = sorted(cosines.values(), reverse=True)[:neighbours][-1]
        for j, cosine in cosines.items():
            expected[i, j] = cosine if cosine >= least else 0
    operator = operator_of(ItemKNN(neighbours=neighbours, shrinkage=2.0).fit(crowd), 12)
    np.testing.assert_allclose(operator, expected, rtol=1e-6)


def test_ease_is_its_closed_form(tiny):
    matrix = tiny.matrix.toarray().astype(np.float64)
    precision = np.linalg.inv(matrix.T @ matrix + 0.5 * np.eye(4))
    expected = np.eye(4) - precision @ np.diag(1 / np.diag(precision))
    operator = operator_of(EASE(regularisation=0.5, most_items=20_000).fit(tiny), 4)
    np.testing.assert_allclose(operator, expected, atol=1e-6)
    assert np.diag(operator).tolist() == [0, 0, 0, 0]


def test_ease_is_a_ridge_regression_on_the_other_items(crowd):
    matrix = crowd.matrix.toarray().astype(np.float64)
    expected = np.zeros((12, 12))
    for item in range(12):
        others = np.delete(np.arange(12), item)
        inputs = matrix[:, others]
        normal = inputs.T @ inputs + 3.0 * np.eye(11)
        expected[others, item] = np.linalg.solve(normal, inputs.T @ matrix[:, item])
    np.testing.assert_allclose(
        operator_of(EASE(regularisation=3.0, most_items=20_000).fit(crowd), 12), expected, atol=1e-5
    )


def test_ease_of_more_items_than_are_mirrored_at_a_time():
    generator = np.random.default_rng(0)
    many = interactions_of([generator.choice(2_100, 20, replace=False).tolist() for _ in range(300)], 2_100)
    gram = many.together.toarray().astype(np.float64) + np.diag(many.popularity + 2.0)
    precision = np.linalg.inv(gram)
    expected = np.eye(2_100) - precision / np.diag(precision)
    np.testing.assert_allclose(EASE(regularisation=2.0, most_items=20_000).fit(many).operator, expected, atol=1e-5)


def textbook_mix(histories, history, num_items, *, damping, window, power, decay, weight):
    """The formula, item by item."""
    seen = np.array([[item in one for item in range(num_items)] for one in histories], dtype=float)
    popularity = seen.sum(axis=0)
    together = seen.T @ seen * (1 - np.eye(num_items))
    scale = np.maximum(popularity, 1) ** -damping
    similarity = scale[:, None] * together * scale
    counts = np.zeros((num_items, num_items))
    for one in histories:
        for later in range(len(one)):
            for distance in range(1, min(window, later) + 1):
                if one[later - distance] != one[later]:
                    counts[one[later - distance], one[later]] += 1 / distance
    following = counts / (counts.sum(axis=1, keepdims=True) + 2) / (popularity + 1) ** power
    strength = np.zeros(num_items)
    for age, item in enumerate(history[::-1]):
        strength[item] = max(strength[item], decay**age)
    scores = 1e-7 * popularity
    for part, operator in ((1.0, similarity), (weight, following)):
        term = strength @ operator
        scores = scores + part * term / (term.max() or 1)
    return scores


def test_the_mix_by_hand():
    """0 then 1 twice, 1 then 2 once, 0 then 2 at distance two once; the history is 0, then 1."""
    learnt = interactions_of([[0, 1, 2], [0, 1]], 4)
    scores = Mix(damping=0.5, window=2, power=1.0, decay=0.5, weight=3.0).fit(learnt).scores(Histories.of([[0, 1]]))
    similarity = np.array(
        [1.0, 0.5, 1 / np.sqrt(2) + 0.5 / np.sqrt(2), 0]
    )  # of 0 and 1: 2 / sqrt(2 * 2), with 2: 1 / sqrt(2)
    following = np.array([0, 0.5 * 2 / (2.5 + 2) / 3, (1 / (1 + 2) + 0.5 * 0.5 / (2.5 + 2)) / 2, 0])
    expected = similarity / similarity.max() + 3 * following / following.max() + 1e-7 * np.array([2, 2, 1, 0])
    np.testing.assert_allclose(scores, [expected], rtol=1e-6)


@pytest.mark.parametrize(
    "knobs",
    [
        {"damping": 0.3, "window": 3, "power": 0.25, "decay": 0.8, "weight": 0.7},
        {"damping": 0.5, "window": 1, "power": 0.0, "decay": 1.0, "weight": 0.0},
        {"damping": 1.0, "window": 20, "power": 1.0, "decay": 0.1, "weight": 5.0},
    ],
)
def test_the_mix_equals_its_formula(crowd, knobs):
    histories = [part.tolist() for part in np.split(crowd.items, crowd.histories.indptr[1:-1])]
    expected = [textbook_mix(histories, one, 12, **knobs) for one in histories]
    np.testing.assert_allclose(Mix(**knobs).fit(crowd).scores(crowd.histories), expected, rtol=1e-5, atol=1e-7)


def test_transitions_are_the_mix_without_its_first_term(crowd):
    steps = {"window": 2, "power": 0.5, "decay": 0.7}
    mix = Mix(damping=0.3, weight=1e6, **steps).fit(crowd).scores(crowd.histories) / 1e6
    alone = WindowTransitions(**steps).fit(crowd).scores(crowd.histories)
    np.testing.assert_allclose(alone, mix, atol=1e-5)


def test_the_newest_event_counts_most():
    learnt = interactions_of([[0, 2], [1, 3]], 4)
    one, other = WindowTransitions(window=1, power=0.0, decay=0.5).fit(learnt).scores(Histories.of([[0, 1], [1, 0]]))
    assert one[3] == other[2] == pytest.approx(1.0, abs=1e-6)
    assert one[2] == other[3] == pytest.approx(0.5, abs=1e-6)


def test_a_user_without_history_gets_no_opinion(crowd):
    nobody = Histories.of([[], []])
    for baseline in (ItemKNN(neighbours=2, shrinkage=0.0), EASE(regularisation=1.0, most_items=20_000)):
        assert not baseline.fit(crowd).scores(nobody).any()
    knobs = {"damping": 0.3, "window": 3, "power": 0.25, "decay": 0.8, "weight": 0.7}
    np.testing.assert_allclose(Mix(**knobs).fit(crowd).scores(nobody), [1e-7 * crowd.popularity] * 2, rtol=1e-6)
