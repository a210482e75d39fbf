"""The circuit breaker, by a clock that the test moves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from serving.gateway.breaker import Breaker, BreakerCall


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def breaker(clock: Clock, window: int = 5, failures: int = 3) -> Breaker:
    return Breaker(window=window, failures=failures, pause_s=1.0, max_pause_s=3.0, clock=clock)


def call(one: Breaker, well: bool) -> bool:
    """Whether the call was let through."""
    if (allowed := one.allow()) is None:
        return False
    (allowed.succeeded if well else allowed.failed)()
    return True


def test_it_opens_after_so_many_failures_among_the_last_calls(clock: Clock) -> None:
    one = breaker(clock)
    for well in (False, True, False, True, True, False, True):
        call(one, well)
    assert one.state == "closed"  # never three failures among five
    call(one, False)
    call(one, False)
    assert one.state == "open"
    assert not one.allow()


def test_open_it_lets_nothing_through_until_the_pause_is_over(clock: Clock) -> None:
    one = breaker(clock)
    for _ in range(3):
        call(one, False)
    clock.now = 0.999
    assert not one.allow()
    clock.now = 1.0
    assert one.state == "half-open"


def test_half_open_one_caller_tries_and_success_closes(clock: Clock) -> None:
    one = breaker(clock)
    for _ in range(3):
        call(one, False)
    clock.now = 1.0
    probe = one.allow()
    assert probe is not None
    assert one.allow() is None
    probe.succeeded()
    assert one.state == "closed"
    assert [call(one, False) for _ in range(2)] == [True, True]
    assert one.state == "closed"  # what failed before it opened is forgotten


def test_each_failed_try_doubles_the_pause_up_to_the_longest(clock: Clock) -> None:
    one = breaker(clock)
    for _ in range(3):
        call(one, False)
    pauses = []
    for _ in range(4):
        began = clock.now
        while one.state != "half-open":
            clock.now += 0.25
        pauses.append(clock.now - began)
        assert call(one, False)
    assert pauses == [1.0, 2.0, 3.0, 3.0]


def test_a_success_resets_the_pause(clock: Clock) -> None:
    one = breaker(clock)
    for _ in range(3):
        call(one, False)
    for well in (False, True):
        clock.now += 10
        call(one, well)
    for _ in range(3):
        call(one, False)
    clock.now += 1.0
    assert one.state == "half-open"


def test_a_call_that_was_not_made_leaves_the_try_to_the_next(clock: Clock) -> None:
    one = breaker(clock)
    for _ in range(3):
        call(one, False)
    clock.now = 1.0
    probe = one.allow()
    assert probe is not None
    probe.cancelled()
    assert one.allow() is not None


@pytest.fixture
def opened(clock: Clock) -> tuple[Breaker, list[BreakerCall]]:
    """Open, with seven of ten calls still on their way."""
    one = breaker(clock)
    calls = [allowed for _ in range(10) if (allowed := one.allow()) is not None]
    for early in calls[:3]:
        early.failed()
    return one, calls[3:]


def test_late_failures_of_calls_from_before_do_not_lengthen_the_pause(
    clock: Clock, opened: tuple[Breaker, list[BreakerCall]]
) -> None:
    one, late = opened
    for before in late:
        before.failed()
    clock.now = 1.0
    assert one.state == "half-open"


@pytest.mark.parametrize("said", ["succeeded", "failed", "cancelled"])
def test_only_the_probe_decides_whatever_comes_late(
    clock: Clock, opened: tuple[Breaker, list[BreakerCall]], said: str
) -> None:
    one, late = opened
    clock.now = 1.0
    probe = one.allow()
    assert probe is not None
    getattr(late[0], said)()
    assert one.state == "half-open"
    assert one.allow() is None  # one at a time, still
    probe.failed()
    getattr(late[1], said)()
    assert one.state == "open"
    clock.now = 3.0
    assert call(one, True)
    assert one.state == "closed"
    for before in late[2:]:
        getattr(before, said)()
    assert one.state == "closed"


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 2.0)), max_size=60))
def test_it_behaves_like_a_slow_twin(calls: list[tuple[bool, float]]) -> None:
    """The twin keeps all outcomes since it closed and looks at the last five."""
    clock = Clock()
    one = breaker(clock)
    outcomes: list[bool] = []
    opened, pause = None, 1.0
    for well, passed in calls:
        clock.now += passed
        if opened is not None and clock.now < opened + pause:
            assert not call(one, well)
            continue
        assert call(one, well)
        if opened is not None:
            opened, pause, outcomes = (None, 1.0, []) if well else (clock.now, min(2 * pause, 3.0), outcomes)
            continue
        outcomes.append(well)
        if outcomes[-5:].count(False) >= 3:
            opened = clock.now


def test_ranges_are_checked(clock: Clock) -> None:
    with pytest.raises(ConfigError, match=r"breaker\.failures is 9"):
        breaker(clock, window=5, failures=9)
