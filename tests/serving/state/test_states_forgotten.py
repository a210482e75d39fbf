"""A forgotten user is in no state, in no file of the store, and does not come back with a seed."""

import asyncio
from pathlib import Path

import polars as pl
import pytest
import redis

from recsys.bundle import Bundle, write_bundle
from recsys.contracts import Event
from recsys.data.forgotten import ForgottenUsers
from recsys.data.pseudonyms import pseudonym
from recsys.user_seed import USER_SEED
from serving.events.record import Record, StoredRecord
from serving.state.seeding import seed, seed_once, seeded_states
from serving.state.store_factory import SQLITE

KEY = b"k" * 32
NAME = "susan.distinctive.7391"


def forgotten(user: str, at: float) -> ForgottenUsers:
    empty = ForgottenUsers(key=KEY)
    return ForgottenUsers(key=KEY, times=dict.fromkeys(empty.hashes(user), at))


def clicks(user: str, sequence: int, number: int) -> list[StoredRecord]:
    events = [Event(user=user, item=f"i{n}", timestamp=float(n), actions={"click": 1.0}) for n in range(number)]
    return [StoredRecord(sequence=sequence + n, record=Record.feedback(f"{user}{n}", e)) for n, e in enumerate(events)]


def bytes_of(url: str) -> bytes:
    """All files of a store."""
    if url.startswith(SQLITE):
        folder = Path(url.removeprefix(SQLITE)).parent
    else:
        with redis.Redis.from_url(url) as server:
            folder = Path(server.config_get("dir")["dir"])
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_forgotten_user_is_in_no_byte_of_the_store(store) -> None:
    async def story():
        async with store.opened() as states:
            for turn in range(20):  # states that grow leave older copies behind
                await states.write([*clicks(NAME, 1 + 100 * turn, 50), *clicks(f"other-{turn}", 1 + 100 * turn, 50)])
            assert NAME.encode() in bytes_of(store.url)
            gone = await states.forget(lambda user: forgotten(NAME, 1e9).drops(user, 0.0))
            return gone, await states.get(NAME), await states.get("other-7")

    gone, state, other = asyncio.run(story())
    assert (gone, state) == (1, None)
    assert len(other.history) == 3
    assert NAME.encode() not in bytes_of(store.url)


def test_exposure_and_marks_stay(store) -> None:
    async def story():
        async with store.opened() as states:
            await states.mark("seeded")
            await states.forget(lambda user: True)
            return await states.marked("seeded")

    assert asyncio.run(story())


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Users with an event of these seconds."""
    seconds = {NAME: [5, 9], "other": [5], "returned": [90]}
    with write_bundle(tmp_path / "bundle", "spec") as draft:
        table = pl.DataFrame(
            {
                "user": list(seconds),
                "events": [len(times) for times in seconds.values()],
                "history.item": [[f"i{n}" for n in times] for times in seconds.values()],
                "history.timestamp": [[float(n) for n in times] for times in seconds.values()],
                "history.action.click": [[1.0] * len(times) for times in seconds.values()],
                "seen.item": [[f"i{n}" for n in times] for times in seconds.values()],
                "seen.last": list(seconds.values()),
            }
        )
        table.write_ipc(draft.path / USER_SEED)
    return Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize("hashed", [False, True], ids=["raw", "hashed"])
def test_a_seed_brings_nobody_back_but_who_returned(store, bundle: Bundle, hashed: bool) -> None:
    def stored(user: str) -> str:
        return pseudonym(KEY, user) if hashed else user

    both = ForgottenUsers(key=KEY, times={**forgotten(NAME, 50.0).times, **forgotten("returned", 50.0).times})

    async def story():
        async with store.opened() as states:
            done = await seed_once(states, bundle, stored, both)
            again = await seed(states, bundle, stored, both)
            return done.users, again.users, [await states.get(stored(user)) for user in (NAME, "other", "returned")]

    done, again, states = asyncio.run(story())
    assert (done, again) == (2, 2)
    assert [state is None for state in states] == [True, False, False]
    away = seeded_states(bundle, stored, lambda: both)
    assert [away(stored(user)) is None for user in (NAME, "other", "returned")] == [True, False, False]
    assert seeded_states(bundle, stored)(stored(NAME)) is not None
