"""What every store of user states must do, on a real file and a real Valkey."""

import asyncio
from dataclasses import replace

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.errors import ConfigError, ServingError
from serving.endpoints import Server
from serving.events.record import Record, StoredRecord
from serving.state.apply_events import apply_stored_records
from serving.state.exposure_counts import ExposureCounts
from serving.state.protocols import CompareAndSwap, UserState
from serving.state.states import ATTEMPTS, StateStore, key_of
from serving.state.store_factory import open_states

USERS, ITEMS = ("u", "v", "\N{SNOWMAN}"), ("a", "b", "c", "unlisted")
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def feedback(user, item, timestamp):
    event = Event(user=user, item=item, timestamp=timestamp, actions={"rating": 5.0})
    return Record.feedback(f"{user}{item}{timestamp}", event)


def impression(user, items, timestamp):
    shown = tuple(SlateItem(item=item, utility=0.0, sources=(), probabilities={}) for item in items)
    slate = Slate(user=user, request_id="r", items=shown, degraded=(), bundle="b", rules="c")
    return Record.impression(Query(user=user, now=timestamp, request_id="r"), slate, "recommend")


TIMES = st.integers(0, 900).map(float)
RECORDS = st.lists(
    st.builds(feedback, st.sampled_from(USERS), st.sampled_from(ITEMS), TIMES)
    | st.builds(impression, st.sampled_from(USERS), st.lists(st.sampled_from(ITEMS), max_size=3, unique=True), TIMES),
    max_size=25,
)


def log(records):
    return [StoredRecord(sequence=place, record=record) for place, record in enumerate(records, start=1)]


def long_log(num):
    """Many records of few users, in the order of time."""
    users, items = [USERS[place % 3] for place in range(num)], [ITEMS[place % 4] for place in range(num)]
    records = [
        impression(user, [item, "b"], float(place)) if place % 3 else feedback(user, item, float(place))
        for place, (user, item) in enumerate(zip(users, items, strict=True))
    ]
    return log(records)


async def write_all(states, stored, size):
    for start in range(0, len(stored), size):
        await states.write(stored[start : start + size])


def replayed(store, stored, size=1_000):
    """The bytes of a store after the whole log."""

    async def replay():
        async with store.opened() as states:
            await write_all(states, stored, size)

    asyncio.run(replay())
    return store.raw()


def test_an_unknown_user_is_none_and_nothing_was_exposed(store):
    async def ask():
        async with store.opened() as states:
            return await states.get("nobody"), await states.exposure()

    assert asyncio.run(ask()) == (None, {})


def test_a_user_is_what_the_log_folds_to(store):
    stored = long_log(40)

    async def ask():
        async with store.opened() as states:
            await states.write(stored)
            return [await states.get(user) for user in USERS]

    own = [[one for one in stored if one.record.user == user] for user in USERS]
    assert asyncio.run(ask()) == [apply_stored_records(UserState(), one, store.spec) for one in own]


@FEW
@given(records=RECORDS, ends=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=6))
def test_a_replay_gives_the_same_bytes_whatever_comes_again_with_whatever_borders(empty, records, ends):
    stored, reached = log(records), 0
    store = empty()

    async def deliver():
        nonlocal reached
        async with store.opened() as states:
            for back, ahead in [*ends, (len(stored), len(stored))]:
                start, reached = max(0, reached - back), min(len(stored), reached + ahead)
                await states.write(stored[start:reached])

    asyncio.run(deliver())
    delivered = store.raw()
    assert delivered == replayed(empty(), stored)
    assert delivered == replayed(empty(), stored, size=1)


@FEW
@given(records=RECORDS, places=st.sets(st.integers(0, 24), max_size=5), size=st.integers(1, 9))
def test_what_is_no_fact_is_passed_over_and_counted(empty, records, places, size):
    stored = log(records)
    spoilt = [replace(one, record=spoil(one.record)) if place in places else one for place, one in enumerate(stored)]
    sound = [one for place, one in enumerate(stored) if place not in places]
    store = empty()

    async def deliver():
        async with store.opened() as states:
            await write_all(states, spoilt, size)
            return states.malformed

    assert asyncio.run(deliver()) == len(stored) - len(sound)
    assert store.raw() == replayed(empty(), sound)


def spoil(record):
    """As a newer release might write it, or nobody."""
    return replace(record, body={**record.body, "mood": "good"} if record.kind == "feedback" else {"slate": None})


def test_two_consumers_of_the_whole_log_lose_and_double_nothing(empty):
    stored, store = long_log(120), empty()

    async def both():
        async with store.opened() as one, store.opened() as other:
            await asyncio.gather(write_all(one, stored, 7), write_all(other, stored, 11))

    asyncio.run(both())
    assert store.raw() == replayed(empty(), stored)


def test_consumers_of_different_users_lose_nothing_of_what_all_users_share(empty):
    stored, store = long_log(120), empty()

    async def all_three():
        async with store.opened() as one, store.opened() as two, store.opened() as three:
            parts = [[one for one in stored if one.record.user == user] for user in USERS]
            writers = zip((one, two, three), parts, strict=True)
            await asyncio.gather(*(write_all(states, part, 3) for states, part in writers))

    asyncio.run(all_three())
    assert store.raw() == replayed(empty(), stored)


