"""A watch turns once for every stamp, and again for one whose turn failed."""

import threading
import time
from collections.abc import Callable

import pytest

from recsys.stores import change_watcher
from recsys.stores.change_watcher import ChangeWatcher

PATIENCE_S = 60


class Turns:
    """What a watch is given, and what it did; the first `failures` turns fail."""

    def __init__(self, failures: int) -> None:
        self.stamp, self.made, self.failures = 0, 0, failures
        self.at: list[float] = []

    def __call__(self) -> bool:
        self.made += 1
        self.at.append(time.monotonic())
        return self.made > self.failures


def watched(turns: Turns) -> ChangeWatcher:
    return ChangeWatcher(lambda: turns.stamp, turns)


def looked(one: ChangeWatcher, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        one.poll()
        for thread in threading.enumerate():
            if thread.name == "watch":
                thread.join(PATIENCE_S)


def test_a_stamp_is_followed_once() -> None:
    turns = Turns(failures=0)
    one = watched(turns)
    turns.stamp = 1
    looked(one, lambda: turns.made == 1)
    for _ in range(20):
        one.poll()
    assert [thread.name for thread in threading.enumerate() if thread.name == "watch"] == []
    assert turns.made == 1


def test_a_turn_that_failed_is_made_again_ever_later_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_watcher, "FIRST_RETRY_S", 0.05)
    turns = Turns(failures=3)
    one = watched(turns)
    one._pause_s = 0.05
    turns.stamp = 1
    looked(one, lambda: turns.made == 4)
    gaps = [later - sooner for sooner, later in zip(turns.at[:-1], turns.at[1:], strict=True)]
    assert all(gap >= least for gap, least in zip(gaps, (0.05, 0.1, 0.2), strict=True))
    for _ in range(20):
        one.poll()
    assert turns.made == 4


def test_after_a_failure_another_stamp_is_followed_at_once_even_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns(failures=1)
    one = watched(turns)
    one._pause_s = 1e9
    turns.stamp = 1
    looked(one, lambda: turns.made == 1)
    for _ in range(20):
        one.poll()
    assert turns.made == 1
    turns.stamp = 0
    looked(one, lambda: turns.made == 2)


def test_what_was_made_of_the_first_stamp_may_have_failed_too() -> None:
    turns = Turns(failures=0)
    one = watched(turns)
    one._pause_s = 0.0
    one.mark_failed()
    looked(one, lambda: turns.made == 1)
