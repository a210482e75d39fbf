"""Encrypted states: the same answers as a plain store gives, rows that tell nothing, and none that can be moved or changed."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.errors import ServingError
from serving.events.record import Record, StoredRecord
from serving.state.protocols import CompareAndSwap
from serving.state.states import USERS, key_of
from serving.state.valkey_server import ValkeyServer

pytest.importorskip("cryptography")

NAMES = ("susan.distinctive.7391", "bystander", "\N{SNOWMAN}")
UseKey = Callable[[str | None], Any]
ITEMS = tuple(f"distinctive-item-{number}" for number in range(4))


def clicked(user: str, item: str, at: float) -> Record:
    return Record.feedback(f"{user}{item}{at}", Event(user=user, item=item, timestamp=at, actions={"rating": 5.0}))


def shown(user: str, item: str, at: float) -> Record:
    items = (SlateItem(item=item, utility=0.0, sources=(), probabilities={}),)
    slate = Slate(user=user, request_id="r", items=items, degraded=(), bundle="b", rules="c")
    return Record.impression(Query(user=user, now=at, request_id="r"), slate, "recommend")


def log(first: int = 1) -> list[StoredRecord]:
    records = [clicked(user, item, 10.0 + place) for place, item in enumerate(ITEMS) for user in NAMES]
    records += [shown(user, "a", 20.0) for user in NAMES]
    return [StoredRecord(sequence=first + place, record=record) for place, record in enumerate(records)]


async def written(store: Any, records: list[StoredRecord]) -> tuple[Any, ...]:
    """States of the users, the exposure and the number of damaged states, after the records were written."""
    async with store.opened() as states:
        await states.write(records)
        return *[await states.get(user) for user in NAMES], await states.exposure(), states.damaged


def test_the_answers_are_those_of_a_plain_store(empty: Callable[[], Any], use_key: UseKey) -> None:
    plain = asyncio.run(written(empty(), log()))
    use_key("live.key")
    store = empty()
    assert asyncio.run(written(store, log())) == plain
    assert asyncio.run(written(store, log())) == plain  # again: nothing counts twice
    assert plain[0].history


def test_rows_hold_neither_users_nor_items(store: Any, use_key: UseKey) -> None:
    use_key("live.key")
    asyncio.run(written(store, log()))
    content = b"".join(name + value for name, value in store.raw().items())
    assert len(store.raw()) >= len(NAMES)
    for word in (*NAMES, *ITEMS, "history", "genres"):
        assert word.encode() not in content


@pytest.mark.parametrize("empty", ["redis"], indirect=True)
def test_no_file_of_valkey_holds_users_or_items(store: Any, use_key: UseKey, tmp_path: Path) -> None:
    """Its append-only file has all that was ever written."""
    use_key("live.key")
    with ValkeyServer(tmp_path / "valkey") as server:
        asyncio.run(written(replace(store, url=server.server.url), log()))
    content = b"".join(file.read_bytes() for file in (tmp_path / "valkey").rglob("*") if file.is_file())
    assert b"recsys:" in content
    for word in (*NAMES, *ITEMS, "history", "genres"):
        assert word.encode() not in content


def user_rows(store: Any) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in store.raw().items() if name.startswith(USERS)]


def test_a_state_of_another_user_is_refused_and_made_anew(store: Any, use_key: UseKey) -> None:
    use_key("live.key")
    asyncio.run(written(store, log()))
    (one, _), (_, value), *_ = user_rows(store)
    store.put(one, value)

    async def story() -> None:
        async with store.opened() as states:
            found = await asyncio.gather(*map(states.get, NAMES), return_exceptions=True)
            assert sum(isinstance(state, ServingError) for state in found) == 1
            await states.write([StoredRecord(sequence=100, record=clicked(user, "x", 50.0)) for user in NAMES])
            assert states.damaged == 1
            histories = [len((await states.get(user)).history) for user in NAMES]
            assert sorted(histories) == [1, 3, 3]

    asyncio.run(story())


def test_a_flipped_bit_is_refused(store: Any, use_key: UseKey) -> None:
    use_key("live.key")
    asyncio.run(written(store, log()))
    for name, value in user_rows(store):
        store.put(name, bytes([value[0] ^ 1]) + value[1:])

    async def found() -> list[object]:
        async with store.opened() as states:
            return await asyncio.gather(*map(states.get, NAMES), return_exceptions=True)

    assert all(isinstance(state, ServingError) for state in asyncio.run(found()))


def test_a_user_is_forgotten_alone(store: Any, use_key: UseKey) -> None:
    use_key("live.key")
    asyncio.run(written(store, log()))

    async def story() -> list[bool]:
        async with store.opened() as states:
            assert await states.forget(lambda user: user == NAMES[0]) == 1
            return [await states.get(user) is None for user in NAMES]

    assert asyncio.run(story()) == [True, False, False]


def test_another_key_knows_nobody_and_forgets_nobody(store: Any, use_key: UseKey) -> None:
    use_key("live.key")
    asyncio.run(written(store, log()))
    use_key("other.key")

    async def story() -> None:
        async with store.opened() as states:
            assert [await states.get(user) for user in NAMES] == [None] * 3
            assert await states.forget(lambda user: True) == 0

    asyncio.run(story())


def test_of_two_writers_the_slower_one_changes_nothing(store: Any, use_key: UseKey) -> None:
    use_key("live.key")

    async def story() -> None:
        async with store.table() as table:
            row = key_of("u")
            assert await table.compare_and_swap({row: CompareAndSwap(before=None, after=b"1", expires=True)})
            assert not await table.compare_and_swap({row: CompareAndSwap(before=None, after=b"2", expires=True)})
            assert not await table.compare_and_swap({row: CompareAndSwap(before=b"0", after=b"2", expires=True)})
            assert await table.compare_and_swap({row: CompareAndSwap(before=b"1", after=b"2", expires=True)})
            assert await table.get(row) == b"2"
            assert await table.load([row, key_of("v")]) == [b"2", None]

    asyncio.run(story())
