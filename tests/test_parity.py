"""The server and the process give the same slates: the ensembles run what `recsys.pipeline` runs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.pipeline import light, recommend
from recsys.stages import load_explain

NUM_QUERIES = 240
TOLERANCE = 1e-5
ROUNDING_ERROR = 1e-6
"""of utilities in float32, by which a batch may order two places otherwise than a single query"""


@pytest.fixture(scope="module")
def queries(trained: Any) -> list[Query]:
    """Moments of the log, every second one changed in some way a caller may change it."""
    rng = np.random.default_rng(0)
    rows = rng.choice(trained.dataset.num_events, NUM_QUERIES, replace=False)
    asked = trained.replay.queries(rows, k=10)
    ids = trained.dataset.items["item"].to_list()
    changes = (
        lambda query: replace(query, k=int(rng.integers(1, 51))),
        lambda query: replace(query, user="nobody", history=(), profile={}),
        lambda query: replace(query, profile={}, context={}),
        lambda query: replace(query, exclude=(*rng.choice(ids, 15).tolist(), "no such item"), k=50),
        lambda query: replace(query, history=(*query.history, _unknown(query)), k=1),
        lambda query: replace(query, context={"device": "toaster"}, profile={"age": 1e6, "segment": None}, k=20),
    )
    return [changes[place // 2 % len(changes)](query) if place % 2 else query for place, query in enumerate(asked)]


@pytest.fixture(scope="module")
def expected(trained: Any, queries: list[Query]) -> list[Slate]:
    """Answered one by one in this process."""
    return [recommend([query], trained.stages)[0] for query in queries]


def _unknown(query: Query) -> Event:
    return Event(user=query.user, item="no such item", timestamp=query.now, actions={"click": 1.0})


def assert_same(found: Sequence[Slate], wanted: Sequence[Slate]) -> None:
    """Same users, items, reasons and order, but for places that only rounding orders; figures within TOLERANCE."""
    assert len(found) == len(wanted)
    mismatches = [one.request_id for one, other in zip(found, wanted, strict=True) if _names(one) != _names(other)]
    assert mismatches == []
    for one, other in zip(found, wanted, strict=True):
        pairs = zip(one.items, other.items, strict=True)
        assert all(a.item == b.item or abs(a.utility - b.utility) < ROUNDING_ERROR for a, b in pairs)
        np.testing.assert_allclose(_figures(one), _figures(other), atol=TOLERANCE, rtol=0)


def _by_item(slate: Slate) -> list[SlateItem]:
    return sorted(slate.items, key=lambda place: place.item)


def _names(slate: Slate) -> tuple[Any, ...]:
    places = [(place.item, place.sources, place.rules, tuple(place.probabilities)) for place in _by_item(slate)]
    return slate.user, slate.request_id, slate.degraded, slate.bundle, slate.rules, places


def _figures(slate: Slate) -> list[float]:
    return [figure for place in _by_item(slate) for figure in (place.utility, *place.probabilities.values())]


def test_the_questions_are_of_all_kinds(queries: list[Query], expected: list[Slate]) -> None:
    assert len(queries) >= 200
    assert {1, 10, 50} <= {query.k for query in queries} <= set(range(1, 51))
    flags = {flag for slate in expected for flag in slate.degraded}
    assert {"history:empty", "profile:age", "context:device"} <= flags
    assert all(slate.items for slate in expected)


def test_single_queries_give_the_same_slates_on_the_server(
    client: Any, queries: list[Query], expected: list[Slate]
) -> None:
    assert_same([client.recommend([query])[0] for query in queries], expected)


def test_batches_give_the_same_slates_on_the_server(client: Any, queries: list[Query], expected: list[Slate]) -> None:
    assert_same(client.recommend(queries), expected)


def test_batches_give_the_same_slates_in_this_process(
    trained: Any, queries: list[Query], expected: list[Slate]
) -> None:
    assert_same(recommend(queries, trained.stages), expected)


def test_the_light_ensemble_is_the_light_pipeline(trained: Any, client: Any, queries: list[Query]) -> None:
    wanted = [recommend([query], light(trained.stages))[0] for query in queries]
    assert_same(client.recommend(queries, model="recommend_light"), wanted)
    assert_same([client.recommend([query], model="recommend_light")[0] for query in queries[:20]], wanted[:20])


def test_the_plain_tensors_are_those_of_the_slates(client: Any, queries: list[Query], expected: list[Slate]) -> None:
    items, utilities = client.tensors(queries[:32])
    for row, slate in enumerate(expected[:32]):
        shown = len(slate.items)
        assert [item.decode() for item in items[row]] == [
            *(place.item for place in slate.items),
            *[""] * (items.shape[1] - shown),
        ]
        np.testing.assert_allclose(
            utilities[row, :shown], [place.utility for place in slate.items], atol=TOLERANCE, rtol=0
        )
        assert np.isnan(utilities[row, shown:]).all()


def test_the_reasons_on_the_server_are_those_of_this_process(
    trained: Any, client: Any, queries: list[Query], expected: list[Slate]
) -> None:
    explain = load_explain(trained.bundle)
    wanted = recommend(queries, (*trained.stages, explain))
    found = client.recommend(queries, model="recommend_explained")
    assert_same(found, expected)
    named = 0
    for one, other in zip(found, wanted, strict=True):
        for place, twin in zip(_by_item(one), _by_item(other), strict=True):
            assert place.because_of == twin.because_of
            assert place.adds == pytest.approx(twin.adds, abs=TOLERANCE)
            named += bool(place.adds)
    assert named > len(queries)
