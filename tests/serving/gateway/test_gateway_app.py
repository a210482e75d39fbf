"""The application in this process, without a model server: errors, limits, feedback, logs."""

import asyncio
import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from recsys.items.store import Edit, ItemStore
from recsys.policy.rules.store import RuleStore
from recsys.stages import load_live_rules, read_catalogue, read_schema
from recsys.user_seed import USER_SEED, read_users
from serving.events.record import Record
from serving.gateway.container import Dependencies
from serving.gateway.item_writer import ItemStoreWriter
from serving.gateway.settings import Settings

USER, MAIL = "planted-user-7391", "planted.person@example.org"
EVENT = {"user": USER, "timestamp": 5.0}
BALANCED = "rules: [{name: even, exposure: item, least: 0, most: 0.1}]"


def test_a_state_store_that_is_away_or_slow_is_a_flag(parts: Dependencies, during: Any) -> None:
    settings = replace(parts.settings, state_ms=20.0)

    async def story(door: Any) -> list[list[str]]:
        states, flags = parts.states, []
        states.away = True  # type: ignore[attr-defined]
        flags.append((await door.recommend(USER)).json()["degraded"])
        states.away, states.hold = False, asyncio.Event()  # type: ignore[attr-defined]
        flags.append((await door.recommend(USER)).json()["degraded"])
        states.hold = None  # type: ignore[attr-defined]
        flags.append((await door.recommend(USER)).json()["degraded"])
        return flags

    away, slow, well = during(replace(parts, settings=settings), story)
    assert "state:away" in away
    assert "state:slow" in slow
    assert not {"state:away", "state:slow"} & set(well)


def test_what_was_shown_to_everybody_decides_and_the_log_keeps_what_decided(
    parts: Dependencies, during: Any, tmp_path: Path
) -> None:
    """It is read beside the requests, a store that does not answer is a flag, and no record carries a whole catalogue."""

    async def story(door: Any) -> list[dict[str, Any]]:
        answers = [(await door.recommend(USER)).json()]
        parts.exposures.away = True  # type: ignore[attr-defined]
        while "exposure:late" not in answers[-1]["degraded"]:
            await asyncio.sleep(0.01)
            answers.append((await door.recommend(USER)).json())
        return answers

    RuleStore(tmp_path / "rules").publish(BALANCED, who="ann", why="x", expected=None)
    known = read_catalogue(parts.bundle)["item"].to_list()
    shares = {f"item={item}": 0.25 for item in (*known, *map(str, range(5_000)))}
    parts.exposures.shares |= shares  # type: ignore[attr-defined]
    parts.share_file.write(shares)
    live = load_live_rules(parts.bundle, tmp_path / "rules", None, parts.share_file.path.parent)
    settings = replace(parts.settings, exposure_every_s=1.0)
    answers = during(replace(parts, rules=live, settings=settings), story)
    assert "exposure:late" not in answers[0]["degraded"]
    assert all("exposure" not in answer for answer in answers)
    assert {place["rules"].get("even") for answer in answers for place in answer["items"]} == {"balanced"}
    records = parts.writer.of_kind("impression")  # type: ignore[attr-defined]
    for record in records:
        exposure = record.body["query"]["exposure"]
        assert exposure == dict.fromkeys(exposure, 0.25)
        assert {f"item={item}" for item in record.shown_items()} <= exposure.keys() <= shares.keys()
        assert "exposure" not in record.body["slate"]
        assert len(record.to_json()) < 32_000
    assert len(records) == len(answers)


