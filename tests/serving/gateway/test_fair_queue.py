"""Keys take turns: neither many nor slow requests of one take the slots and the queue of another."""

import asyncio
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.bulkhead import AdmissionQueue, Bulkhead, BulkheadFull

KEYS = ("a", "b", "c", "d")
STEPS = st.lists(st.tuples(st.sampled_from(["come", "come", "leave", "give up"]), st.integers(0, 1_000)), max_size=120)


class Crowd:
    """Callers of a bulkhead, moved one step at a time."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.waiting: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []
        self.running: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []
        self.admitted: list[str] = []

    async def step(self, action: str, number: int) -> None:
        if action == "come":
            key, gate = KEYS[number % len(KEYS)], asyncio.Event()
            self.waiting.append((key, asyncio.ensure_future(self.caller(key, gate)), gate))
        elif action == "leave" and self.running:
            self.running.pop(number % len(self.running))[2].set()
        elif action == "give up" and self.waiting:
            self.waiting[number % len(self.waiting)][1].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        self.waiting = [one for one in self.waiting if not one[1].done() and one not in self.running]

    async def caller(self, key: str, gate: asyncio.Event) -> None:
        try:
            async with self.bulkhead.acquire(key):
                self.admitted.append(key)
                self.running += [one for one in self.waiting if one[2] is gate]
                await gate.wait()
        except BulkheadFull:
            return

    def num_running(self, key: str) -> int:
        return sum(one[0] == key for one in self.running)

    @property
    def keys_waiting(self) -> set[str]:
        return {key for key, _, _ in self.waiting}

    async def end(self) -> None:
        for _, task, _ in (*self.waiting, *self.running):
            task.cancel()
        await asyncio.gather(*(task for _, task, _ in (*self.waiting, *self.running)), return_exceptions=True)


@given(steps=STEPS, slots=st.integers(1, 6), room=st.integers(0, 12))
def test_no_key_is_passed_over_more_often_than_there_are_other_keys(
    steps: list[tuple[str, int]], slots: int, room: int
) -> None:
    async def story() -> None:
        crowd, passed = Crowd(Bulkhead(max_running=slots, waiting=room)), Counter[str]()
        for action, number in steps:
            idle = {key for key in crowd.keys_waiting if not crowd.num_running(key)}
            before = len(crowd.admitted)
            await crowd.step(action, number)
            for admitted in crowd.admitted[before:]:
                passed.update(idle - {admitted})
                passed[admitted] = 0
            for key in set(KEYS) - crowd.keys_waiting:
                passed[key] = 0
            assert max(passed.values(), default=0) < len(KEYS)
            assert len(crowd.running) <= slots
            assert len(crowd.waiting) <= room
            assert all(crowd.num_running(key) <= math.ceil(3 / 4 * slots) for key in KEYS)
            if len(crowd.running) < slots:
                assert all(crowd.num_running(key) for key in crowd.keys_waiting)
        await crowd.end()
        assert (crowd.bulkhead.waiting, crowd.bulkhead.full) == (0, False)

    asyncio.run(story())


def queue(**changed: float) -> AdmissionQueue:
    usual: dict[str, Any] = {"max_running": 8, "waiting": 40, "wait_s": 5.0, "overload_s": 1.0, "calm_s": 5.0} | changed
    return AdmissionQueue(**usual, clock=asyncio.get_running_loop().time)


async def request(admission: AdmissionQueue, key: str, work_s: float) -> float | None:
    """Seconds of waiting, None where it was refused."""
    clock = asyncio.get_running_loop().time
    arrived = clock()
    try:
        async with admission.admitted(key=key):
            waited = clock() - arrived
            await asyncio.sleep(work_s)
    except BulkheadFull:
        return None
    return waited


def test_slow_requests_of_one_key_leave_slots_to_another(in_virtual_time: Any) -> None:
    async def story() -> float | None:
        admission = queue()
        slow = [asyncio.ensure_future(request(admission, "slow", 4.0)) for _ in range(30)]
        await asyncio.sleep(0.5)
        waited = await request(admission, "other", 0.1)
        await asyncio.gather(*slow)
        return waited

    assert in_virtual_time(story()) == pytest.approx(0.0)


def test_a_full_queue_of_one_key_makes_room_for_another(in_virtual_time: Any) -> None:
    """Three keys fill slots and queue; the newest callers of the longest queue give way to a fourth, which is next in turn."""

    async def story() -> tuple[list[float | None], list[float | None]]:
        admission = queue(waiting=20)
        flood = [asyncio.ensure_future(request(admission, key, 0.1)) for key in ("a", "b", "c") * 30]
        await asyncio.sleep(0.01)
        others = await asyncio.gather(*(request(admission, "d", 0.1) for _ in range(3)))
        return list(others), list(await asyncio.gather(*flood))

    others, flood = in_virtual_time(story())
    assert None not in others
    assert max(one for one in others if one is not None) <= 0.2
    assert flood.count(None) > 60


def test_the_overload_of_one_key_bars_no_other(in_virtual_time: Any) -> None:
    """Also where every slot is in use, a key without a backlog may wait for its turn."""

    async def story() -> list[float | None]:
        admission = queue(max_running=1)
        flood = [asyncio.ensure_future(request(admission, "flood", 0.1)) for _ in range(40)]
        await asyncio.sleep(2.05)
        barred = await request(admission, "flood", 0.1)
        other = await request(admission, "other", 0.1)
        await asyncio.gather(*flood)
        return [barred, other]

    barred, other = in_virtual_time(story())
    assert barred is None
    assert other == pytest.approx(0.15), "one turn of the other key, and what was left of the request in work"


def test_callers_without_a_key_have_all_slots(in_virtual_time: Any) -> None:
    async def story() -> list[float | None]:
        admission = queue(max_running=8)
        return list(await asyncio.gather(*(request(admission, "", 0.1) for _ in range(8))))

    assert in_virtual_time(story()) == pytest.approx([0.0] * 8)
