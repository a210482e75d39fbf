"""A request without one thing is what it would have been had that thing never come."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from recsys.contracts import PAD
from recsys.features.encode import encode_queries
from recsys.features.occlusion import EVERYTHING, occluded_variants
from recsys.features.spec import IDENTITY, MISSING, TIME_NUMBERS, UNKNOWN

COLUMNS = np.array([3, 0])
POPULAR = np.array([4, 1])


@pytest.fixture(scope="module")
def query(trained: Any) -> Any:
    """Of the user who has met most."""
    user = max(trained.dataset.users["user"], key=lambda name: len(trained.replay.latest(name, np.inf, 5).history))
    row = trained.replay.rows_of_user[np.searchsorted(trained.replay.names, user)].max()
    return trained.replay.query(int(row), 5)


@pytest.fixture(scope="module")
def arrays(trained: Any, query: Any) -> Any:
    tensors = trained.stages[0]({"QUERY": [query]})
    read = ("history_", "profile_", "context_", "candidate_")
    return {name: one for name, one in tensors.items() if name.startswith(read) and name != "candidate_rows"}


@pytest.fixture(scope="module")
def found(trained: Any, arrays: Any) -> Any:
    """variant -> its tensors"""
    names, together = occluded_variants(trained.stages[0].spec, arrays, COLUMNS, POPULAR)
    return {name: {tensor: one[place] for tensor, one in together.items()} for place, name in enumerate(names)}


def request(trained: Any, query: Any, **changed: Any) -> Any:
    stage = trained.stages[0]
    encoded, _ = encode_queries(stage.spec, stage.items, [dataclasses.replace(query, **changed)])
    return {name: one[0] for name, one in encoded.tensors().items()}


def test_the_first_variant_lacks_nothing(arrays: Any, found: Any) -> None:
    assert next(iter(found)) == EVERYTHING
    for name, one in found[EVERYTHING].items():
        expected = arrays[name][0][COLUMNS] if name.startswith("candidate_") else arrays[name][0]
        np.testing.assert_array_equal(one, expected, err_msg=name)


def test_without_a_group_the_request_is_that_of_a_query_without_it(trained: Any, query: Any, found: Any) -> None:
    for group, changed in (("history", {"history": ()}), ("profile", {"profile": {}}), ("context", {"context": {}})):
        expected = request(trained, query, **changed)
        if group == "context":
            expected["context_numbers"][-len(TIME_NUMBERS) :] = 0
        for name, one in expected.items():
            np.testing.assert_array_equal(found[group][name], one, err_msg=f"{group}: {name}")


def test_identity_content_and_collaborative_scores_are_those_of_the_candidates(
    trained: Any, arrays: Any, found: Any
) -> None:
    columns = trained.stages[0].spec.items.of_kind("category", "categories")
    assert columns[0].name == IDENTITY
    everything = found[EVERYTHING]["candidate_ids"]
    assert (found["item"]["candidate_ids"][:, 0] == UNKNOWN).all()
    np.testing.assert_array_equal(found["item"]["candidate_ids"][:, 1:], everything[:, 1:])
    np.testing.assert_array_equal(found["content"]["candidate_ids"][:, 0], everything[:, 0])
    assert (found["content"]["candidate_ids"][:, 1:] == MISSING).all()
    offered = arrays["candidate_ids"][0, :, 0] != MISSING
    assert not offered.all(), "the padding does not count"
    mean = arrays["candidate_scores"][0][offered].mean(axis=0)
    scores = arrays["candidate_scores"][0][COLUMNS]
    own = np.isin(np.arange(len(mean)), POPULAR)
    np.testing.assert_allclose(found["popularity"]["candidate_scores"], np.where(own, mean, scores), rtol=1e-5)
    np.testing.assert_allclose(found["collaborative"]["candidate_scores"], np.where(own, scores, mean), rtol=1e-5)


def test_events_are_numbered_from_the_newest(trained: Any, query: Any, found: Any) -> None:
    _, rows = encode_queries(trained.stages[0].spec, trained.stages[0].items, [query])
    kept = rows[0][rows[0] != PAD][-trained.stages[0].spec.history_length :]
    events = [name for name in found if name.startswith("event ")]
    assert events == [f"event {number}" for number in range(1, len(kept) + 1)]
    assert len(kept) > 2
    full = found[EVERYTHING]
    for number, name in enumerate(events, start=1):
        gone = full["history_ids"].copy()
        gone[-number] = 0
        np.testing.assert_array_equal(found[name]["history_ids"], gone)
        np.testing.assert_array_equal(found[name]["history_gaps"], full["history_gaps"])