def test_a_log_that_is_away_is_said_on_later_answers_and_refuses_feedback(
    parts: Dependencies, during: Any, items: Any
) -> None:
    async def story(door: Any) -> list[Any]:
        writer = parts.writer
        writer.away = True  # type: ignore[attr-defined]
        await door.recommend(USER)
        while "impressions:late" not in (later := (await door.recommend(USER)).json())["degraded"]:
            await asyncio.sleep(0)
        refused = await door.client.post("/v1/events", json={"events": [EVENT | {"item": items[0]}]})
        writer.away = False  # type: ignore[attr-defined]
        taken = await door.client.post("/v1/events", json={"events": [EVENT | {"item": items[0]}]})
        return [later, refused, taken]

    _, refused, taken = during(parts, story)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (taken.status_code, taken.json()["accepted"]) == (200, 1)
    assert taken.json()["ids"][0] in parts.writer.records  # type: ignore[attr-defined]
    assert len(parts.writer.of_kind("impression")) >= 2  # type: ignore[attr-defined]


def test_feedback_is_answered_when_it_is_durable_and_counts_once(parts: Dependencies, during: Any, items: Any) -> None:
    async def story(door: Any) -> list[str]:
        parts.writer.hold = asyncio.Event()  # type: ignore[attr-defined]
        body = {"events": [EVENT | {"item": items[0]}, EVENT | {"item": items[1], "id": "mine"}]}
        first = asyncio.create_task(door.client.post("/v1/events", json=body))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not first.done()
        parts.writer.hold.set()  # type: ignore[attr-defined]
        again = await door.client.post("/v1/events", json=body)
        assert (await first).json()["ids"] == again.json()["ids"]
        return again.json()["ids"]

    ids = during(parts, story)
    assert list(parts.writer.records) == ids  # type: ignore[attr-defined]
    assert [record.event().item for record in parts.writer.records.values()] == items[:2]  # type: ignore[attr-defined]


def test_feedback_that_does_not_become_durable_in_time_is_refused(parts: Dependencies, during: Any, items: Any) -> None:
    async def story(door: Any) -> httpx.Response:
        parts.writer.hold = asyncio.Event()  # type: ignore[attr-defined]
        answer = await door.client.post("/v1/events", json={"events": [EVENT | {"item": items[0]}]})
        parts.writer.hold.set()  # type: ignore[attr-defined]
        return answer

    answer = during(replace(parts, settings=replace(parts.settings, events_s=0.01)), story)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_an_item_is_changed_by_whom_may(parts: Dependencies, keyed: Any, during: Any, items: Any) -> None:
    async def story(door: Any) -> list[httpx.Response]:
        headers = {"authorization": "Bearer token"}
        bodies = (
            {"columns": {"price": 3.5}, "withdrawn": True},
            {"columns": {"prise": 3.5}},
            {"columns": {"price": "3.5"}},
        )
        return [await door.client.put("/v1/items/new%2Fone", json=body, headers=headers) for body in bodies]

    admin = keyed(parts, scopes=("admin",))
    taken, unknown, wrong = during(admin, story)
    assert (taken.status_code, taken.json()["item"], taken.json()["outcome"]) == (201, "new/one", "created")
    assert parts.items.changes == {"new/one": ({"price": 3.5}, True)}  # type: ignore[attr-defined]
    assert "known are" in unknown.json()["error"]
    assert [unknown.status_code, wrong.status_code] == [400, 400]
    assert [one.status_code for one in during(keyed(parts), story)] == [403, 403, 403]


def test_a_put_says_what_it_did_and_may_refuse_to_create(parts: Dependencies, during: Any, tmp_path: Path) -> None:
    """By the real store: what another process put there is known as well."""
    store, catalogue, schema = ItemStore(tmp_path), read_catalogue(parts.bundle)["item"], read_schema(parts.bundle)

    async def story(door: Any) -> list[httpx.Response]:
        async def put(item: str, headers: Any = None, **body: Any) -> httpx.Response:
            return await door.client.put(f"/v1/items/{item}", json={"columns": {"price": 3.5}} | body, headers=headers)

        only_there = {"if-match": "*"}
        answers = [await put("n", only_there), await put("n", create=False), await put("n", {"if-match": '"etag"'})]
        assert store.history() == []
        answers += [await put("n"), await put("n"), await put("n", only_there), await put(catalogue[0], create=False)]
        store.put(schema, [Edit(item="of another")], who="ann")
        return [*answers, await put("of another", only_there)]

    answers = during(replace(parts, items=ItemStoreWriter(store, schema, catalogue)), story)
    assert [one.status_code for one in answers] == [412, 404, 400, 201, 200, 200, 200, 200]
    assert "this request may not create one" in answers[0].json()["error"] == answers[1].json()["error"]
    assert [one.json()["outcome"] for one in answers[3:]] == ["created", *["changed"] * 4]