def test_a_swap_is_all_or_nothing(store):
    async def swap():
        async with store.table() as table:
            assert await table.compare_and_swap({b"x": CompareAndSwap(before=None, after=b"1", expires=True)})
            late = {
                b"y": CompareAndSwap(before=None, after=b"2", expires=True),
                b"x": CompareAndSwap(before=None, after=b"3", expires=True),
            }
            assert not await table.compare_and_swap(late)
            assert not await table.compare_and_swap({b"z": CompareAndSwap(before=b"0", after=b"2", expires=True)})
            assert await table.load([b"x", b"y", b"z"]) == [b"1", None, None]
            assert await table.compare_and_swap({b"x": CompareAndSwap(before=b"1", after=b"", expires=False)})
            assert await table.get(b"x") == b""
            assert not await table.compare_and_swap({b"x": CompareAndSwap(before=None, after=b"4", expires=False)})

    asyncio.run(swap())


def test_what_is_cleared_is_forgotten_and_other_keys_of_the_server_are_not(store):
    stored = long_log(2_000)

    async def clear():
        async with store.opened() as states:
            await write_all(states, stored, 500)
            assert await states.get("u") is not None
            await states.clear()
            assert (await states.get("u"), await states.exposure()) == (None, {})
            await states.clear()
            await write_all(states, stored, 500)

    foreign = None
    if store.url.startswith("redis"):
        foreign = redis.Redis.from_url(store.url)
        foreign.set("somebody:else", 1)
    asyncio.run(clear())
    if foreign is not None:
        with foreign:
            assert foreign.getdel("somebody:else") == b"1"
    assert store.raw() == replayed(store, stored)


class Contested:
    """A table on which somebody else is always faster."""

    swaps = 0

    async def load(self, keys):
        return [None for _ in keys]

    async def compare_and_swap(self, changes):
        self.swaps += 1
        return False


def test_a_race_that_is_always_lost_is_said(spec):
    table = Contested()
    states = StateStore(table, spec, ExposureCounts(values=dict, half_life_s=1.0))
    with pytest.raises(ServingError, match="let one consumer write at a time"):
        asyncio.run(states.write(long_log(1)))
    assert table.swaps == ATTEMPTS


def test_a_damaged_state_is_said_and_the_others_are_served(store):
    async def ask():
        async with store.opened() as states:
            await states.write(log([feedback("u", "a", 1.0), feedback("v", "a", 1.0)]))
            store.put(key_of("u"), b"\x00")
            with pytest.raises(
                ServingError,
                match=r"the state of a user \(sha256 0bfe935e70c3…\) is damaged .* rebuild",
            ):
                await states.get("u")
            return await states.get("v")

    assert asyncio.run(ask()).sequence == 2


def test_a_damaged_state_holds_up_nobody_and_its_user_begins_anew(store, caplog):
    async def ask():
        async with store.opened() as states:
            await states.write(log([feedback("alice@example.com", "a", 1.0), feedback("v", "a", 1.0)]))
            store.put(key_of("alice@example.com"), b'{"format": 2}')
            store.put(states._exposure.keys[0], b"?")
            await states.write(
                [
                    StoredRecord(sequence=7, record=feedback("alice@example.com", "b", 2.0)),
                    StoredRecord(sequence=8, record=feedback("v", "b", 2.0)),
                    StoredRecord(sequence=9, record=impression("v", ["a"], 3.0)),
                ]
            )
            return await states.get("alice@example.com"), await states.get("v"), states.damaged, await states.exposure()

    alice, other, damaged, exposure = asyncio.run(ask())
    assert [event.item for event in alice.history] == ["b"]
    assert [event.item for event in other.history] == ["a", "b"]
    assert (damaged, exposure["genres=war"]) == (1, 1.0)
    assert "alice" not in caplog.text


def test_an_empty_batch_writes_nothing(store):
    async def write():
        async with store.opened() as states:
            await states.write([])

    asyncio.run(write())
    assert store.raw() == {}


@pytest.mark.parametrize(
    ("url", "options", "sentence"),
    [
        ("postgres://host", {}, "the state store is 'postgres://host'; give sqlite:///path or redis://host:port"),
        ("sqlite:///", {}, "give sqlite:///path"),
        ("redis://host:port", {}, "cannot be used"),
        ("redis://host", {"ttl_s": 0.0}, "state.ttl_s is 0.0"),
        ("redis://host", {"read_timeout_s": 0.0}, "state.read_timeout_s is 0.0"),
    ],
)
def test_what_cannot_be_opened_is_said(spec, url, options, sentence):
    options = {"read_timeout_s": 1.0, "write_timeout_s": 1.0, "ttl_s": None} | options
    with pytest.raises(ConfigError, match=sentence):
        open_states(Server(url=url), spec, exposure=ExposureCounts(values=dict, half_life_s=1.0), **options)
