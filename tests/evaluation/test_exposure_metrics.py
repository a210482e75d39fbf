"""Whom pages show, against textbook formulas, as laws, and with known answers."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import PAD
from recsys.data.dataset import canonical
from recsys.data.description import Description
from recsys.evaluation.attributes import Attributes, CategoryColumn
from recsys.evaluation.exposure import (
    average_popularity,
    distance,
    exposure,
    gini,
    intra_list_distance,
    popularity_lift,
    top_share,
)
from recsys.replay.interactions import Histories

NUM_ITEMS, PLACES = 9, 5
TAGS = [("a",), ("a", "b"), (), ("c",), ("b", "c", "a"), ("b",), ("a",), ("c", "b"), ("a",)]


@pytest.fixture(scope="module")
def dataset():
    items = pl.DataFrame(
        {"item": [f"i{row}" for row in range(NUM_ITEMS)], "tags": TAGS, "name": list("abcdefghi"), "studio": ["x"] * 9}
    )
    kinds = {"tags": "categories", "name": "category", "studio": "category"}
    described = Description(
        actions=("met",),
        context={},
        items=kinds,
        users={},
        objectives={"met": "met"},
        target="met",
        title=None,
        order="time",
    )
    log = pl.DataFrame({"user": ["u"], "item": ["i0"], "timestamp": [0.0], "met": [1.0]})
    return canonical(name="nine", interactions=log, items=items, users=None, description=described)


@pytest.fixture(scope="module")
def attributes(dataset):
    return Attributes.of(dataset)


@st.composite
def rankings(draw):
    """Pages of a few users with empty places at their ends."""
    pages = draw(st.lists(st.permutations(range(NUM_ITEMS)), min_size=1, max_size=6))
    lengths = [draw(st.integers(0, PLACES)) for _ in pages]
    cut = [[*page[:num], *[PAD] * (PLACES - num)] for page, num in zip(pages, lengths, strict=True)]
    return np.array(cut, dtype=np.int64)


counts = st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any)


def textbook_gini(weights):
    mean = sum(weights) / len(weights)
    return sum(abs(one - other) for one in weights for other in weights) / (2 * len(weights) ** 2 * mean)


def textbook_cosine(one, other):
    mine, theirs = (set(tags) | {"x"} for tags in (one, other))
    return len(mine & theirs) / math.sqrt(len(mine) * len(theirs))


@given(counts)
def test_gini_is_half_the_mean_difference_over_the_mean(weights):
    assert gini(np.array(weights, dtype=float)) == pytest.approx(textbook_gini(weights))


@given(st.integers(1, 40), st.floats(0.1, 1e6))
def test_gini_of_even_exposure_is_nothing_and_of_one_item_all_but_its_share(num, weight):
    assert gini(np.full(num, weight)) == pytest.approx(0, abs=1e-12)
    assert gini(np.eye(num)[0] * weight) == pytest.approx(1 - 1 / num)


@given(counts, st.integers(0, 19), st.integers(0, 19))
def test_giving_from_the_more_shown_to_the_less_shown_never_raises_gini(weights, one, other):
    before = np.array(weights, dtype=float)
    rich, poor = sorted((one % len(weights), other % len(weights)), key=lambda row: -before[row])
    after = before.copy()
    given_away = (before[rich] - before[poor]) / 2
    after[rich] -= given_away
    after[poor] += given_away
    assert gini(after) <= gini(before) + 1e-12


def test_nothing_shown_is_even():
    assert (gini(np.zeros(4)), top_share(np.zeros(4), 0.5)) == (0.0, 0.0)


@given(rankings(), st.integers(1, PLACES))
def test_exposure_counts_places_one_by_one(ranking, k):
    plain, discounted = [0.0] * NUM_ITEMS, [0.0] * NUM_ITEMS
    for page in ranking.tolist():
        for place, row in enumerate(page[:k]):
            if row != PAD:
                plain[row] += 1
                discounted[row] += 1 / math.log2(place + 2)
    assert exposure(ranking, NUM_ITEMS, k, discounted=False).tolist() == plain
    assert exposure(ranking, NUM_ITEMS, k, discounted=True) == pytest.approx(discounted)


@given(counts, st.floats(0.01, 1.0))
def test_the_top_items_have_what_the_most_shown_have(weights, share):
    num = max(1, math.floor(share * len(weights)))
    most = sum(sorted(weights, reverse=True)[:num]) / sum(weights)
    assert top_share(np.array(weights, dtype=float), share) == pytest.approx(most)


@given(rankings())
def test_an_item_of_several_values_counts_in_parts(ranking):
    shown = exposure(ranking, NUM_ITEMS, PLACES, discounted=True)
    wanted = dict.fromkeys("abc", 0.0)
    for row, weight in enumerate(shown):
        for tag in TAGS[row]:
            wanted[tag] += weight / len(TAGS[row])
    total = sum(wanted.values())
    shares = CategoryColumn.of(TAGS).shares(shown)
    assert shares == pytest.approx([held / total if total else 0.0 for held in wanted.values()])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(any), st.data())
def test_a_distance_is_what_would_have_to_change_hands(weights, data):
    one = np.array(weights) / sum(weights)
    other = one[data.draw(st.permutations(range(len(one))))]
    assert distance(one, other) == pytest.approx(np.maximum(one - other, 0).sum())
    assert 0 <= distance(one, other) <= 1 + 1e-12
    assert distance(one, one) == 0


@given(rankings(), st.integers(1, PLACES))
def test_intra_list_distance_is_the_mean_over_pairs(dataset, attributes, ranking, k):
    tags = dataset.items["tags"].to_list()
    found = intra_list_distance(ranking, attributes.units, k)
    for page, value in zip(ranking.tolist(), found, strict=True):
        pairs = list(itertools.combinations([tags[row] for row in page[:k] if row != PAD], 2))
        wanted = sum(1 - textbook_cosine(*pair) for pair in pairs) / len(pairs) if pairs else 0.0
        assert value == pytest.approx(wanted, abs=1e-12)


def test_a_column_that_tells_who_an_item_is_is_none(attributes):
    assert list(attributes.columns) == ["tags", "studio"]
    assert attributes.columns["tags"].values == ("a", "b", "c")
    assert attributes.units.shape == (NUM_ITEMS, 4)


@given(rankings(), st.lists(st.integers(0, 30), min_size=NUM_ITEMS, max_size=NUM_ITEMS), st.data())
def test_popularity_lift_holds_pages_against_histories(ranking, met, data):
    popularity = np.array(met, dtype=float)
    histories = [data.draw(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=4)) for _ in ranking]
    pages = [[row for row in page if row != PAD] for page in ranking.tolist()]
    means = [sum(met[row] for row in page) / len(page) if page else 0.0 for page in pages]
    assert average_popularity(ranking, popularity, PLACES) == pytest.approx(means)
    asked = [place for place, page in enumerate(pages) if page and histories[place]]
    before = [np.mean(popularity[histories[place]]) for place in asked]
    lift = popularity_lift(ranking, popularity, Histories.of(histories), PLACES)
    if sum(before) > 0:
        assert lift == pytest.approx(np.mean([means[place] for place in asked]) / np.mean(before) - 1)
    else:
        assert lift is None


def test_popularity_lift_known_answer():
    popularity = np.array([1.0, 2.0, 8.0])
    histories = Histories.of([[0, 1], [1, 1], []])
    ranking = np.array([[2, PAD], [1, 0], [2, PAD]])
    assert popularity_lift(ranking, popularity, histories, 2) == pytest.approx((8 + 1.5) / (1.5 + 2) - 1)