def test_events_of_items_that_nobody_has_are_kept_counted_and_said(
    parts: Dependencies, during: Any, items: Any
) -> None:
    events = [EVENT | {"item": items[0]}, EVENT | {"item": "nobody has it"}, {"user": USER, "hide": {"item": "nor it"}}]

    async def story(door: Any) -> tuple[Any, float]:
        answer = (await door.client.post("/v1/events", json={"events": events})).json()
        return answer, await door.metric("recsys_unknown_item_events_total")

    answer, counted = during(parts, story)
    assert (answer["accepted"], answer["unknown_items"], counted) == (3, 2, 2.0)
    assert set(answer["ids"]) == parts.writer.records.keys()  # type: ignore[attr-defined]


def test_every_refusal_has_one_shape(parts: Dependencies, keyed: Any, during: Any) -> None:
    limits = replace(parts.settings.limits, body_bytes=2_000)
    keyed_parts = replace(keyed(parts, burst=5), settings=replace(parts.settings, limits=limits))
    good = {"authorization": "Bearer token", "x-request-id": "mine-1"}

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 1_000

    async def story(door: Any) -> list[httpx.Response]:
        ask = door.client.post
        return [
            await ask("/v1/recommend", content=b"{", headers=good),
            await ask("/v1/recommend", content=b"{}", headers={"x-request-id": "a b"}),
            await ask("/v1/recommend", json={"user": USER}),
            await ask("/v1/recommend", json={"user": USER}, headers={"authorization": "Bearer other"}),
            await door.client.put("/v1/items/1", json={}, headers=good),
            await ask("/v1/recommend", content=b" " * 3_000, headers=good),
            await ask("/v1/recommend", content=chunks(), headers=good),
            await ask("/v1/nothing", headers=good),
            await door.client.get("/v1/recommend", headers=good),
            *[await ask("/v1/recommend", json={"user": USER}, headers=good) for _ in range(3)],
        ]

    answers = during(keyed_parts, story)
    assert [one.status_code for one in answers] == [400, 400, 401, 401, 403, 413, 413, 404, 405, 200, 200, 429]
    for one in answers:
        if one.status_code != 200:
            assert set(one.json()) == {"error", "request_id"}
            assert one.json()["request_id"] == one.headers["x-request-id"]
            assert one.headers["content-type"] == "application/json"
    assert answers[0].json()["request_id"] == "mine-1"
    assert answers[8].headers["allow"] == "POST"
    assert answers[-1].headers["retry-after"] == "1"


def test_too_many_at_once_are_refused_at_once(parts: Dependencies, during: Any) -> None:
    async def story(door: Any) -> list[int]:
        parts.states.hold = asyncio.Event()  # type: ignore[attr-defined]
        waiting = [asyncio.create_task(door.recommend(USER)) for _ in range(3)]
        for _ in range(100):
            await asyncio.sleep(0)
        refused = await door.recommend(USER)
        parts.states.hold.set()  # type: ignore[attr-defined]
        return [refused.status_code, *[(await one).status_code for one in waiting]]

    crowded = replace(parts, settings=replace(parts.settings, requests_at_once=3, requests_waiting=0))
    assert during(crowded, story) == [503, 200, 200, 200]


def test_a_burst_waits_in_line_and_every_request_is_answered(parts: Dependencies, during: Any) -> None:
    async def story(door: Any) -> list[int]:
        answers = await asyncio.gather(*(door.recommend(f"user-{number}") for number in range(100)))
        return [one.status_code for one in answers]

    narrow = replace(parts, settings=replace(parts.settings, requests_at_once=1))
    assert during(narrow, story) == [200] * 100


