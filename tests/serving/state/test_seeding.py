"""The users of a bundle in a real store: once, beneath what live events told, by whatever name the gateway calls them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.bundle import Bundle, write_bundle
from recsys.contracts import Event
from recsys.data.dataset import Dataset, canonical
from recsys.data.description import Description
from recsys.errors import BundleError
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.user_seed import USER_SEED, user_seed
from serving.events.record import Record, StoredRecord
from serving.gateway.pseudonyms import UserPseudonyms
from serving.state.seeding import seed, seed_once

RAW = UserPseudonyms(key=b"a key of tests in these files", store_raw=True).stored
HASHED = UserPseudonyms(key=b"a key of tests in these files", store_raw=False).stored


def with_profile(spec: FeatureSpec) -> FeatureSpec:
    columns = (Column(name="age", kind="number"), Column(name="job", kind="category"))
    return replace(spec, profile=TableSpec(name="profile", columns=columns))


def dataset(spec: FeatureSpec, rows: list[tuple[str, str, float]], age: float = 30.0) -> Dataset:
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    users = pl.DataFrame({"user": ["u"], "age": [age], "job": ["cook"]})
    described = Description(
        actions=spec.actions,
        context={},
        items={},
        users={"age": "number", "job": "category"},
        objectives=dict(spec.objectives),
        target=spec.target,
        title=None,
        order="time",
    )
    log = frame.with_columns(click=pl.lit(1.0), rating=pl.lit(None, pl.Float64))
    return canonical(name="few", interactions=log, items=None, users=users, description=described)


@pytest.fixture
def bundled(tmp_path: Path, spec: FeatureSpec) -> Callable[..., Bundle]:
    """Makes a bundle that has nothing but these users."""

    def bundled(name: str, rows: list[tuple[str, str, float]], age: float = 30.0) -> Bundle:
        with write_bundle(tmp_path / name, spec.fingerprint) as draft:
            user_seed(dataset(spec, rows, age), with_profile(spec)).write_ipc(draft.path / USER_SEED)
        return Bundle.open(tmp_path / name)

    return bundled


LOG = [("u", item, float(number)) for number, item in enumerate("abcdef")] + [("v", "a", 3.0)]


def live(sequence: int, record: Record) -> StoredRecord:
    return StoredRecord(sequence=sequence, record=record)


def acted(item: str, timestamp: float, **more: object) -> Record:
    event = Event(user="u", item=item, timestamp=timestamp, actions={"click": 1.0}, **more)
    return Record.feedback(f"{item}{timestamp}", event)


BATCH = [
    live(1, acted("g", 9.0, request_id="r")),
    live(2, acted("f", 5.0, request_id="told twice, by the data as well")),
    live(3, acted("z", 0.5)),
    live(4, Record.preference("p", "profile", "u", 9.0, {"age": 31.0, "job": None})),
    live(5, Record.preference("h", "hide", "u", 9.0, {"item": ["k"]})),
]


def test_the_first_slate_has_the_history_and_nothing_that_was_seen(store, bundled) -> None:
    bundle = bundled("b", LOG)

    async def story():
        async with store.opened() as states:
            done = await seed_once(states, bundle, RAW)
            return done, await states.get("u"), await states.get("v"), await seed_once(states, bundle, RAW)

    done, state, other, again = asyncio.run(story())
    assert (done.users, again) == (2, None)
    assert [event.item for event in state.history] == ["d", "e", "f"]
    assert state.seen.items == tuple("abcdef")
    last, reached = state.seen.times(("watch", "like"))
    assert last.tolist() == reached[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(reached[:, 1]).all()
    assert state.known_profile == {"age": 30.0, "job": "cook"}
    assert (state.sequence, other.seen.items) == (0, ("a",))


def test_live_events_stay_whichever_came_first_and_seeding_again_changes_no_byte(empty, bundled) -> None:
    bundle = bundled("b", LOG)

    async def story(store, order):
        async with store.opened() as states:
            for step in order:
                await (states.write(BATCH) if step == "live" else seed(states, bundle, RAW))
            return await states.get("u"), {key: value for key, value in store.raw().items() if b"user:" in key}

    found = []
    for order in (("seed", "live"), ("live", "seed"), ("seed", "live", "seed", "seed"), ("seed", "seed", "live")):
        found.append(asyncio.run(story(empty(), order)))
    assert all(one == found[0] for one in found)
    state = found[0][0]
    assert [(event.item, event.request_id) for event in state.history][-2:] == [
        ("f", "told twice, by the data as well"),
        ("g", "r"),
    ]
    assert set(state.seen.items) == set("abcdefgz")
    assert state.known_profile == {"age": 31.0}, "what was put wins, also what was forgotten"
    assert (state.sequence, state.hidden) == (5, {"item": ("k",)})


def test_another_bundle_brings_its_users_and_newer_profiles(store, bundled) -> None:
    older, newer = bundled("older", LOG), bundled("newer", [*LOG, ("u", "new", 20.0)], age=40.0)

    async def story():
        async with store.opened() as states:
            await seed_once(states, older, RAW)
            await states.write(BATCH[:3])
            assert await seed_once(states, newer, RAW) is not None
            return await states.get("u")

    state = asyncio.run(story())
    assert [event.item for event in state.history] == ["f", "g", "new"]
    assert state.known_profile == {"age": 40.0, "job": "cook"}


def test_users_are_called_as_the_gateway_calls_them_and_each_name_is_seeded_once(store, bundled) -> None:
    bundle = bundled("b", LOG)

    async def story():
        async with store.opened() as states:
            await seed_once(states, bundle, HASHED)
            assert await seed_once(states, bundle, HASHED) is None
            found = await states.get(HASHED("u")), await states.get("u")
            assert await seed_once(states, bundle, RAW) is not None
            return found

    hashed, raw = asyncio.run(story())
    assert (len(hashed.history), raw) == (3, None)


def test_after_everything_was_forgotten_it_is_seeded_again(store, bundled) -> None:
    bundle = bundled("b", LOG)

    async def story():
        async with store.opened() as states:
            await seed_once(states, bundle, RAW)
            await states.clear()
            assert await states.get("u") is None
            return await seed_once(states, bundle, RAW)

    assert asyncio.run(story()).users == 2


def test_a_bundle_without_users_is_said_and_harms_no_start(store, tmp_path, spec) -> None:
    with write_bundle(tmp_path / "old", spec.fingerprint) as draft:
        draft.write_document("spec.json", {})
    bundle = Bundle.open(tmp_path / "old")

    async def story():
        async with store.opened() as states:
            assert await seed_once(states, bundle, RAW) is None
            await seed(states, bundle, RAW)

    with pytest.raises(BundleError, match=r"user_seed\.arrow is missing"):
        asyncio.run(story())
