"""POST /v1/recommend before the real Triton: the same slates as in this process, and what is logged of them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from recsys.contracts import Query, Slate, query_from_dict
from recsys.pipeline import light, recommend
from recsys.schema import schema_of
from recsys.stages import load_explain, read_spec
from serving.events.record import Record
from serving.gateway.container import Dependencies
from serving.state.protocols import UserState

NUM_QUERIES = 50
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def queries(trained: Any) -> list[Query]:
    """Moments of the log, some of them with exclusions, counters or nothing known."""
    rows = np.random.default_rng(1).choice(trained.dataset.num_events, NUM_QUERIES, replace=False)
    ids = trained.dataset.items["item"].to_list()
    changes = (
        lambda query: query,
        lambda query: replace(query, exclude=tuple(ids[:9]), k=30),
        lambda query: replace(query, history=(), profile={}, context={}),
        lambda query: replace(query, impressions={ids[0]: 3.0, "category=war": 0.4}, surface="home"),
    )
    asked = trained.replay.queries(rows, k=10)
    return [
        replace(changes[place % len(changes)](query), request_id=f"request-{place}")
        for place, query in enumerate(asked)
    ]


class Renamed:
    """Models of a server on which one of them has another name."""

    def __init__(self, models: Any, gone: str) -> None:
        self.models, self.gone = models, gone

    async def infer(self, model: str, *args: Any, **more: Any) -> bytes:
        return await self.models.infer("gone" if model == self.gone else model, *args, **more)

    async def close(self) -> None:
        await self.models.close()


class Silent(Renamed):
    """Models of a server of which one never answers."""

    async def infer(self, model: str, *args: Any, **more: Any) -> bytes:
        if model == self.gone:
            await asyncio.Event().wait()
        return await self.models.infer(model, *args, **more)


async def asked(door: Any, query: Query, **fields: Any) -> dict[str, Any]:
    """Columns of the data that no feature reads are refused at the door, so they are not sent."""
    known = read_spec(door.parts.bundle).context.columns
    answer = await door.recommend(
        query.user,
        k=query.k,
        surface=query.surface,
        context={one.name: query.context[one.name] for one in known if one.name in query.context},
        profile=query.profile,
        exclude=list(query.exclude),
        headers={"x-request-id": query.request_id},
        **fields,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == query.request_id
    return answer.json()


def known_to(parts: Dependencies, query: Query) -> Dependencies:
    """The gateway at the moment of this query."""
    parts.states.known[query.user] = UserState(history=query.history, shown=query.impressions)  # type: ignore[attr-defined]
    return parts


def slate_of(answer: dict[str, Any]) -> Slate:
    document = {name: value for name, value in answer.items() if name != "rung"}
    return Slate.from_json(orjson.dumps(document))


def test_slates_are_those_of_the_process(
    served_parts: Callable[[], Dependencies], opened: Any, queries: list[Query], trained: Any
) -> None:
    moment = {"now": 0.0}

    async def all_of_them() -> list[dict[str, Any]]:
        parts = replace(served_parts(), now=lambda: moment["now"])
        async with opened(parts) as door:
            answers = []
            for query in queries:
                moment["now"] = query.now
                known_to(parts, query)
                answers.append(await asked(door, query))
            return answers

    answers = asyncio.run(all_of_them())
    assert {answer["rung"] for answer in answers} == {"recommend"}
    for query, answer in zip(queries, answers, strict=True):
        (expected,) = recommend([query], trained.stages)
        assert_same(slate_of(answer), expected)


def assert_same(found: Slate, expected: Slate) -> None:
    def names(slate: Slate) -> Any:
        places = [(one.item, one.sources, one.rules, one.rank, one.explored) for one in slate.items]
        return slate.user, slate.request_id, slate.degraded, slate.bundle, slate.rules, places

    def figures(slate: Slate) -> list[float]:
        return [value for one in slate.items for value in (one.utility, one.propensity, *one.probabilities.values())]

    assert names(found) == names(expected)
    np.testing.assert_allclose(figures(found), figures(expected), atol=TOLERANCE, rtol=0)


def test_what_was_shown_is_logged_with_all_that_made_it(
    served_parts: Callable[[], Dependencies], opened: Any, queries: list[Query]
) -> None:
    query = queries[1]

    async def one() -> tuple[Dependencies, dict[str, Any]]:
        parts = replace(served_parts(), now=lambda: query.now)
        async with opened(known_to(parts, query)) as door:
            return parts, await asked(door, query)

    parts, answer = asyncio.run(one())
    (record,) = parts.writer.of_kind("impression")  # type: ignore[attr-defined]
    wanted = Record.impression(query, slate_of(answer), "recommend")
    assert (record.id, record.user, record.timestamp) == (wanted.id, wanted.user, wanted.timestamp)
    logged = query_from_dict(Record.from_json(record.to_json()).body["query"])
    assert logged == replace(query, context=logged.context)
    assert logged.context.items() <= query.context.items()
    assert Record.from_json(record.to_json()).body["slate"] == Record.from_json(wanted.to_json()).body["slate"]
    assert record.body["rung"] == "recommend"
    assert record.shown_items() == tuple(place["item"] for place in answer["items"])


def test_who_asks_for_reasons_gets_them_and_they_are_logged(
    served_parts: Callable[[], Dependencies], opened: Any, queries: list[Query], trained: Any
) -> None:
    query = queries[0]

    async def one() -> tuple[Dependencies, dict[str, Any], dict[str, Any]]:
        parts = replace(served_parts(), now=lambda: query.now)
        async with opened(known_to(parts, query)) as door:
            return parts, await asked(door, query, explain=True), await asked(door, replace(query, request_id="x"))

    parts, answer, plain = asyncio.run(one())
    assert answer["rung"] == "recommend_explained"
    (expected,) = recommend([query], (*trained.stages, load_explain(trained.bundle)))
    assert_same(slate_of(answer), expected)
    assert any(one.adds for one in expected.items)
    for place, twin in zip(answer["items"], expected.items, strict=True):
        assert place.get("adds", {}) == pytest.approx(twin.adds, abs=TOLERANCE)
        assert place.get("because_of") == twin.because_of
    assert plain["rung"] == "recommend"
    assert not any("adds" in one or "because_of" in one for one in plain["items"])
    explained, _ = parts.writer.of_kind("impression")  # type: ignore[attr-defined]
    assert explained.body["slate"]["items"] == answer["items"]


@pytest.mark.parametrize(("models", "reason"), [(Renamed, "failed"), (Silent, "timeout")])
def test_reasons_that_do_not_come_leave_the_slate(
    served_parts: Callable[[], Dependencies], opened: Any, queries: list[Query], trained: Any, models: Any, reason: str
) -> None:
    """What they may take comes on top of the budget of the rungs below."""
    query = queries[0]

    async def one() -> dict[str, Any]:
        parts = served_parts()
        parts = replace(
            parts,
            models=models(parts.models, "recommend_explained"),
            now=lambda: query.now,
            settings=replace(parts.settings, explain_ms=100.0, warm_up_s=1.0),
        )
        async with opened(known_to(parts, query)) as door:
            return await asked(door, query, explain=True)

    answer = asyncio.run(one())
    assert answer["rung"] == "recommend"
    (expected,) = recommend([query], trained.stages)
    told = (*expected.degraded, "rung:recommend", f"recommend_explained:{reason}")
    assert_same(slate_of(answer), replace(expected, degraded=told))


def test_a_query_document_says_all_of_the_query(queries: list[Query]) -> None:
    event = replace(queries[0].history[-1], request_id="r", position=0, propensity=0.5, bundle="b", rules="c")
    for query in (*queries, replace(queries[0], history=(event,))):
        assert query_from_dict(schema_of(Query).document(query)) == query


def test_without_the_ranker_the_light_model_answers(
    served_parts: Callable[[], Dependencies], opened: Any, queries: list[Query], trained: Any
) -> None:
    """The model of another name is not there: the real server says NOT_FOUND."""
    query = queries[0]

    async def one() -> dict[str, Any]:
        parts = served_parts()
        parts = replace(parts, models=Renamed(parts.models, "recommend"), now=lambda: query.now)
        async with opened(known_to(parts, query)) as door:
            return await asked(door, query)

    answer = asyncio.run(one())
    assert answer["rung"] == "recommend_light"
    (expected,) = recommend([query], light(trained.stages))
    told = (*expected.degraded, "rung:recommend_light", "recommend:failed")
    assert_same(slate_of(answer), replace(expected, degraded=told))