def test_a_user_of_the_training_data_is_known_while_the_store_is_away(parts: Dependencies, during: Any) -> None:
    known = read_users(parts.bundle.file(USER_SEED), 1_000)
    user = max((one for batch in known for one in batch), key=lambda one: len(one.seen))

    async def story(door: Any) -> dict[str, Any]:
        parts.states.away = True  # type: ignore[attr-defined]
        answer: dict[str, Any] = (await door.recommend(user.user, k=5)).json()
        return answer

    answer = during(parts, story)
    assert "state:away" in answer["degraded"]
    assert "history:empty" not in answer["degraded"]
    assert not {item["item"] for item in answer["items"]} & set(user.seen)


def test_what_was_hidden_before_a_restart_stays_hidden_while_the_log_is_away(parts: Dependencies, during: Any) -> None:
    """The record waits in the spool, the state store has not heard of it."""

    async def shown(door: Any) -> list[str]:
        return [item["item"] for item in (await door.recommend(USER, k=5)).json()["items"]]

    first = during(parts, shown)[0]
    hidden = Record.preference("hide-1", "hide", USER, 5.0, {"item": [first]})
    assert first not in during(replace(parts, recovered=[hidden]), shown)


def test_a_trace_goes_on_to_the_models(parts: Dependencies, good_slate: Any, during: Any, trained: Any) -> None:
    parts, _, _ = good_slate(parts)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    async def story(door: Any) -> None:
        await door.recommend(USER, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "tracestate": "a=b"})

    during(parts, story)
    passed = dict(parts.models.asked[-1][2])  # type: ignore[attr-defined]
    assert passed["traceparent"].startswith(f"00-{trace}-")
    assert passed["tracestate"] == "a=b"


@pytest.mark.parametrize(("header", "field", "most_s"), [("40", None, 0.04), (None, 30, 0.03), ("40", 20, 0.02)])
def test_a_caller_may_lower_the_budget(
    parts: Dependencies, opened: Any, in_virtual_time: Any, header: Any, field: Any, most_s: float
) -> None:
    """In virtual time: the models never answer, the last rung does, before the deadline."""

    async def never(query: bytes) -> bytes:
        if orjson.loads(query)["request_id"] == "probe":
            return b"{}"
        await asyncio.Event().wait()
        raise AssertionError

    async def story() -> tuple[float, dict[str, Any]]:
        parts.models.answers.update(recommend=never, recommend_light=never)  # type: ignore[attr-defined]
        async with opened(replace(parts, settings=Settings())) as door:
            loop = asyncio.get_running_loop()
            began = loop.time()
            fields = {} if field is None else {"budget_ms": field}
            answer = await door.recommend(USER, headers={"x-budget-ms": header} if header else {}, **fields)
            return loop.time() - began, answer.json()

    took, slate = in_virtual_time(story())
    assert slate["rung"] == "popular"
    assert 0.0 <= took <= most_s


