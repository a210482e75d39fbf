"""What a user has seen or hides is on no slate, whoever makes it, from the answer to the event on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from recsys.contracts import Event
from recsys.errors import ServingError
from recsys.policy.compose import Policy
from recsys.policy.repeat import Repeat
from recsys.stages import load_rules, read_spec
from serving.endpoints import Server
from serving.events.record import Record, StoredRecord
from serving.gateway.container import Dependencies
from serving.gateway.fallback_tiers import NAMES
from serving.gateway.pending_records import MAX_RECORDS_PER_USER, PendingRecords
from serving.gateway.repeat_filter import RepeatFilter
from serving.state.apply_events import apply_records, short_id
from serving.state.exposure_counts import ExposureCounts
from serving.state.protocols import UserState
from serving.state.seen import SeenItems
from serving.state.states import StateStore
from serving.state.store_factory import open_states

USER, K = "planted-user-7391", 10
Story = Callable[[Any, "Switched"], Awaitable[Any]]


class Switched:
    """Models of a server of which those named in `gone` do not answer."""

    def __init__(self, models: Any) -> None:
        self.models, self.gone = models, set[str]()

    def only(self, rung: str) -> None:
        """From now on this rung answers, where it can."""
        self.gone = {name for name in NAMES[:2] if name != rung}

    async def infer(self, model: str, *args: Any, **more: Any) -> bytes:
        if model in self.gone:
            raise ServingError("it is gone")
        return await self.models.infer(model, *args, **more)

    async def close(self) -> None:
        await self.models.close()


@pytest.fixture
def switched(served_parts: Callable[[], Dependencies], during: Any) -> Callable[[Story], Any]:
    """Runs a story before the real Triton."""

    def switched(story: Story, **changes: Any) -> Any:
        parts = served_parts()
        models = Switched(parts.models)
        changed = replace(parts, models=models, **changes)
        return during(changed, lambda door: story(door, models))

    return switched


async def shown(door: Any, rung: str, k: int = K) -> list[str]:
    """The items of a slate of this rung."""
    answer = (await door.recommend(USER, k=k)).json()
    assert answer["rung"] == rung
    return [place["item"] for place in answer["items"]]


async def told(door: Any, **event: Any) -> None:
    answer = await door.client.post("/v1/events", json={"events": [{"user": USER, **event}]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("rung", NAMES)
def test_what_is_hidden_is_gone_at_once_and_may_come_back(rung: str, switched: Any, trained: Any) -> None:
    """The states never learn of it here: the consumer is behind."""
    rows = trained.dataset.items.select("item", "category").rows()
    category = dict(rows)

    async def story(door: Any, models: Switched) -> None:
        models.only("recommend" if rung == "last_good" else rung)
        before = await shown(door, "recommend" if rung == "last_good" else rung)
        item, kind = before[0], next(category[one] for one in before[1:] if category[one] is not None)
        await told(door, hide={"item": item})
        await told(door, hide={"category": kind})
        models.only(rung)
        after = await shown(door, rung if rung != "last_good" else "popular")
        assert item not in after
        assert kind not in {category[one] for one in after}
        await told(door, unhide={"category": kind, "item": item})
        assert set(await shown(door, rung)) == set(before)

    switched(story)


def test_a_last_good_slate_loses_what_is_hidden_and_is_used_while_it_fills_the_page(switched: Any) -> None:
    async def story(door: Any, models: Switched) -> None:
        before = await shown(door, "recommend")
        await told(door, hide={"item": before[0]})
        models.only("last_good")
        after = await shown(door, "last_good", k=K - 1)
        assert set(after) == set(before[1:])
        await told(door, item=before[1])
        assert set(await shown(door, "last_good", k=K - 2)) == set(before[2:])

    switched(story)


@pytest.fixture
def stored(trained: Any, tmp_path: Path) -> Callable[[], StateStore]:
    """A real store, to be opened in a loop."""
    exposure = ExposureCounts(values=dict, half_life_s=86_400.0)
    limits: dict[str, Any] = {"read_timeout_s": 10.0, "write_timeout_s": 10.0, "ttl_s": None}
    return lambda: open_states(
        Server(url=f"sqlite:///{tmp_path / 'states.db'}"), read_spec(trained.bundle), exposure=exposure, **limits
    )


@pytest.mark.parametrize("rung", NAMES)
@pytest.mark.parametrize("num", [40, 60, 737])
def test_nothing_that_was_seen_is_shown_however_long_ago(
    num: int, rung: str, switched: Any, stored: Callable[[], StateStore], items: Sequence[str], trained: Any
) -> None:
    """Histories beyond what a state keeps, many of whose events reach no objective, through a store."""
    chosen = np.random.default_rng(num).choice(items[:120], num).tolist()
    start = float(trained.replay.timestamps.max()) - num
    events = [
        {"user": USER, "item": item, "timestamp": start + number, "actions": {"click": float(number % 2)}}
        for number, item in enumerate(chosen)
    ]

    async def story(door: Any, models: Switched) -> None:
        await shown(door, "recommend", k=1)
        for first in range(0, num, 500):
            answer = await door.client.post("/v1/events", json={"events": events[first : first + 500]})
            assert answer.status_code == 200
        records = door.parts.writer.of_kind("feedback")
        await states.write([StoredRecord(sequence=number, record=record) for number, record in enumerate(records, 1)])
        models.only(rung)
        answer = (await door.recommend(USER, k=100)).json()
        assert answer["rung"] == (rung if rung != "last_good" else "popular")
        assert answer["items"]
        assert not {place["item"] for place in answer["items"]} & set(chosen)
        await states.close()

    states = stored()
    switched(story, states=states)


def test_profiles_of_the_state_serve_where_the_caller_sends_none(parts: Dependencies, during: Any) -> None:
    state = UserState(seeded={"age": 30.0, "segment": "a"}, profile={"segment": "b"})
    parts.states.known[USER] = state  # type: ignore[attr-defined]

    async def story(door: Any) -> list[Any]:
        puts = [{"age": 31.0}, {"age": None}]
        profiles = [await logged_profile(door), await logged_profile(door, profile={"age": 44.0})]
        for put in puts:
            answer = await door.client.put(f"/v1/users/{USER}", json={"profile": put})
            assert (answer.status_code, answer.json()["outcome"]) == (200, "changed")
            profiles.append(await logged_profile(door))
        stranger = await door.client.put("/v1/users/no%2Fbody", json={"profile": {"age": 3.0}})
        assert (stranger.status_code, stranger.json()["user"], stranger.json()["outcome"]) == (
            201,
            "no/body",
            "created",
        )
        return profiles

    first, own, changed, forgotten = during(parts, story)
    assert first == {"age": 30.0, "segment": "b"}
    assert own == {"age": 44.0, "segment": "b"}
    assert changed == {"age": 31.0, "segment": "b"}
    assert forgotten == {"segment": "b"}


@pytest.mark.parametrize(
    ("user", "stored"), [("a\r\nb", "a\r\nb"), ("a/b", "a/b"), ("?", "?"), ("%41", "%41"), ("\na", "a"), ("a\n", "a")]
)
def test_an_id_in_a_path_is_that_id(parts: Dependencies, during: Any, user: str, stored: str) -> None:
    answer = during(parts, lambda door: put_user(door, user))
    assert (answer.status_code, answer.json()["user"]) == (201, stored)


@pytest.mark.parametrize("user", ["\n", " ", ""])
def test_a_blank_in_a_path_is_no_id(parts: Dependencies, during: Any, user: str) -> None:
    answer = during(parts, lambda door: put_user(door, user))
    assert answer.status_code == 400
    assert "user" in answer.json()["error"]


async def put_user(door: Any, user: str) -> httpx.Response:
    answer: httpx.Response = await door.client.put(f"/v1/users/{quote(user, safe='')}", json={"profile": {"age": 3.0}})
    return answer


async def logged_profile(door: Any, **fields: Any) -> dict[str, Any]:
    """The profile that the last slate was made with."""
    before = len(door.parts.writer.of_kind("impression"))
    await door.recommend(USER, **fields)
    while len(logged := door.parts.writer.of_kind("impression")) == before:
        await asyncio.sleep(0)
    return logged[-1].body["query"]["profile"]


def test_a_put_of_a_profile_is_kept_while_the_state_store_is_away(parts: Dependencies, during: Any) -> None:
    parts.states.away = True  # type: ignore[attr-defined]

    async def story(door: Any) -> Any:
        return (await door.client.put(f"/v1/users/{USER}", json={"profile": {"age": 3.0}})).json()

    assert during(parts, story)["outcome"] == "accepted"
    (record,) = parts.writer.of_kind("profile")  # type: ignore[attr-defined]
    assert (record.user, record.body) == (USER, {"age": 3.0})


def test_repeats_are_those_of_the_policy(parts: Dependencies, trained: Any) -> None:
    spec, day = read_spec(trained.bundle), 86_400.0
    events = [
        Event(user=USER, item=item, timestamp=10 * day + ago * day, actions={"click": 1.0})
        for item, ago in (("old", -20), ("new", -1))
    ]
    state = UserState(history=tuple(events[1:]), seen=SeenItems().after(events, spec))
    assert RepeatFilter(parts.rules).barred(state, 10 * day) == ["old"], "the history bars its items itself"
    policy = Policy.from_document(trained.bundle.document("policy.yaml"))
    policy.repeat = Repeat(default=7.0, objectives={})
    after_a_week = RepeatFilter(load_rules(trained.bundle, policy=policy))
    assert after_a_week.barred(state, 10 * day) == ["new"]
    assert after_a_week.barred(state, 20 * day) == []


@pytest.fixture
def clocked() -> Iterator[Any]:
    """A clock that the test moves."""

    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    @contextmanager
    def clock() -> Iterator[Clock]:
        yield Clock()

    with clock() as made:
        yield made


def acted(user: str, number: int) -> Record:
    event = Event(user=user, item=f"i{number}", timestamp=float(number), actions={"click": 1.0})
    return Record.feedback(f"{number:012}{user}", event)


def test_what_waits_is_laid_over_the_state_until_the_state_knows_it(trained: Any, clocked: Any) -> None:
    spec = read_spec(trained.bundle)
    pending, records = (
        PendingRecords(spec, max_users=2, max_bytes=1 << 20, keep_s=60.0, clock=clocked),
        [acted("u", number) for number in range(5)],
    )
    pending.add(records)
    assert pending.overlay("u", UserState()) == apply_records(UserState(), records, spec)
    half = apply_records(UserState(), records[:3], spec)
    assert pending.overlay("u", half) == apply_records(half, records[3:], spec)
    everything = apply_records(UserState(), records, spec)
    assert pending.overlay("u", everything) is everything
    assert len(pending) == 0
    assert short_id(records[-1]) == everything.recent[-1]


def test_what_waits_is_bounded_in_users_records_and_time(trained: Any, clocked: Any) -> None:
    pending = PendingRecords(read_spec(trained.bundle), max_users=2, max_bytes=1 << 20, keep_s=60.0, clock=clocked)
    pending.add([acted("u", number) for number in range(MAX_RECORDS_PER_USER + 3)])
    assert len(pending.overlay("u", UserState()).seen) == MAX_RECORDS_PER_USER
    pending.add([acted(user, 1) for user in "vw"])
    assert len(pending) == 2
    nothing = UserState()
    assert pending.overlay("u", nothing) is nothing
    clocked.now = 60.0
    assert pending.overlay("v", nothing) is nothing
    assert len(pending) == 1


def test_what_waits_is_bounded_in_bytes_and_the_newest_stay(trained: Any, clocked: Any) -> None:
    """A caller may send large events of few users; the bytes are those of what is left, whatever went and why."""
    size = len(acted("u", 0).to_json())
    pending = PendingRecords(read_spec(trained.bundle), max_users=9, max_bytes=4 * size, keep_s=60.0, clock=clocked)
    pending.add([acted("u", number) for number in range(3)])
    pending.add([acted("v", number) for number in range(3)])
    assert pending.num_bytes == 4 * size
    assert pending.overlay("u", UserState()).seen.items == ("i2",)
    assert len(pending.overlay("v", UserState()).seen) == 3
    pending.add([acted("v", 2)])
    assert pending.num_bytes == 4 * size, "the same record again"
    pending.forget({"v": 1.0})
    assert (pending.num_bytes, len(pending)) == (2 * size, 2)
    pending.overlay("v", apply_records(UserState(), [acted("v", 2)], read_spec(trained.bundle)))
    assert (pending.num_bytes, len(pending)) == (size, 1)
    pending.add([replace(acted("w", 1), body={"item": "x" * 9 * size})])
    assert (pending.num_bytes, len(pending)) == (0, 0), "no record is larger than all may be together"
