"""A new user says what it likes, and that begins its history."""

from typing import Any

import httpx

from serving.gateway.container import Dependencies


def test_what_is_liked_becomes_events_once(parts: Dependencies, during: Any, trained: Any) -> None:
    liked = trained.dataset.items["item"].to_list()[:2]

    async def story(door: Any) -> list[httpx.Response]:
        body = {"user": "new", "items": liked}
        return [await door.client.post("/v1/onboarding", json=body) for _ in range(2)]

    first, again = during(parts, story)
    assert first.status_code == 200
    assert first.json()["ids"] == again.json()["ids"] == list(parts.writer.records)  # type: ignore[attr-defined]
    events = [record.event() for record in parts.writer.records.values()]  # type: ignore[attr-defined]
    assert [(event.user, event.item, dict(event.actions)) for event in events] == [
        ("new", item, {"click": 1.0}) for item in liked
    ]


def test_what_nobody_can_like_is_refused(parts: Dependencies, during: Any) -> None:
    async def story(door: Any) -> list[int]:
        bodies = (
            {"user": "new"},
            {"user": "new", "items": ["no such item"]},
            {"user": "new", "values": {"colour": []}},
        )
        return [(await door.client.post("/v1/onboarding", json=body)).status_code for body in bodies]

    assert during(parts, story) == [400, 400, 400]
    assert not parts.writer.records  # type: ignore[attr-defined]