def test_no_user_and_no_mail_address_in_any_line(
    parts: Dependencies, keyed: Any, during: Any, caplog: pytest.LogCaptureFixture, items: Any
) -> None:
    """Also where something breaks with the user id in its message."""

    class Breaking:
        async def get(self, user: str) -> None:
            raise KeyError(f"no state of {user}")

        async def write(self, batch: Any) -> None:
            raise KeyError(batch)

        async def append(self, records: Any) -> None:
            raise KeyError([record.user for record in records])

        async def put(self, item: str, columns: Any, *, withdrawn: Any) -> None:
            raise KeyError(item)

        async def close(self) -> None: ...

    broken = Breaking()
    parts = replace(keyed(parts, burst=50, scopes=("recommend", "events", "admin")), log=io.StringIO())
    parts = replace(parts, states=broken, writer=broken, items=broken)
    header = {"authorization": "Bearer token", "user-agent": MAIL, "cookie": USER}

    async def story(door: Any) -> list[int]:
        ask = door.client.post
        answers = [
            await door.recommend(USER, headers=header),
            await door.recommend(MAIL, headers=header, surface=USER),
            await door.recommend(USER, headers=header, context={MAIL: 1}),
            await door.recommend(USER, headers=header | {"x-request-id": MAIL}),
            await ask("/v1/events", json={"events": [EVENT | {"item": MAIL, "id": USER}]}, headers=header),
            await ask("/v1/events", content=MAIL.encode(), headers=header),
            await door.client.put(f"/v1/items/{MAIL}", json={"columns": {"price": 1}}, headers=header),
            await door.client.get(f"/v1/items/{USER}/similar", headers=header),
            await door.client.get(f"/{USER}/{MAIL}?q={USER}", headers=header),
            await ask("/v1/recommend", json={"user": USER}, headers={"authorization": f"Bearer {MAIL}"}),
        ]
        await asyncio.sleep(0)
        for answer in answers:
            assert "Traceback" not in answer.text
        return [answer.status_code for answer in answers]

    with caplog.at_level(logging.DEBUG):
        statuses = during(parts, story)
    assert statuses == [200, 200, 400, 400, 500, 400, 500, 404, 404, 401]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("serving", "recsys"))]
    text = parts.log.getvalue() + "\n".join(ours)
    assert len(parts.log.getvalue().splitlines()) == len(statuses)
    for planted in (USER, MAIL, "planted", "Bearer", "token"):
        assert planted not in text
    assert any("KeyError" in message for message in ours)


def test_the_log_line_of_an_answer(parts: Dependencies, during: Any) -> None:
    async def story(door: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        answer = await door.recommend(USER, headers={"x-request-id": "mine"})
        return answer.json(), door.lines[-1]

    answer, line = during(parts, story)
    assert (line["request_id"], line["route"], line["status"]) == ("mine", "POST /v1/recommend", 200)
    assert (line["rung"], line["degraded"]) == ("popular", answer["degraded"])
    assert line["user"] == parts.pseudonyms.logged(USER)
    assert line["ms"] > 0


def test_readiness_names_the_models_that_do_not_answer(
    parts: Dependencies, good_slate: Any, during: Any, trained: Any
) -> None:
    async def story(door: Any) -> list[httpx.Response]:
        answers = [await door.client.get(path) for path in ("/readyz", "/healthz")]
        return [await door.internal("/readyz"), *answers]

    ready, public, alive = during(parts, story)
    assert (ready.status_code, public.status_code, alive.status_code) == (503, 503, 200)
    assert set(public.json()) == {"error", "request_id"}
    assert set(ready.json()) == {"error", "request_id", "reasons"}
    assert set(ready.json()["reasons"]) == {"recommend", "recommend_light"}
    well, _, _ = good_slate(parts)
    assert [one.status_code for one in during(well, story)] == [200, 200, 200]


def test_metrics_are_not_on_the_port_of_callers_and_no_page_needs_another_site(
    parts: Dependencies, during: Any
) -> None:
    async def story(door: Any) -> tuple[list[int], httpx.Response]:
        paths = ("/metrics", "/docs", "/redoc")
        return [(await door.client.get(path)).status_code for path in paths], await door.internal("/metrics")

    statuses, page = during(parts, story)
    assert statuses == [404, 404, 404]
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert b"recsys_slates_at_once" in page.content


def test_labels_of_metrics_are_bounded(parts: Dependencies, during: Any) -> None:
    async def story(door: Any) -> list[str]:
        sizes = []
        for _ in range(2):
            for number in range(40):  # long enough for every breaker to open in the first round
                await door.client.get(f"/nothing/{number}")
                await door.recommend(f"user-{number}", surface=f"surface-{number}")
            sizes.append(len(door.gateway.metrics.text().splitlines()))
        return sizes

    first, second = during(parts, story)
    assert first == second
