import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys.errors import ConfigError, DataError
from recsys.evaluation.baselines import EASE, SECONDS_PER_DAY, Interactions, ItemKNN, Popularity, RecentPopularity

BASELINES = [
    Popularity(),
    RecentPopularity(days=2.0),
    ItemKNN(neighbours=2, shrinkage=0.5),
    EASE(regularisation=1.5),
]


def interactions_of(events, num_users, num_items):
    users, items, days = (np.array(column) for column in zip(*events, strict=True))
    return Interactions(
        users=users, items=items, timestamps=days * SECONDS_PER_DAY, num_users=num_users, num_items=num_items
    )


@pytest.fixture
def tiny():
    """Users 0 and 1 met items 0 and 1, user 2 met 1 and 2 (1 twice), nobody met 3."""
    return interactions_of([(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3), (2, 1, 4), (2, 2, 5), (2, 1, 6)], 3, 4)


@pytest.fixture
def crowd():
    generator = np.random.default_rng(11)
    return interactions_of(
        list(zip(generator.integers(0, 30, 250), generator.integers(0, 12, 250), np.arange(250.0), strict=True)), 30, 12
    )


def operator_of(scorer, num_items):
    """What each single item of a history speaks for: the scores of the identity."""
    return scorer.scores(sparse.eye_array(num_items, format="csr"))


def test_popularity_counts_events(tiny):
    assert Popularity().fit(tiny).scores(sparse.csr_array((2, 4))).tolist() == [[2, 4, 1, 0]] * 2


def test_recent_popularity_counts_from_the_newest_event(tiny):
    assert RecentPopularity(days=2.0).fit(tiny).scores(sparse.csr_array((1, 4))).tolist() == [[0, 2, 1, 0]]
    assert RecentPopularity(days=100.0).fit(tiny).scores(sparse.csr_array((1, 4))).tolist() == [[2, 4, 1, 0]]


def test_a_pair_counts_once_in_the_matrix(tiny):
    assert tiny.matrix().toarray().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]]


def test_item_knn_is_the_shrunken_cosine(tiny):
    operator = operator_of(ItemKNN(neighbours=3, shrinkage=1.0).fit(tiny), 4)
    zero_one, one_two = 2 / (np.sqrt(2 * 3) + 1), 1 / (np.sqrt(3 * 1) + 1)
    expected = [[0, zero_one, 0, 0], [zero_one, 0, one_two, 0], [0, one_two, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(operator, expected, rtol=1e-6)


def test_item_knn_adds_up_the_history(tiny):
    scorer = ItemKNN(neighbours=3, shrinkage=0.0).fit(tiny)
    history = sparse.csr_array(np.array([[1, 0, 1, 0]], dtype=np.float32))
    np.testing.assert_allclose(scorer.scores(history), [[0, 2 / np.sqrt(6) + 1 / np.sqrt(3), 0, 0]], rtol=1e-6)


def test_item_knn_keeps_the_nearest_of_a_row(tiny):
    operator = operator_of(ItemKNN(neighbours=1, shrinkage=0.0).fit(tiny), 4)
    assert (operator > 0).tolist() == [
        [False, True, False, False],
        [True] + [False] * 3,
        [False, True, False, False],
        [False] * 4,
    ]


def test_item_knn_keeps_all_that_tie_with_the_last_neighbour():
    events = [(0, 0, 0), (0, 1, 0), (0, 2, 0)]
    operator = operator_of(ItemKNN(neighbours=1, shrinkage=0.0).fit(interactions_of(events, 1, 3)), 3)
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
    matrix = tiny.matrix().toarray().astype(np.float64)
    precision = np.linalg.inv(matrix.T @ matrix + 0.5 * np.eye(4))
    expected = np.eye(4) - precision @ np.diag(1 / np.diag(precision))
    operator = operator_of(EASE(regularisation=0.5).fit(tiny), 4)
    np.testing.assert_allclose(operator, expected, atol=1e-6)
    assert np.diag(operator).tolist() == [0, 0, 0, 0]


def test_ease_is_a_ridge_regression_on_the_other_items(crowd):
    matrix = crowd.matrix().toarray().astype(np.float64)
    expected = np.zeros((12, 12))
    for item in range(12):
        others = np.delete(np.arange(12), item)
        inputs = matrix[:, others]
        normal = inputs.T @ inputs + 3.0 * np.eye(11)
        expected[others, item] = np.linalg.solve(normal, inputs.T @ matrix[:, item])
    np.testing.assert_allclose(operator_of(EASE(regularisation=3.0).fit(crowd), 12), expected, atol=1e-6)


@pytest.mark.parametrize("baseline", BASELINES[2:], ids=lambda baseline: type(baseline).__name__)
def test_linear_models_know_nothing_of_a_user_without_history(baseline, crowd):
    assert not baseline.fit(crowd).scores(sparse.csr_array((3, 12))).any()


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: type(baseline).__name__)
def test_scores_are_dense_float32_for_either_kind_of_sparse_history(baseline, crowd):
    scorer = baseline.fit(crowd)
    scores = scorer.scores(crowd.matrix()[:5])
    assert (type(scores), scores.dtype, scores.shape) == (np.ndarray, np.float32, (5, 12))
    assert np.array_equal(scores, scorer.scores(sparse.csr_matrix(crowd.matrix()[:5])))


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: type(baseline).__name__)
def test_a_history_over_another_catalogue_is_refused(baseline, crowd):
    with pytest.raises(ValueError, match=r"11|dimension"):
        baseline.fit(crowd).scores(sparse.csr_array((3, 11)))


