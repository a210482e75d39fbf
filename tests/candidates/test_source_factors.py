"""Arms that change the weights of candidate sources, against stages whose sources have these weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.pipeline import recommend
from recsys.policy.compose import REFUSED_OVERRIDES

FACTORS = [{"two_tower": 0.0}, {"two_tower": 4.0, "item_item": 0.5}, {}]


@pytest.fixture
def queries(trained: Any) -> list[Any]:
    return list(trained.replay.queries(range(0, trained.dataset.num_events, trained.dataset.num_events // 12), k=6))


def test_candidates_are_those_of_sources_with_such_weights(trained: Any, queries: list[Any]) -> None:
    stage = trained.stages[0]
    names = stage.sources.names
    asked = [replace(one, policy={"sources": FACTORS[at % 3]}) for at, one in enumerate(queries)]
    found = stage({"QUERY": asked})
    plain = stage({"QUERY": queries})
    for number, factors in enumerate(FACTORS):
        own = np.array([factors.get(name, 1.0) for name in names])
        changed = stage.sources.weighted(
            tuple(np.tile(own, 2) * stage.sources.weights), tuple(np.tile(own, 2) * stage.sources.new_user_weights)
        )
        expected = replace(stage, sources=changed)({"QUERY": queries})
        part = slice(number, None, 3)
        for name in ("candidate_rows", "candidate_scores"):
            np.testing.assert_array_equal(found[name][part], expected[name][part])
    assert (found["candidate_rows"][::3] != plain["candidate_rows"][::3]).any()
    np.testing.assert_array_equal(found["candidate_rows"][2::3], plain["candidate_rows"][2::3])


@pytest.mark.parametrize("factors", [{"sauce": 2.0, "two_tower": 0.0}, {"two_tower": "much"}, ["two_tower"]])
def test_factors_that_do_not_fit_leave_the_slate_as_it_is_and_are_flagged(
    trained: Any, queries: list[Any], factors: Any
) -> None:
    found = recommend([replace(one, policy={"sources": factors}) for one in queries], trained.stages)
    for slate, plain in zip(found, recommend(queries, trained.stages), strict=True):
        assert slate.items == plain.items
        assert REFUSED_OVERRIDES in slate.degraded
