"""A burst waits, an overload is shed; in virtual time."""

import asyncio
from typing import Any

import pytest

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
