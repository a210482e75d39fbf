"""Personal data at the door: counted, masked before it is stored, or refused by field; never quoted."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from recsys.data.personal_data import MAX_CHECKS
from serving.gateway.container import Dependencies
from serving.gateway.personal_data import PersonalDataMode

MAIL = "susan@example.org"


def guarded(parts: Dependencies, mode: str) -> Dependencies:
    return replace(parts, settings=replace(parts.settings, personal_data=PersonalDataMode(mode)))


async def send(door: Any, items: list[str]) -> list[httpx.Response]:
    """A request of each route that takes text."""
    event = {"user": "u", "item": items[0], "actions": {"click": 1.0}, "context": {"device": f"phone of {MAIL}"}}
    return [
        await door.recommend("u", context={"device": MAIL}),
        await door.client.post("/v1/events", json={"events": [{**event, "context": {"device": "tv"}}, event]}),
        await door.client.put(f"/v1/items/{items[0]}", json={"columns": {"category": f"ask {MAIL}"}}),
    ]


@pytest.mark.parametrize("mode", ["warn", "mask"])
def test_it_is_counted_and_masked_before_it_is_stored(
    parts: Dependencies, during: Any, items: list[str], mode: str
) -> None:
    async def story(door: Any) -> tuple[list[int], list[float]]:
        answers = await send(door, items)
        fields = ("context.device", "columns.category")
        counts = [await door.metric(f'recsys_personal_data_total{{field="{field}",kind="email"}}') for field in fields]
        return [one.status_code for one in answers], counts

    statuses, counts = during(guarded(parts, mode), story)
    assert [status < 300 for status in statuses] == [True] * 3
    assert counts == [2.0, 1.0]
    stored = [record.body["context"]["device"] for record in parts.writer.of_kind("feedback")]  # type: ignore[attr-defined]
    (impression,) = parts.writer.of_kind("impression")  # type: ignore[attr-defined]
    column = parts.items.changes[items[0]][0]["category"]  # type: ignore[attr-defined]
    written = MAIL if mode == "warn" else "[email]"
    assert stored == ["tv", f"phone of {written}"]
    assert impression.body["query"]["context"]["device"] == written
    assert column == f"ask {written}"
    assert MAIL not in parts.log.getvalue()  # type: ignore[attr-defined]


def test_it_is_refused_by_field_and_not_quoted(parts: Dependencies, during: Any, items: list[str]) -> None:
    answers = during(guarded(parts, "refuse"), lambda door: send(door, items))
    sentences = [one.json()["error"] for one in answers]
    assert [one.status_code for one in answers] == [400] * 3
    assert sentences == [
        f"{field} holds what looks like an e-mail address; leave personal data out of this field"
        for field in ("context.device", "events[1].context.device", "columns.category")
    ]
    assert parts.writer.records == {}  # type: ignore[attr-defined]
    assert MAIL not in json.dumps(sentences) + parts.log.getvalue()  # type: ignore[attr-defined]


def test_the_same_event_sent_again_counts_once_although_it_is_masked(
    parts: Dependencies, during: Any, items: list[str]
) -> None:
    event = {"user": "u", "item": items[0], "timestamp": 5.0, "context": {"device": MAIL}}

    async def story(door: Any) -> list[str]:
        return [(await door.client.post("/v1/events", json={"events": [event]})).json()["ids"][0] for _ in range(2)]

    first, second = during(guarded(parts, "mask"), story)
    assert first == second


def test_many_numbers_in_a_request_cost_a_bounded_number_of_checks(
    parts: Dependencies, during: Any, items: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all events together; further candidates count as found."""
    from recsys.data import personal_data

    checks: list[str] = []
    parse = personal_data.phonenumbers.parse

    def counted(text: str) -> Any:
        checks.append(text)
        return parse(text)

    monkeypatch.setattr(personal_data.phonenumbers, "parse", counted)
    events = [
        {"user": "u", "item": items[0], "timestamp": float(number), "context": {"device": "+49 30 901820"}}
        for number in range(200)
    ]

    async def story(door: Any) -> float:
        assert (await door.client.post("/v1/events", json={"events": events})).status_code == 200
        counted: float = await door.metric('recsys_personal_data_total{field="context.device",kind="phone"}')
        return counted

    assert during(guarded(parts, "warn"), story) == 200.0
    assert len(checks) == MAX_CHECKS
