"""Profile values that the bundle does not know are named, as missing ones are, and blanks count for nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.pipeline import recommend


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        (lambda value: value, set()),
        (lambda value: f" {value} ", set()),
        (lambda value: f"not {value}", {"profile:segment:unknown"}),
        (lambda value: value.swapcase(), {"profile:segment:unknown"}),
        (lambda value: "", {"profile:segment"}),
        (lambda value: "   ", {"profile:segment"}),
        (lambda value: None, {"profile:segment"}),
    ],
)
def test_a_value_of_the_profile_is_known_unknown_or_missing(trained: Any, change: Any, flags: set[str]) -> None:
    queries = trained.replay.queries(np.arange(trained.dataset.num_events - 40, trained.dataset.num_events), k=3)
    query = next(one for one in queries if one.profile.get("segment"))
    changed = replace(query, profile={**query.profile, "segment": change(query.profile["segment"])})
    (slate,) = recommend([changed], trained.stages)
    assert {flag for flag in slate.degraded if flag.startswith("profile:segment")} == flags
