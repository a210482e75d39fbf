"""The ladder in virtual time: nobody sleeps, deadlines are exact."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from recsys.contracts import Query
from recsys.errors import QueryError, ServingError
from serving.gateway.breaker import Breaker
from serving.gateway.bulkhead import Bulkhead, BulkheadFull
from serving.gateway.fallback_chain import FallbackChain, FallbackTier, SlateRequest, SlateResponse
from serving.gateway.http_error import HTTPError

SLATE = {"items": []}
Run = Callable[[Any], Any]


@dataclass
class Watched:
    failures: list[tuple[str, str]] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def tier_failed(self, rung: str, reason: str) -> None:
        self.failures.append((rung, reason))

    def observe_stage(self, stage: str, seconds: float) -> None:
        self.stages.append(stage)


def now() -> float:
    return asyncio.get_running_loop().time()


def question(budget_s: float = 0.1) -> SlateRequest:
    return SlateRequest(query=Query(user="u", now=0.0), document={}, text=b"", deadline=now() + budget_s)


def rung(
    name: str,
    answer: Callable[[SlateRequest, float], Awaitable[Any]],
    reserve_s: float = 0.0,
    max_running: int = 8,
    waiting: int = 8,
) -> FallbackTier:
    breaker = Breaker(window=4, failures=2, pause_s=1.0, max_pause_s=1.0, clock=now)
    return FallbackTier(
        name=name,
        answer=answer,
        breaker=breaker,
        bulkhead=Bulkhead(max_running=max_running, waiting=waiting),
        reserve_s=reserve_s,
        min_s=0.005,
    )


async def well(question: SlateRequest, time_s: float) -> dict[str, Any]:
    return SLATE


async def never(question: SlateRequest, time_s: float) -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def nothing(question: SlateRequest, time_s: float) -> None:
    return None


def failing(error: Exception) -> Callable[[SlateRequest, float], Awaitable[Any]]:
    async def answer(question: SlateRequest, time_s: float) -> Any:
        raise error

    return answer


async def answered(*rungs: FallbackTier, budget_s: float = 0.1) -> tuple[SlateResponse, Watched, float]:
    watched, began = Watched(), now()
    answer = await FallbackChain(rungs, clock=now, metrics=watched).answer(question(budget_s))
    return answer, watched, now() - began


def test_the_first_rung_answers_and_nothing_is_degraded(in_virtual_time: Run) -> None:
    async def one() -> tuple[SlateResponse, Watched, float]:
        return await answered(rung("a", well), rung("b", well))

    answer, watched, took = in_virtual_time(one())
    assert (answer.tier, answer.reasons, took, watched.failures) == ("a", (), 0.0, [])
    assert watched.stages == ["a"]


def test_a_slow_rung_leaves_the_next_ones_their_time(in_virtual_time: Run) -> None:
    told: list[float] = []

    async def last(question: SlateRequest, time_s: float) -> dict[str, Any]:
        told.append(time_s)
        return SLATE

    async def one() -> tuple[SlateResponse, Watched, float]:
        return await answered(rung("a", never, 0.04), rung("b", never, 0.01), rung("c", last))

    answer, watched, took = in_virtual_time(one())
    assert answer.reasons == ("rung:c", "a:timeout", "b:timeout")
    assert took == pytest.approx(0.09)
    assert told == [pytest.approx(0.01)]
    assert watched.failures == [("a", "timeout"), ("b", "timeout")]


def test_a_rung_without_enough_time_is_not_tried(in_virtual_time: Run) -> None:
    async def one() -> tuple[SlateResponse, Watched, float]:
        return await answered(rung("a", never, 0.04), rung("b", well, 0.01), budget_s=0.03)

    answer, _, took = in_virtual_time(one())
    assert (answer.reasons, took) == (("rung:b", "a:late"), 0.0)


def test_nobody_answers_after_the_deadline(in_virtual_time: Run) -> None:
    async def one() -> float:
        began = now()
        with pytest.raises(HTTPError) as refused:
            await answered(rung("a", never), rung("b", well))
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1.0)
        return now() - began

    assert in_virtual_time(one()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ServingError("away"), "failed"), (KeyError("a defect"), "failed"), (TimeoutError(), "timeout")],
)
def test_a_failure_is_the_next_ones_turn(in_virtual_time: Run, error: Exception, reason: str) -> None:
    async def one() -> SlateResponse:
        return (await answered(rung("a", failing(error)), rung("b", well)))[0]

    assert in_virtual_time(one()).reasons == ("rung:b", f"a:{reason}")


def test_a_rung_with_nothing_to_say_has_not_failed(in_virtual_time: Run) -> None:
    async def one() -> tuple[SlateResponse, str]:
        first = rung("a", nothing)
        for _ in range(10):
            answer, _, _ = await answered(first, rung("b", well))
        return answer, first.breaker.state

    answer, state = in_virtual_time(one())
    assert (answer.reasons, state) == (("rung:b", "a:nothing"), "closed")


def test_what_the_caller_did_wrong_is_told_and_no_failure(in_virtual_time: Run) -> None:
    async def one() -> str:
        first = rung("a", failing(QueryError("k is 0")))
        for _ in range(10):
            with pytest.raises(QueryError, match="k is 0"):
                await answered(first, rung("b", well))
        return first.breaker.state

    assert in_virtual_time(one()) == "closed"


def test_an_open_breaker_costs_no_time_and_one_try_closes_it(in_virtual_time: Run) -> None:
    healed: list[bool] = []

    async def sick(question: SlateRequest, time_s: float) -> dict[str, Any]:
        return SLATE if healed else await never(question, time_s)

    async def story() -> list[tuple[str, float]]:
        first, second, told = rung("a", sick, 0.02), rung("b", well), []
        for moment in ("sick", "sick", "open", "open", "half-open", "closed"):
            if moment == "half-open":
                healed.append(True)
                await asyncio.sleep(1.0)
            answer, _, took = await answered(first, second)
            told.append((answer.reasons[-1] if answer.reasons else "", round(took, 6)))
        return told

    told = in_virtual_time(story())
    assert told == [("a:timeout", 0.08), ("a:timeout", 0.08), ("a:open", 0.0), ("a:open", 0.0), ("", 0.0), ("", 0.0)]


def test_beyond_its_places_a_rung_turns_away_at_once_and_its_breaker_stays_closed(in_virtual_time: Run) -> None:
    async def crowd() -> tuple[list[tuple[str, ...]], str]:
        gate = asyncio.Event()

        async def gated(question: SlateRequest, time_s: float) -> dict[str, Any]:
            await gate.wait()
            return SLATE

        first = rung("a", gated, 0.02, max_running=2, waiting=3)
        asked = [asyncio.create_task(answered(first, rung("b", well))) for _ in range(9)]
        await asyncio.sleep(0.01)
        gate.set()
        reasons = [(await one)[0].reasons for one in asked]
        return reasons, first.breaker.state

    reasons, state = in_virtual_time(crowd())
    assert (reasons.count(()), reasons.count(("rung:b", "a:busy")), state) == (5, 4, "closed")


def test_who_waits_in_vain_for_a_place_says_nothing_against_the_rung(in_virtual_time: Run) -> None:
    async def crowd() -> tuple[list[str], str]:
        async def slow(question: SlateRequest, time_s: float) -> dict[str, Any]:
            await asyncio.sleep(0.075)
            return SLATE

        first = rung("a", slow, 0.02, max_running=1, waiting=8)
        asked = [asyncio.create_task(answered(first, rung("b", well))) for _ in range(4)]
        return [(await one)[0].tier for one in asked], first.breaker.state

    rungs, state = in_virtual_time(crowd())
    assert rungs[0] == "a"
    assert set(rungs[2:]) == {"b"}
    assert state == "closed"


def test_a_caller_who_leaves_frees_its_place(in_virtual_time: Run) -> None:
    async def story() -> str:
        first = rung("a", never, max_running=1, waiting=0)
        leaving = asyncio.create_task(answered(first))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        async with first.bulkhead.acquire():
            return first.breaker.state

    assert in_virtual_time(story()) == "closed"


def test_slots_are_bounded_and_in_order(in_virtual_time: Run) -> None:
    async def story() -> list[int]:
        slots, order, gate = Bulkhead(max_running=1, waiting=2), [], asyncio.Event()

        async def enter(number: int) -> None:
            async with slots.acquire():
                order.append(number)
                await gate.wait()

        tasks = [asyncio.create_task(enter(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert slots.waiting == 2
        with pytest.raises(BulkheadFull):
            await enter(9)
        gate.set()
        await asyncio.gather(*tasks)
        return order

    assert in_virtual_time(story()) == [0, 1, 2]
