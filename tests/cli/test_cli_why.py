"""`recommend --why`: what is said to add to a utility is what is missing without it."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from recsys.cli.why import reasons
from recsys.errors import ConfigError
from recsys.features.encode import encode_queries
from recsys.pipeline import light, through


@pytest.fixture(scope="module")
def answered(trained: Any) -> Any:
    user = trained.dataset.interactions["user"][-1]
    query = trained.replay.latest(user, float(trained.replay.timestamps.max()), 5)
    return query, through({"QUERY": [query]}, trained.stages)


def test_a_group_adds_what_the_utility_loses_without_it(trained: Any, answered: Any) -> None:
    query, tensors = answered
    retrieve, rank, rules = trained.stages
    found = reasons(trained.stages, tensors, tensors["SLATE"][0])
    assert found
    without, _ = encode_queries(retrieve.spec, retrieve.items, [query])
    without = {name: np.zeros_like(one) if name.startswith("history_") else one for name, one in without.items()}
    full, less = (rules.policy.value(rank({**tensors, **changed})["probabilities"])[0] for changed in ({}, without))
    for one in found:
        place = tensors["candidate_rows"][0].tolist().index(retrieve.items.rows[one.item])
        assert one.groups["history"] == pytest.approx(full[place] - less[place], abs=1e-5)
        assert list(one.groups) == ["retrieval", "item", "content", "profile", "context", "history"]
        assert one.because_of is None or one.because_of in {event.item for event in query.history}


def test_an_item_that_nobody_offered_has_no_reasons(trained: Any, answered: Any) -> None:
    _, tensors = answered
    slate = tensors["SLATE"][0]
    offered = set(tensors["candidate_rows"][0].tolist())
    stranger = next(item for item, row in trained.stages[0].items.rows.items() if row not in offered)
    pinned = dataclasses.replace(slate.items[0], item=stranger, sources=("rules",))
    found = reasons(trained.stages, tensors, dataclasses.replace(slate, items=(pinned, *slate.items)))
    assert [one.item for one in found] == [one.item for one in slate.items if one.sources != ("rules",)]
    assert reasons(trained.stages, tensors, dataclasses.replace(slate, items=(pinned,))) == []


def test_without_a_ranker_there_is_nothing_to_ask(trained: Any, answered: Any) -> None:
    query, _ = answered
    stages = light(trained.stages)
    tensors = through({"QUERY": [query]}, stages)
    with pytest.raises(ConfigError, match="has no ranker whose reasons could be asked for"):
        reasons(stages, tensors, tensors["SLATE"][0])


def test_the_command_prints_them(trained: Any, typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    user = trained.dataset.interactions["user"][-1]
    assert typed("recommend", "--bundle", trained.bundle.path, "--user", user, "--why") == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("what adds to the utility", "retrieval", "because of"))


def test_the_command_says_why_an_item_is_not_shown(
    trained: Any, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    user = trained.dataset.interactions["user"][-1]
    assert typed("recommend", "--bundle", trained.bundle.path, "--user", user, "--why-not", "none such") == 0
    assert "'none such' is not in the catalogue" in capsys.readouterr().out
    assert typed("recommend", "--bundle", "x", "--out", "y", "--why-not", "i1") == 2
    assert "--why-not explain the slate of one user" in capsys.readouterr().err
