"""DELETE and GET of a user: nothing of before is served from the answer on, and who comes back starts anew."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from recsys.contracts import Event
from recsys.errors import ServingError
from serving.events.forgetting import PARTS
from serving.events.record import Record
from serving.gateway.container import Dependencies
from serving.gateway.pseudonyms import UserPseudonyms
from serving.state.protocols import UserState
from serving.state.seen import SeenItems

NAME = "susan.distinctive.7391"


def state_of(items: list[str], updated: float) -> UserState:
    history = tuple(Event(user=NAME, item=item, timestamp=updated, actions={"click": 1.0}) for item in items)
    return UserState(
        history=history,
        hidden={"item": (items[0],)},
        profile={"age": 30.0},
        shown={items[1]: 2.0},
        seen=SeenItems(items=tuple(items), last=np.full(len(items), int(updated)), reached={}),
        sequence=7,
        updated=updated,
    )


def test_what_is_known_is_exported(parts: Dependencies, during: Any, items: list[str]) -> None:
    parts.states.known[NAME] = state_of(sorted(items[:3]), 100.0)  # type: ignore[attr-defined]

    async def story(door: Any) -> tuple[httpx.Response, httpx.Response]:
        return await door.client.get(f"/v1/users/{NAME}"), await door.client.get("/v1/users/nobody")

    found, nobody = during(parts, story)
    known = found.json()
    first, second, third = sorted(items[:3])
    assert (known["user"], known["profile"], known["hidden"]) == (NAME, {"age": 30.0}, {"item": [first]})
    assert known["history"][0] == {"item": first, "timestamp": 100.0, "actions": {"click": 1.0}}
    assert known["seen"] == [{"item": item, "last": 100} for item in (first, second, third)]
    assert known["impressions"] == {second: 2.0}
    assert known["updated"] == 100.0
    assert (nobody.status_code, nobody.json()["error"]) == (404, "nothing is known of this user; check the id")


def test_an_export_without_the_store_is_no_half_answer(parts: Dependencies, during: Any) -> None:
    parts.states.away = True  # type: ignore[attr-defined]
    assert during(parts, lambda door: door.client.get(f"/v1/users/{NAME}")).status_code == 503


@pytest.mark.parametrize("store_raw", [True, False], ids=["raw", "hashed"])
def test_a_deleted_user_is_a_stranger_whatever_is_still_stored(
    parts: Dependencies, during: Any, items: list[str], models: Any, store_raw: bool
) -> None:
    """State, pending records, last good slate; the request log names the user by a hash only."""
    pseudonyms = UserPseudonyms(key=b"a key of tests in these files", store_raw=store_raw)
    stored, histories = pseudonyms.stored(NAME), []

    async def note(text: bytes) -> bytes:
        histories.append([event["item"] for event in json.loads(text).get("history", ())])
        raise ServingError("no model answers here")

    scripted = models(answers={"recommend": note, "recommend_light": note})
    parts = replace(parts, pseudonyms=pseudonyms, models=scripted)
    parts.states.known[stored] = state_of(items[:3], 100.0)  # type: ignore[attr-defined]

    async def story(door: Any) -> list[Any]:
        histories.clear()
        click = {"user": NAME, "item": items[4], "actions": {"click": 1.0}}
        assert (await door.client.post("/v1/events", json={"events": [click]})).status_code == 200
        await door.recommend(NAME)
        answer = await door.client.delete(f"/v1/users/{NAME}")
        await door.recommend(NAME)
        known = await door.client.get(f"/v1/users/{NAME}")
        return [answer, known.status_code, await door.metric("recsys_forgotten_open")]

    answer, status, open = during(parts, story)
    assert answer.json()["outcome"] == "forgotten"
    assert histories[0] == [*items[:3], items[4]]
    assert histories[-1] == []
    assert (status, open) == (404, 3.0)
    assert parts.forgotten.current().is_open(stored, "states", "parquet", "log")
    assert not parts.forgotten.current().is_open(stored, "spool")
    assert NAME not in parts.log.getvalue()  # type: ignore[attr-defined]


def test_who_comes_back_starts_anew(parts: Dependencies, during: Any, items: list[str]) -> None:
    clock = {"now": parts.now()}
    parts = replace(parts, now=lambda: clock["now"])

    async def story(door: Any) -> Any:
        await door.client.delete(f"/v1/users/{NAME}")
        late = {"user": NAME, "item": items[3], "timestamp": clock["now"] - 5.0, "actions": {"click": 1.0}}
        assert (await door.client.post("/v1/events", json={"events": [late]})).json()["accepted"] == 1
        clock["now"] += 10.0
        click = {"user": NAME, "item": items[4], "actions": {"click": 1.0}}
        await door.client.post("/v1/events", json={"events": [click]})
        return (await door.client.get(f"/v1/users/{NAME}")).json()

    known = during(parts, story)
    assert [event["item"] for event in known["history"]] == [items[4]]
    assert [record.body["item"] for record in parts.writer.of_kind("feedback")] == [items[4]]  # type: ignore[attr-defined]


def test_a_last_good_slate_of_before_is_not_served(parts: Dependencies, during: Any, good_slate: Any) -> None:
    parts, slate, well = good_slate(parts)
    user = slate["user"]

    async def story(door: Any) -> list[str]:
        assert (await door.recommend(user, k=5)).json()["rung"] == "recommend"
        well["now"] = False
        found = [(await door.recommend(user, k=5)).json()["rung"]]
        await door.client.delete(f"/v1/users/{user}")
        return [*found, (await door.recommend(user, k=5)).json()["rung"]]

    assert during(parts, story) == ["last_good", "popular"]


def test_a_user_whom_another_process_forgot_leaves_memory_and_spool(
    parts: Dependencies, during: Any, items: list[str]
) -> None:
    erased: list[bool] = []
    record = Record.feedback("r", Event(user=NAME, item=items[0], timestamp=1.0))

    async def erase(chosen: Any) -> int:
        erased.append(chosen(record))
        return 1

    parts = replace(
        parts, erase_spool=erase, recovered=[record], settings=replace(parts.settings, forgotten_every_s=0.01)
    )

    async def story(door: Any) -> int:
        assert (await door.client.get(f"/v1/users/{NAME}")).status_code == 200
        parts.forgotten.add([NAME], 5.0, PARTS)
        while parts.forgotten.current().is_open(NAME, "spool"):
            await asyncio.sleep(0.01)
        status: int = (await door.client.get(f"/v1/users/{NAME}")).status_code
        return status

    assert during(parts, story) == 404
    assert erased == [True]


def test_a_spool_that_cannot_be_written_is_a_503_and_the_user_is_forgotten_all_the_same(
    parts: Dependencies, during: Any
) -> None:
    async def refuse(chosen: Any) -> int:
        raise ServingError("the spool cannot be drained")

    parts = replace(parts, erase_spool=refuse)
    assert during(parts, lambda door: door.client.delete(f"/v1/users/{NAME}")).status_code == 503
    assert parts.forgotten.current().is_open(NAME, "spool")


def test_a_list_that_cannot_be_written_forgets_nobody(parts: Dependencies, during: Any) -> None:
    folder = parts.forgotten.file.parent
    folder.write_text("in the way")
    assert during(parts, lambda door: door.client.delete(f"/v1/users/{NAME}")).status_code == 503
    assert len(parts.forgotten.current()) == 0


def test_a_damaged_list_refuses_to_forget_and_the_removal_goes_on_when_it_is_whole(
    parts: Dependencies, during: Any
) -> None:
    file, whole, answered = parts.forgotten.file, list[str](), asyncio.Event()

    async def erase(chosen: Any) -> int:
        """The list is damaged while the first removal is under way, and restored in the next one."""
        if whole:
            await answered.wait()
            file.write_text(whole[0])
        else:
            whole.append(file.read_text())
            file.write_text("{")
        return 0

    async def story(door: Any) -> tuple[int, str]:
        parts.forgotten.add(["ann"], parts.now(), PARTS)  # by another process
        async with asyncio.timeout(60):
            while not whole:
                await asyncio.sleep(0.01)
            refused = await door.client.delete("/v1/users/eve")
            answered.set()
            while parts.forgotten.current().is_open("ann", "spool"):
                await asyncio.sleep(0.01)
        return refused.status_code, (await door.client.delete("/v1/users/eve")).json()["outcome"]

    settings = replace(parts.settings, forgotten_every_s=0.05)
    assert during(replace(parts, erase_spool=erase, settings=settings), story) == (503, "forgotten")
