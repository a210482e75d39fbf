"""Item-item neighbours against a dense matrix, and every operator by hand.

Shapes: B queries, L history, N items, K offers, P pairs of a query and an item.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys.candidates import item_item
from recsys.candidates.candidate_source import RECENT_EVENTS, SourceQuery
from recsys.candidates.item_item import Cooccurrence, Cosine, Ease, Transitions
from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.operators import strongest_per_row, time_weighted_gram
from recsys.contracts import PAD
from recsys.errors import ConfigError

USERS, ITEMS = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 0, 1, 1, 2, 1])
"""users 0 and 1 met items 0 and 1, user 2 met 1 twice and 2; nobody met 3"""
ALL = 10**6
"""neighbours kept"""


def events(users, items, num_items, timestamps=None, ordered=True):
    seconds = np.full(len(users), np.nan) if timestamps is None else np.asarray(timestamps, dtype=float)
    return SimpleNamespace(users=users, items=items, timestamps=seconds, num_items=num_items, ordered=ordered)


def ease_of(**config):
    plain = {"denoising": 0.0, "activity": 0.0, "nearness": 0.0, "half_life_minutes": 5.0, "most_items": 100}
    return Ease(**(plain | config))


def queries(history):
    return SourceQuery(vectors=np.zeros((len(history), 1), np.float32), history=np.asarray(history))


def neighbours(matrix, decay=1.0):
    return ItemNeighbours.of(sparse.csr_array(np.asarray(matrix, dtype=np.float32)), decay)


def test_of_sets_nothing_follows():
    assert Transitions(window=3, power=0.25).fit(events(USERS, ITEMS, 4, ordered=False), ALL) is None


def test_the_shrunken_cosine_known_answer():
    zero_one, one_two = 2 / (np.sqrt(2 * 3) + 1), 1 / (np.sqrt(3 * 1) + 1)
    expected = [[0, zero_one, 0, 0], [zero_one, 0, one_two, 0], [0, one_two, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(Cosine(shrinkage=1.0).fit(events(USERS, ITEMS, 4), ALL).toarray(), expected, rtol=1e-6)


def test_cooccurrence_known_answer():
    together = np.zeros((4, 4))
    together[0, 1] = together[1, 0] = 2 / np.sqrt(6)
    together[1, 2] = together[2, 1] = 1 / np.sqrt(3)
    np.testing.assert_allclose(
        Cooccurrence(damping=0.5).fit(events(USERS, ITEMS, 4), ALL).toarray(), together, rtol=1e-5
    )


def test_transitions_known_answer():
    popularity = np.array([2, 3, 1, 0])
    following = np.zeros((4, 4))
    following[0, 1], following[1, 2], following[2, 1] = 2, 1, 1
    following /= following.sum(axis=1, keepdims=True) + 2
    following /= np.sqrt(popularity + 1)
    found = Transitions(window=2, power=0.5).fit(events(USERS, ITEMS, 4), ALL).toarray()
    np.testing.assert_allclose(found, following, rtol=1e-5)


def test_transitions_go_forward_only():
    """Item 1 always follows item 0."""
    users, items = np.repeat(np.arange(3), 2), np.tile([0, 1], 3)
    matrix = Transitions(window=1, power=0.0).fit(events(users, items, 2), ALL).toarray()
    assert matrix[0, 1] > 0
    assert matrix[1, 0] == 0


def test_ease_is_the_least_squares_autoencoder():
    """Each column of B solves a ridge regression of the item on all the others."""
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 9, 40), generator.integers(0, 5, 40)
    seen = np.zeros((9, 5))
    seen[users, items] = 1
    found = ease_of(regularisation=2.0).fit(events(users, items, 5), ALL).toarray()
    for item in range(5):
        others = np.delete(np.arange(5), item)
        x = seen[:, others]
        ridge = np.linalg.solve(x.T @ x + 2.0 * np.eye(4), x.T @ seen[:, item])
        np.testing.assert_allclose(found[others, item], ridge, rtol=1e-4, atol=1e-6)
        assert found[item, item] == 0


def test_denoising_is_the_autoencoder_of_what_dropout_leaves():
    """Expected least squares over all ways to drop inputs, each with probability 1/3 (p / (1 - p) = 1/2), by enumeration."""
    seen = np.float64([[1, 1, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]])
    users, items = np.nonzero(seen)
    found = ease_of(regularisation=1.0, denoising=0.5).fit(events(users, items, 4), ALL).toarray()
    for item in range(4):
        others = np.delete(np.arange(4), item)
        square, product = np.zeros((3, 3)), np.zeros(3)
        for kept in np.ndindex(2, 2, 2):
            chance = np.prod(np.where(kept, 2 / 3, 1 / 3))
            x = seen[:, others] * kept
            square, product = square + chance * x.T @ x, product + chance * x.T @ seen[:, item]
        # dropout scales what is left by 2/3: the weights for whole inputs are 2/3 of those for dropped ones
        ridge = np.linalg.solve(square / (2 / 3) ** 2 + np.eye(3), product / (2 / 3))
        np.testing.assert_allclose(found[others, item], ridge, rtol=1e-4, atol=1e-6)


def test_the_gram_matrix_of_sittings_by_hand():
    """User 0 meets items 0 and 1 together and 2 one half-life later; user 1, half as active, 0 and, long after, 1 twice."""
    users, items = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 0, 1, 1])
    seconds = np.array([0.0, 0.0, 60.0, 1e9, 0.0, 1e9, 2e9])
    found = time_weighted_gram(users, items, seconds, 4, activity=1.0, nearness=2.0, half_life=60.0)
    first, second = 3 / 4, 3 / 2  # 3 items a user on average
    assert found[0, 1] == found[1, 0] == pytest.approx(3 * first + 1 * second)
    assert found[0, 2] == pytest.approx(2 * first)
    assert found[0, 3] == pytest.approx(first)
    assert found.diagonal().tolist() == pytest.approx([3 * first + 3 * second] * 2 + [3 * first] * 2)


def test_without_a_clock_nothing_is_near():
    near, far = (
        ease_of(regularisation=1.0, nearness=nearness).fit(events(USERS, ITEMS, 4), ALL) for nearness in (5.0, 0.0)
    )
    assert np.array_equal(near.toarray(), far.toarray())


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_the_gram_matrix_never_depends_on_the_order_of_events_and_is_positive_semidefinite(seed):
    generator = np.random.default_rng(seed)
    users, items = generator.integers(0, 4, 30), generator.integers(0, 6, 30)
    seconds, order = generator.integers(0, 500, 30).astype(float), generator.permutation(30)
    config = {"activity": 0.5, "nearness": 3.0, "half_life": 60.0}
    found = time_weighted_gram(users, items, seconds, 6, **config)
    np.testing.assert_allclose(
        found, time_weighted_gram(users[order], items[order], seconds[order], 6, **config), rtol=1e-5
    )
    assert np.linalg.eigvalsh(found.astype(np.float64)).min() > -1e-4


def test_ease_refuses_a_large_catalogue_in_a_sentence():
    with pytest.raises(
        ConfigError, match=r"20,001 items \(3.0 GiB and 0.1 hours a fit\), wanted at most 20,000; choose Cosine"
    ):
        ease_of(regularisation=1.0, most_items=20_000).fit(events(USERS, ITEMS, 20_001), ALL)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 10_000))
def test_pruning_keeps_the_strongest_and_ties_go_to_the_lower_column(num_items, kept, seed):
    matrix = np.random.default_rng(seed).integers(-2, 3, (num_items, num_items)).astype(np.float32)
    found = strongest_per_row(sparse.csr_array(matrix), kept).toarray()
    for row, own in zip(matrix, found, strict=True):
        strongest = sorted(np.flatnonzero(row), key=lambda column: (-abs(row[column]), column))[:kept]
        expected = np.zeros(num_items)
        expected[strongest] = row[strongest]
        assert own.tolist() == expected.tolist()


@settings(deadline=None, max_examples=80)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000), st.floats(0.1, 1))
def test_an_answer_equals_a_dense_matrix(num_items, length, k, seed, decay):
    generator = np.random.default_rng(seed)
    matrix = generator.integers(-1, 4, (num_items, num_items)) * generator.random((num_items, num_items))
    history = generator.integers(PAD, num_items + 2, (3, length))
    answer = neighbours(matrix, decay).scores_for(queries(history))
    query, row = np.divmod(np.arange(3 * (num_items + 2)), num_items + 2)
    scores = answer.score(query, row).reshape(3, -1)
    for own, found, offered in zip(history, scores, answer.top_k(k), strict=True):
        events = [(place, item) for place, item in enumerate(own) if 0 <= item < num_items]
        sums = sum((decay ** (length - 1 - place) * matrix[item] for place, item in events), np.zeros(num_items))
        sums = sums / sums.max() if sums.max() > 0 else sums
        np.testing.assert_allclose(found[:num_items], sums, rtol=1e-4, atol=1e-6)
        assert not found[num_items:].any(), "items that came later are not known"
        kept = offered[offered != PAD]
        assert len(kept) == min(k, (found > 0).sum())
        assert kept.tolist() == sorted(np.flatnonzero(found > 0), key=lambda item: (-found[item], item))[:k]


def test_equal_sums_go_to_the_lower_row_and_newer_events_weigh_more():
    matrix = np.zeros((4, 4))
    matrix[0, [2, 3]], matrix[1, [3, 2]] = (1, 0.5), (1, 0.5)
    assert neighbours(matrix).scores_for(queries([[0, 1]])).top_k(2).tolist() == [[2, 3]]
    newer = neighbours(matrix, 0.5).scores_for(queries([[0, 1]]))
    assert newer.top_k(2).tolist() == [[3, 2]]
    np.testing.assert_allclose(newer.score(np.zeros(2, int), np.array([3, 2])), [1, 1 / 1.25])


def test_an_empty_history_gets_nothing():
    scores = neighbours(np.ones((3, 3))).scores_for(queries(np.full((2, 4), PAD)))
    assert (scores.top_k(3) == PAD).all()
    assert not scores.score(np.array([0, 1]), np.array([0, 2])).any()


def test_the_largest_sum_is_one_also_where_it_is_excluded_later():
    scores = neighbours([[0, 4, 2], [0, 0, 0], [0, 0, 0]]).scores_for(queries([[0]]))
    assert scores.score(np.zeros(3, int), np.arange(3)).tolist() == [0, 1, 0.5]


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_what_each_of_the_newest_events_says_is_read_from_the_matrix(seed):
    """Histories shorter than RECENT, PAD within them, items that came later, rows of padding."""
    generator = np.random.default_rng(seed)
    matrix = generator.integers(0, 3, (6, 6)).astype(np.float32)
    history = generator.integers(PAD, 8, (3, generator.integers(0, 7)))
    scores = neighbours(matrix).scores_for(queries(history))
    query, row = np.divmod(np.arange(3 * 9), 9)
    row -= 1
    found = scores.event_scores(query, row)
    assert found.shape == (27, RECENT_EVENTS)
    assert found.dtype == np.float32
    for one, item, said in zip(query, row, found, strict=True):
        newest = [*history[one, ::-1], *[PAD] * RECENT_EVENTS][:RECENT_EVENTS]
        expected = [matrix[event, item] if 0 <= event < 6 and 0 <= item < 6 else 0 for event in newest]
        assert said.tolist() == expected


CONFIG = {"num": 5, "weight": 1.0, "decays": [1.0], "neighbours": 3, "operator": Cosine(shrinkage=0.0)}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"decays": [0]}, "decays"),
        ({"decays": [1.1]}, "decays"),
        ({"decays": []}, "decays"),
        ({"neighbours": 0}, "neighbours"),
        ({"num": 0}, "num"),
        ({"weight": -1.0}, "weight"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(config, key):
    with pytest.raises(ConfigError, match=rf"candidates\.item_item\.{key} is"):
        item_item.ItemItem(**{**CONFIG, **config})


@pytest.mark.parametrize(
    ("operator", "config"),
    [
        (Cosine, {"shrinkage": -1}),
        (ease_of, {"regularisation": 0}),
        (ease_of, {"regularisation": 1, "half_life_minutes": 0}),
        (Cooccurrence, {"damping": 2}),
        (Transitions, {"window": 0, "power": 0.25}),
    ],
)
def test_an_option_of_an_operator_out_of_range_is_refused_by_name(operator, config):
    with pytest.raises(ConfigError, match=r"candidates\.item_item\.operator\.\w+ is"):
        operator(**config)