@st.composite
def permuted(draw):
    num_users, num_items = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    event = st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1), st.integers(0, 5))
    events = draw(st.lists(event, min_size=1, max_size=25))
    users, items = draw(st.permutations(range(num_users))), draw(st.permutations(range(num_items)))
    return events, draw(st.permutations(events)), np.array(users), np.array(items)


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: type(baseline).__name__)
@settings(deadline=None, max_examples=50)
@given(permuted())
def test_names_and_order_do_not_matter(baseline, case):
    """Renaming users and items and shuffling the events only renames the scores."""
    events, shuffled, users, items = case
    renamed = [(users[user], items[item], day) for user, item, day in shuffled]
    before, after = (interactions_of(some, len(users), len(items)) for some in (events, renamed))
    expected = baseline.fit(before).scores(before.matrix())
    scores = baseline.fit(after).scores(after.matrix())
    np.testing.assert_allclose(scores[users][:, items], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: RecentPopularity(days=0), "days is 0"),
        (lambda: RecentPopularity(days=float("inf")), "days is inf"),
        (lambda: ItemKNN(neighbours=0, shrinkage=0), "neighbours is 0"),
        (lambda: ItemKNN(neighbours=1.5, shrinkage=0), "neighbours is 1.5"),
        (lambda: ItemKNN(neighbours=True, shrinkage=0), "neighbours is True"),
        (lambda: ItemKNN(neighbours=5, shrinkage=-1), "shrinkage is -1"),
        (lambda: EASE(regularisation=0.0), "regularisation is 0.0"),
        (lambda: EASE(regularisation="abc"), "regularisation is 'abc'"),
        (lambda: EASE(regularisation=float("nan")), "regularisation is nan"),
    ],
)
def test_a_knob_out_of_range_is_named(build, key):
    with pytest.raises(ConfigError, match=key):
        build()


def test_recent_popularity_needs_timestamps():
    with pytest.raises(DataError, match="no timestamp"):
        RecentPopularity(days=1.0).fit(interactions_of([(0, 0, np.nan)], 1, 1))


def test_events_outside_of_their_range_are_refused():
    with pytest.raises(ValueError, match="items run from 4 to 4, wanted 0 to 3"):
        interactions_of([(0, 4, 0)], 1, 4)
    with pytest.raises(ValueError, match="differ in length"):
        Interactions(users=np.zeros(2), items=np.zeros(1), timestamps=np.zeros(1), num_users=1, num_items=1)
    with pytest.raises(DataError, match="no positive events"):
        Interactions(users=np.zeros(0), items=np.zeros(0), timestamps=np.zeros(0), num_users=1, num_items=1)
