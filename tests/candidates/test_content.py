"""Cold neighbours by content against one pair after the other."""

import math

import numpy as np
import pytest

from recsys.candidates import content
from recsys.candidates.content import ContentNeighbours

TAGS = [("a", "b"), ("a",), ("b", "c"), ("a", "rare"), ("c", "c"), None, ("b",), ("rare",)]
VECTORS = [[1.0, 0], [0, 1], [1, 1], [0, 0], [2, 0], [1, -1], [-1, 0], [0, 3]]
KINDS = ["x", "y", "x", "y", "y", "x", "x", "y"]
MET = [0, 1, 2]
COLD = [3, 4, 5, 6, 7]


def fit(known, neighbours=10, only_cold=True):
    return ContentNeighbours(num=3, weight=0.1, decays=[1.0], neighbours=neighbours, only_cold=only_cold).fit(known)


def unit(features):
    length = math.sqrt(sum(value**2 for value in features.values()))
    return {name: value / length for name, value in features.items()} if length else {}


def slow(one, other):
    """The mean of the cosines of idf-weighted values and of vectors."""
    listed = [
        {("tag", tag) for tag in tags or () if tag != "rare"} | {("kind", kind)}
        for tags, kind in zip(TAGS, KINDS, strict=True)
    ]
    idf = {value: math.log(8 / sum(value in own for own in listed)) for own in listed for value in own}
    first, second = (unit({value: idf[value] for value in listed[item]}) for item in (one, other))
    categories = sum(value * second.get(name, 0) for name, value in first.items())
    a, b = np.array(VECTORS[one]), np.array(VECTORS[other])
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return (categories + (a @ b / lengths if lengths else 0)) / 2


@pytest.fixture
def known(known_of):
    columns = {"tags": ("categories", TAGS), "kind": ("category", KINDS), "look": ("vector", VECTORS)}
    return known_of([0, 0, 1], MET, 8, **columns)


def test_every_item_speaks_for_the_cold_ones_by_their_content(known):
    found = fit(known).matrix.toarray()
    expected = [
        [max(slow(one, other), 0) if other in COLD and other != one else 0 for other in range(8)] for one in range(8)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not found[:, MET].any()


def test_met_items_are_neighbours_too_where_they_may_be(known):
    found = fit(known, only_cold=False).matrix.toarray()
    expected = [[max(slow(one, other), 0) if other != one else 0 for other in range(8)] for one in range(8)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_only_the_nearest_stay_and_steps_change_nothing(known, monkeypatch):
    whole, cut = fit(known).matrix.toarray(), fit(known, neighbours=2).matrix.toarray()
    for row, own in zip(whole, cut, strict=True):
        strongest = sorted(np.flatnonzero(row), key=lambda item: (-row[item], item))[:2]
        assert np.flatnonzero(own).tolist() == sorted(strongest)
    monkeypatch.setattr(content, "SIMILARITY_CELLS", 7)
    np.testing.assert_allclose(fit(known).matrix.toarray(), whole, rtol=1e-6)


def test_one_kind_of_content_is_enough(known_of):
    by_vectors = fit(known_of([0], [0], 3, look=("vector", [[1.0, 0], [1, 0], [0, 1]])))
    assert by_vectors.matrix.toarray()[0].tolist() == [0, 1, 0]
    by_values = fit(known_of([0], [0], 3, kind=("category", ["x", "x", "y"])))
    np.testing.assert_allclose(by_values.matrix.toarray()[0], [0, 1, 0], rtol=1e-6)


def test_a_catalogue_of_ids_has_no_such_source(known_of):
    assert fit(known_of([0], [0], 3)) is None


def test_when_every_item_is_known_nothing_is_offered_but_the_source_is_there(known_of):
    fitted = fit(known_of([0, 0, 0], [0, 1, 2], 3, kind=("category", ["x", "x", "y"])))
    assert fitted.matrix.nnz == 0
