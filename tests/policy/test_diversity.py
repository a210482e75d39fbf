"""Selection of a slate: known answers of every diversity and of quotas, and the exact optimum of small instances."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_twin import objects

from recsys.errors import ConfigError
from recsys.policy.diversity import DIVERSITIES, Determinantal, Diversity, MaximalMarginalRelevance, Proportions
from recsys.policy.diversity.diversity import UNKNOWN_PENALTY, ItemSimilarity, relevance, scale
from recsys.policy.diversity.item_vectors import CONTENT_DIM, content_vectors, normalize_rows
from recsys.policy.exploration import NoExploration
from recsys.policy.exploration.exploration import ExplorationDraws
from recsys.policy.kind_documents import from_document, to_document
from recsys.policy.pool import EligiblePool
from recsys.policy.slate.selection import QuotaLimits, select

# D 2: items 0, 1, 2 alike, item 3 across, item 4 in between
VECTORS = np.array([[1, 0], [2, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32)
UTILITY = (5.0, 4.0, 3.0, 2.0, 1.0)


CATALOGUE = {
    "item": objects([f"i{row}" for row in range(5)]),
    "genres": objects([("war",), ("war",), ("war", "art"), ("art",), ()]),
    "studio": objects(["x", "y", "x", None, "y"]),
    "year": np.arange(5.0),
}
TYPES = {"genres": "categories", "studio": "category", "year": "number"}


def pool(utility=UTILITY, k=5, eligible=None, pinned=None):
    num = len(utility)
    return EligiblePool(
        rows=np.arange(num)[None],
        utility=np.array([utility], dtype=float),
        eligible=np.array([[True] * num if eligible is None else eligible]),
        pinned=np.array([[-1] * k if pinned is None else pinned]),
        sizes=np.array([k]),
    )


def limits(columns, caps=(), floors=()):
    """caps (group of each column or -1, number, top), floors (whether each column counts, number, top)"""
    num = len(caps) + len(floors)
    groups, owners = [], []
    for place, (members, _, _) in enumerate(caps):
        values = np.array(members)
        groups.append(np.where(values < 0, -1, values + len(owners)))
        owners += [place] * (values.max() + 1)
    return QuotaLimits(
        bits=np.array([1 << (num - 1 - place) for place in range(num)], dtype=np.int64),
        numbers=np.array([one[1] for one in (*caps, *floors)], dtype=np.int64),
        tops=np.array([one[2] for one in (*caps, *floors)], dtype=np.int64),
        active=np.ones((1, num), dtype=bool),
        group_quota=np.array(owners, dtype=np.int32),
        groups=np.reshape(groups, (len(caps), columns)).T[None].astype(np.int32),
        floors=np.arange(len(caps), num),
        satisfies=np.reshape([one[0] for one in floors], (len(floors), columns)).T[None].astype(bool),
        item_violations=np.zeros((1, columns), dtype=np.int64),
    )


def chosen(diversity, one=None, vectors=VECTORS, caps=(), floors=(), seen=(), ranked=True):
    one = one or pool()
    num = one.rows.shape[1]
    catalogue = {**CATALOGUE, "item": CATALOGUE["item"][:num]}
    likeness = (
        diversity.similarity(vectors, catalogue, TYPES)
        if isinstance(diversity, Proportions)
        else ItemSimilarity(units=normalize_rows(vectors), shares=np.empty((num, 0), dtype=np.float32))
    )
    scoring = diversity.scoring(one, likeness, [list(seen)], ranked=ranked)
    draws = ExplorationDraws.none(1, one.pinned.shape[1])
    return select(one, limits(num, caps, floors), diversity, scoring, NoExploration(), draws)


def mmr(trade_off, window, span=None):
    return MaximalMarginalRelevance(trade_off=trade_off, window=window, span=span, content=0.0)


PLAIN = mmr(1.0, 0)


@pytest.mark.parametrize(
    ("trade_off", "window", "want"),
    [
        (1.0, 5, [0, 1, 2, 3, 4]),
        (0.5, 0, [0, 1, 2, 3, 4]),
        # after 0: 1 scores .375 - .5, 2 .25 - .5, 3 .125 - 0, 4 0 - .3536
        (0.5, 2, [0, 3, 1, 2, 4]),
        # after 0 and 3: 1 -.125, 2 -.25, 4 -.3536
        (0.5, 5, [0, 3, 1, 2, 4]),
        (0.0, 5, [0, 3, 4, 1, 2]),
    ],
)
def test_known_answers_of_maximal_marginal_relevance(trade_off, window, want):
    assert chosen(mmr(trade_off, window)).columns.tolist() == [want]


@pytest.mark.parametrize(
    ("span", "want"),
    [
        (4.0, [0, 3, 1, 2, 4]),  # what the utilities span
        (0.1, [0, 1, 2, 3, 4]),  # nobody is unsure: 10 of relevance between one and the next
        (1e6, [0, 3, 4, 1, 2]),  # nothing stands out
    ],
)
def test_a_span_of_its_own_says_how_sure_is_sure(span, want):
    assert chosen(mmr(0.5, 5, span)).columns.tolist() == [want]
    unranked = chosen(mmr(0.5, 5, span), ranked=False).columns.tolist()
    assert unranked == chosen(mmr(0.5, 5)).columns.tolist(), "scores of retrieval have no span in common"


def test_with_a_span_the_steep_stay_and_the_flat_vary():
    steep, flat = (5.0, 4.0, 3.0, 2.0, 1.0), (0.05, 0.04, 0.03, 0.02, 0.01)
    found = [chosen(mmr(0.5, 5, span=0.2), pool(utility)).columns[0].tolist() for utility in (steep, flat)]
    assert found == [[0, 1, 2, 3, 4], [0, 3, 4, 1, 2]]
    assert chosen(mmr(0.5, 5), pool(steep)).columns.tolist() == chosen(mmr(0.5, 5), pool(flat)).columns.tolist()


def test_lengths_of_vectors_do_not_count_and_zero_resembles_nothing():
    assert chosen(mmr(0.5, 5), vectors=VECTORS * 7).columns.tolist() == chosen(mmr(0.5, 5)).columns.tolist()
    assert chosen(mmr(0.5, 5), vectors=VECTORS * 0).columns.tolist() == [[0, 1, 2, 3, 4]]


def test_opposite_vectors_are_more_diverse_than_unrelated_ones():
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    assert chosen(mmr(0.0, 3), pool((3, 2, 1), k=3), vectors).columns.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("kind", [MaximalMarginalRelevance, Determinantal])
def test_unknown_utilities_come_last_under_any_trade_off(kind):
    for trade_off in (0.0, 0.3, 1.0):
        diversity = kind(trade_off=trade_off, window=5, span=None, content=0.0)
        columns = chosen(diversity, pool((5.0, 4.0, 3.0, math.nan, math.nan))).columns[0]
        assert set(columns[:3].tolist()) == {0, 1, 2}


def test_an_unknown_utility_comes_last_however_much_its_category_is_wanted():
    one = pool((5.0, 4.0, 1.0, math.nan), k=4)  # only the last one is of the one genre of the history
    fair = Proportions(trade_off=0.0, window=4, span=None, of="genres")
    assert chosen(fair, one, seen=[3]).columns[0, -1] == 3


def test_similarity_to_a_pinned_item_counts():
    one = pool(eligible=[False, True, True, True, True], pinned=[0, -1, -1, -1, -1])
    # relevance of 1, 2, 3, 4 is 1, .67, .33, 0: 1 scores 0, 2 -.17, 3 +.17
    assert chosen(mmr(0.5, 5), one).columns[0, :2].tolist() == [0, 3]


def relevant(one):
    return relevance(one, *scale(one))


def test_relevance_is_scaled_over_eligible_items():
    one = pool((8.0, 4.0, 3.0, 2.0, math.nan), eligible=[False, True, True, True, True])
    assert relevant(one).tolist() == [[0, 1, 0.5, 0, -UNKNOWN_PENALTY]]
    assert relevant(pool((2.0, 2.0))).tolist() == [[0, 0]]
    assert relevant(pool((math.nan, 2.0), eligible=[False, False])).tolist() == [[-UNKNOWN_PENALTY, 0]]


def log_det(rows, utility, vectors, trade_off):
    units = normalize_rows(vectors)
    scaled = (np.array(utility) - min(utility)) / ((max(utility) - min(utility)) or 1)
    quality = np.exp(0.5 * scaled * trade_off / (1 - trade_off))
    kernel = np.eye(len(units)) + quality[:, None] * quality * (units @ units.T)
    return np.linalg.slogdet(kernel[np.ix_(rows, rows)])[1]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.7]), st.integers(1, 7), st.integers(0, 7))
def test_a_determinantal_slate_grows_by_the_greatest_determinant(seed, trade_off, window, pin):
    """Also around the last item, pinned to a place before the seventh; its relevance is 0."""
    rng = np.random.default_rng(seed)
    vectors, utility = rng.normal(size=(9, 4)).astype(np.float32), np.sort(rng.normal(size=9))[::-1]
    utility[8] = utility[7]
    one = pool(utility, k=7, eligible=np.arange(9) != 8, pinned=np.where(np.arange(7) == pin, 8, -1))
    diversity = Determinantal(trade_off=trade_off, window=window, span=None, content=0.0)
    found = chosen(diversity, one, vectors).columns[0].tolist()
    for place in range(window):
        rest = [row for row in range(8) if row not in found[:place]]
        gains = {row: log_det([*found[:place], row], utility, vectors, trade_off) for row in rest}
        assert place == pin or gains[found[place]] == pytest.approx(max(gains.values()), abs=1e-4)
    behind = [row for place, row in enumerate(found) if place >= window and place != pin]
    assert behind == sorted(behind)


def test_a_greedy_determinant_is_near_the_best_of_all_slates():
    shares = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        vectors, utility = rng.normal(size=(10, 3)).astype(np.float32), np.sort(rng.random(10))[::-1].tolist()
        found = chosen(
            Determinantal(trade_off=0.5, window=4, span=None, content=0.0), pool(utility, k=4), vectors
        ).columns[0]
        best = max(log_det(list(rows), utility, vectors, 0.5) for rows in itertools.combinations(range(10), 4))
        shares.append(log_det(found.tolist(), utility, vectors, 0.5) / best)
    assert np.mean(shares) > 0.99
    assert min(shares) > 1 - 1 / math.e


def test_proportions_follow_the_history():
    fair = Proportions(trade_off=0.1, window=5, span=None, of="genres")
    # history is war and art alike: item 2 is both, then what keeps the balance
    assert chosen(fair, seen=[0, 3]).columns[0, 0] == 2
    assert chosen(fair, seen=[3]).columns[0, :2].tolist() == [3, 2]
    assert chosen(fair, seen=[0]).columns[0, :2].tolist() == [0, 1]
    assert chosen(fair, seen=[]).columns.tolist() == [[0, 1, 2, 3, 4]]
    assert chosen(Proportions(trade_off=1.0, window=5, span=None, of="genres"), seen=[3]).columns.tolist() == [
        [0, 1, 2, 3, 4]
    ]


def test_content_vectors_know_what_items_are():
    vectors = content_vectors(CATALOGUE, TYPES)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 1], rtol=1e-6)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(0.5)
    assert cosines[0, 2] == pytest.approx(2 / math.sqrt(6))
    assert cosines[0, 4] == 0
    titles = {**CATALOGUE, "title": objects([f"t{row}" for row in range(5)])}
    np.testing.assert_array_equal(content_vectors(titles, {**TYPES, "title": "category"}), vectors)
    empty = content_vectors({**CATALOGUE, "genres": objects([()] * 5)}, {"genres": "categories"})
    assert empty.shape == (5, 0)


def test_many_values_keep_their_cosines_about():
    rng = np.random.default_rng(0)
    values = [tuple(f"v{one}" for one in rng.choice(290, 30, replace=False)) for _ in range(600)]
    many = {"item": objects(list(range(600))), "tags": objects(values)}
    vectors = content_vectors(many, {"tags": "categories"})[:60]
    values = values[:60]
    assert vectors.shape == (60, CONTENT_DIM)
    exact = np.array([[len(set(one) & set(other)) / 30 for other in values] for one in values])
    assert np.abs(vectors @ vectors.T - exact).mean() < 0.15


def test_the_dial_mixes_vectors_and_content():
    units = (
        MaximalMarginalRelevance(trade_off=0.5, window=5, span=None, content=0.25)
        .similarity(VECTORS, CATALOGUE, TYPES)
        .units
    )
    own, content = normalize_rows(VECTORS), content_vectors(CATALOGUE, TYPES)
    np.testing.assert_allclose(units @ units.T, 0.75 * own @ own.T + 0.25 * content @ content.T, atol=1e-6)


def test_a_cap_holds_among_the_first_places_only():
    selection = chosen(PLAIN, caps=[([0, 0, 0, 1, -1], 1, 2)])
    assert selection.columns.tolist() == [[0, 3, 1, 2, 4]]
    assert not selection.relaxed.any()
    assert selection.skipped[0].tolist() == [0, 1, 1, 0, 0]


def test_items_without_a_value_are_never_capped():
    selection = chosen(PLAIN, caps=[([-1, -1, -1, -1, 0], 1, 5)])
    assert selection.columns.tolist() == [[0, 1, 2, 3, 4]]
    assert not selection.relaxed.any()


def test_a_cap_yields_when_nothing_else_is_left_and_says_so():
    selection = chosen(PLAIN, caps=[([0, 0, 0, 0, 1], 1, 5)])
    assert selection.columns.tolist() == [[0, 4, 1, 2, 3]]
    assert selection.relaxed.tolist() == [1]


def test_of_two_caps_the_later_one_yields():
    caps = [([0, 0, 0, 1, 1], 1, 5), ([0, 0, 1, 0, 0], 1, 5)]
    # after 0: 1 breaks both, 2 the first, 3 and 4 the second
    assert chosen(PLAIN, caps=caps).columns[0, :3].tolist() == [0, 3, 2]
    assert chosen(PLAIN, caps=caps[::-1]).columns[0, :3].tolist() == [0, 2, 3]


def test_pins_count_for_caps_before_anything_is_picked():
    one = pool(eligible=[True, True, True, True, False], pinned=[-1, -1, 4, -1, -1])
    selection = chosen(PLAIN, one, caps=[([0, 1, 2, 1, 0], 1, 3)])
    assert selection.columns.tolist() == [[1, 2, 4, 0, 3]]
    assert not selection.relaxed.any()


def test_pins_alone_can_break_a_cap():
    one = pool(eligible=[False, False, True, True, True], pinned=[0, 1, -1, -1, -1])
    assert chosen(PLAIN, one, caps=[([0, 0, 1, 2, 3], 1, 5)]).relaxed.tolist() == [1]


def test_a_floor_is_kept_as_late_as_it_can_be():
    selection = chosen(PLAIN, floors=[([0, 0, 0, 1, 1], 1, 3)])
    assert selection.columns.tolist() == [[0, 1, 3, 2, 4]]
    assert selection.skipped[0].tolist() == [0, 0, 1, 0, 0]
    assert not selection.relaxed.any()


def test_two_floors_share_the_places_that_are_left():
    floors = [([0, 0, 0, 1, 0], 1, 2), ([0, 0, 0, 0, 1], 1, 2)]
    selection = chosen(PLAIN, floors=floors)
    assert sorted(selection.columns[0, :2].tolist()) == [3, 4]
    assert not selection.relaxed.any()


def test_a_floor_beyond_what_there_is_gives_all_there_is_and_says_so():
    selection = chosen(PLAIN, floors=[([0, 0, 0, 1, 1], 3, 3)])
    assert selection.columns.tolist() == [[0, 3, 4, 1, 2]]
    assert selection.relaxed.tolist() == [1]


def test_the_earlier_of_a_cap_and_a_floor_that_contradict_each_other_holds():
    cap, floor = ([-1, -1, -1, 0, 0], 1, 3), ([0, 0, 0, 1, 1], 2, 3)
    selection = chosen(PLAIN, caps=[cap], floors=[floor])
    assert selection.columns[0, :3].tolist() == [0, 3, 1]
    assert selection.relaxed.tolist() == [1]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 3), st.integers(3, 6))
def test_one_cap_and_one_floor_give_half_of_the_best_sum_at_least(seed, cap, floor, k):
    rng = np.random.default_rng(seed)
    utility = np.sort(rng.random(9))[::-1].tolist()
    groups, counts = rng.integers(0, 4, 9).tolist(), (rng.random(9) < 0.4).tolist()
    floors = [(counts, min(floor, k), k)] if floor else []
    selection = chosen(PLAIN, pool(utility, k=k), np.eye(9, 2, dtype=np.float32), [(groups, cap, k)], floors)
    found = selection.columns[0].tolist()

    def keeps(rows):
        most = max(sum(groups[row] == group for row in rows) for group in range(4))
        return most <= cap and sum(counts[row] for row in rows) >= min(floor, k)

    kept = [rows for rows in itertools.combinations(range(9), k) if keeps(rows)]
    if kept and not selection.relaxed.any():
        best = max(sum(utility[row] for row in rows) for rows in kept)
        assert keeps(found)
        assert sum(utility[row] for row in found) >= 0.5 * best, "two matroids: at least half (Fisher et al. 1978)"
    if not floor:
        assert bool(kept) != selection.relaxed.any()
        if kept:
            assert sum(utility[row] for row in found) == pytest.approx(best)


@pytest.mark.parametrize(
    ("trade_off", "window", "message"),
    [
        (1.5, 1, "diversity.trade_off is 1.5"),
        (math.nan, 1, "diversity.trade_off is nan"),
        ("1", 1, "diversity.trade_off is '1'"),
        (1.0, -1, "diversity.window is -1"),
        (1.0, 1.5, "diversity.window is 1.5"),
        (1.0, True, "diversity.window is True"),
    ],
)
def test_refuses(trade_off, window, message):
    with pytest.raises(ConfigError, match=message):
        mmr(trade_off, window)
    with pytest.raises(ConfigError, match=r"diversity\.span is 0"):
        mmr(1.0, 1, span=0)


def test_a_column_that_is_no_category_is_refused():
    for column, message in (("year", "a number; name a category"), ("genrs", "did you mean 'genres'?")):
        with pytest.raises(ConfigError) as caught:
            Proportions(trade_off=0.5, window=5, span=None, of=column).similarity(VECTORS, CATALOGUE, TYPES)
        assert message in str(caught.value)


def test_documents_and_back():
    for diversity in (
        mmr(0.5, 3),
        Determinantal(trade_off=0.5, window=3, span=None, content=1.0),
        Proportions(trade_off=0, window=1, span=None, of="a"),
    ):
        document = to_document(diversity, DIVERSITIES)
        assert to_document(from_document("diversity", document, DIVERSITIES, Diversity), DIVERSITIES) == document
