"""A signal at any moment of the start leaves no guard and no process behind."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from recsys.errors import ServingError
from serving.cli.signals import Signals
from serving.ops.stack import _guarded
from serving.ops.supervisor import Guard, RestartPolicy

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield Signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_interrupts_the_start_and_the_second_not_its_cleanup(signals: Signals, number: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    for other in NUMBERS:
        os.kill(os.getpid(), other)
    assert signals.stop_requested.is_set()


class Quiet:
    """A service that is never there."""

    name, pid = "quiet", 1

    def start(self) -> None:
        raise ServingError("it does not start")

    def stop(self) -> None: ...

    def running(self) -> bool:
        return False

    def probe(self) -> str | None:
        return None

    def repair(self) -> bool:
        return False

    def restartable(self) -> bool:
        return True


def test_guards_that_were_started_before_an_interruption_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    start, begun = threading.Thread.start, []

    def interrupted(thread: threading.Thread) -> None:
        if begun:
            raise KeyboardInterrupt
        start(thread)
        begun.append(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    guards = [Guard(Quiet(), lambda _: None, policy=RestartPolicy(interval_s=0.01)) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt), _guarded(guards, {}):
        pass
    assert [thread.is_alive() for thread in begun] == [False]
