"""A burst waits, an overload is shed; in virtual time."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from serving.gateway.adaptive_limit import AdaptiveLimit
from serving.gateway.bulkhead import AdmissionQueue, BulkheadFull


async def arrivals(queue: AdmissionQueue, *, num: int, every_s: float, work_s: float) -> list[float | None]:
    """Seconds that each waited, None for one that was refused."""
    clock = asyncio.get_running_loop().time

    async def one(number: int) -> float | None:
        await asyncio.sleep(number * every_s)
        arrived = clock()
        try:
            async with queue.admitted():
                waited = clock() - arrived
                await asyncio.sleep(work_s)
        except BulkheadFull:
            return None
        return waited

    return list(await asyncio.gather(*map(one, range(num))))


def queue(**changed: float) -> AdmissionQueue:
    usual: dict[str, Any] = {
        "max_running": 2,
        "waiting": 100,
        "wait_s": 1.0,
        "overload_s": 1.0,
        "calm_s": 5.0,
    } | changed
    return AdmissionQueue(**usual, clock=asyncio.get_running_loop().time)


def test_a_burst_is_answered_in_the_order_of_arrival(in_virtual_time: Any) -> None:
    async def story() -> list[float | None]:
        return await arrivals(queue(), num=10, every_s=0.0, work_s=0.1)

    assert in_virtual_time(story()) == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4])


def test_who_waited_in_vain_and_who_finds_no_place_in_line_are_refused(in_virtual_time: Any) -> None:
    async def story() -> tuple[list[float | None], list[float | None]]:
        late = await arrivals(queue(wait_s=0.25), num=10, every_s=0.0, work_s=0.1)
        return late, await arrivals(queue(waiting=3), num=10, every_s=0.0, work_s=0.1)

    late, crowded = in_virtual_time(story())
    assert [one is None for one in late] == [False] * 6 + [True] * 4
    assert [one is None for one in crowded] == [False] * 5 + [True] * 5


def test_under_an_overload_nobody_waits_any_more(in_virtual_time: Any) -> None:
    """Three times what can be worked off: the first second waits, what comes later is answered at once or refused."""

    async def story() -> list[float | None]:
        return await arrivals(queue(), num=300, every_s=1 / 60, work_s=0.1)

    waited = in_virtual_time(story())
    later = waited[150:]
    assert max(one for one in waited if one is not None) <= 1.0
    assert all(one is None or one == pytest.approx(0.0, abs=1e-9) for one in later)
    assert sum(one is not None for one in later) == pytest.approx(2 / 0.1 * len(later) / 60, rel=0.15)


def test_after_calm_a_burst_may_wait_again(in_virtual_time: Any) -> None:
    async def story() -> list[float | None]:
        queued = queue()
        await arrivals(queued, num=300, every_s=1 / 60, work_s=0.1)
        await asyncio.sleep(6.0)
        return await arrivals(queued, num=10, every_s=0.0, work_s=0.1)

    assert None not in in_virtual_time(story())


def slow_machine(queued: AdmissionQueue, limit: AdaptiveLimit, budget_s: float) -> Any:
    """A machine that makes 100 slates a second, however many are in work: each takes as long as all of them together."""
    running = 0

    async def slate() -> bool:
        nonlocal running
        async with queued.admitted():
            running += 1
            clock = asyncio.get_running_loop().time
            started = clock()
            await asyncio.sleep(0.01 * running)
            running -= 1
            seconds = clock() - started
            if seconds <= budget_s:
                limit.in_time(seconds)
            else:
                limit.late()
            return seconds <= budget_s

    return slate


def adaptive(queued: AdmissionQueue, first: int, budget_s: float = 0.1) -> AdaptiveLimit:
    clock = asyncio.get_running_loop().time
    return AdaptiveLimit(queued, first=first, least=1, most=32, budget_s=budget_s, clock=clock)


def test_the_limit_falls_until_slates_are_in_time(in_virtual_time: Any) -> None:
    async def story() -> tuple[list[bool], int]:
        queued = queue(waiting=10_000, wait_s=60.0, overload_s=60.0)
        limit = adaptive(queued, first=32)
        slate = slow_machine(queued, limit, budget_s=0.1)
        return list(await asyncio.gather(*(slate() for _ in range(600)))), limit.value

    in_time, value = in_virtual_time(story())
    assert sum(in_time[:32]) < 16
    assert sum(in_time[60:]) >= 0.97 * 540
    assert value in range(4, 11)


def test_the_limit_rises_only_in_full_use_and_never_beyond_the_most(in_virtual_time: Any) -> None:
    async def story() -> tuple[int, int]:
        queued = queue(waiting=10_000, wait_s=60.0, overload_s=60.0)
        limit = adaptive(queued, first=2, budget_s=10.0)
        slate = slow_machine(queued, limit, budget_s=10.0)
        for _ in range(100):
            await slate()
        idle = limit.value
        await asyncio.gather(*(slate() for _ in range(2_000)))
        return idle, limit.value

    assert in_virtual_time(story()) == (2, 32)


def test_slates_that_were_late_together_lower_the_limit_once(in_virtual_time: Any) -> None:
    async def story() -> list[int]:
        queued = queue()
        limit, values = adaptive(queued, first=20), []
        for _ in range(3):
            for _ in range(20):
                limit.late()
            values.append(limit.value)
            await asyncio.sleep(0.1)
        return values

    assert in_virtual_time(story()) == [14, 9, 6]


def test_who_gives_up_in_line_leaves_no_place_behind(in_virtual_time: Any) -> None:
    async def story() -> tuple[int, bool]:
        queued = queue(max_running=1)
        gate = asyncio.Event()

        async def hold() -> None:
            async with queued.admitted():
                await gate.wait()

        first, second, third = (asyncio.ensure_future(hold()) for _ in range(3))
        await asyncio.sleep(0.01)
        second.cancel()
        gate.set()
        await asyncio.gather(first, second, third, return_exceptions=True)
        return queued._bulkhead.waiting, queued.full

    assert in_virtual_time(story()) == (0, False)


def test_a_caller_waits_no_longer_than_it_allows_and_bars_nobody_else(in_virtual_time: Any) -> None:
    async def story() -> tuple[bool, float]:
        queued, clock = queue(max_running=1), asyncio.get_running_loop().time
        waited = 0.0

        async def hold() -> None:
            async with queued.admitted():
                await asyncio.sleep(0.3)

        async def hasty() -> bool:
            try:
                async with queued.admitted(most_s=0.1):
                    return False
            except BulkheadFull:
                return True

        holder, refused = asyncio.ensure_future(hold()), asyncio.ensure_future(hasty())
        await asyncio.sleep(0.15)
        started = clock()
        async with queued.admitted():
            waited = clock() - started
        await holder
        return await refused, waited

    refused, waited = in_virtual_time(story())
    assert refused
    assert waited == pytest.approx(0.15)


def test_a_caller_who_came_once_leaves_nothing_behind(in_virtual_time: Any) -> None:
    """Subjects of tokens are many, and each is a key of its own."""

    async def story() -> tuple[int, int]:
        queued = queue(max_running=1, wait_s=0.5)

        async def come(key: str) -> None:
            with suppress(BulkheadFull):
                async with queued.admitted(key=key):
                    await asyncio.sleep(0.1)

        await asyncio.gather(*(come(f"jwt:{number}") for number in range(50)))
        await asyncio.sleep(60.0)
        await asyncio.gather(*(come(f"jwt:later-{number}") for number in range(10)))
        return len(queued._empty_at), len(queued._calm_at)

    waiting, barred = in_virtual_time(story())
    assert waiting == 0
    assert barred <= 10
