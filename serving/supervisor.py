"""Services are kept alive: probed, mended where a small remedy exists, restarted with a growing pause, and all of it said.

Triton neither restarts a dead python stub nor reports it (2.51), so what counts is whether a service answers a real
question, not whether its process runs.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from recsys.errors import ServingError, where


class Service(Protocol):
    """Something that runs beside us and may fail."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int:
        """Of its process; ServingError where there is none."""
        ...

    def start(self) -> None:
        """Return when it answers; ServingError when it does not come up."""
        ...

    def stop(self) -> None:
        """Stop it, whatever state it is in, and leave nothing behind; stopping twice is allowed."""
        ...

    def running(self) -> bool:
        """Whether its process is there."""
        ...

    def probe(self) -> str | None:
        """Ask it something real: None if it answers, else one sentence."""
        ...

    def mend(self) -> bool:
        """A remedy smaller than a restart; True if something was done. ServingError where it did not help."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a guard waits, in seconds."""

    round_s: float = 1.0
    """between two looks"""
    silent_s: float = 12.0
    """that a running service may not answer before it is restarted; a process that was only stopped for a while comes back"""
    first_pause_s: float = 0.5
    """before a restart that follows a failed one; doubled every time"""
    longest_pause_s: float = 30.0
    steady_s: float = 60.0
    """after which a service counts as well again"""


class Guard:
    """Looks after one started service. `say` gets one sentence for everything that was found or done.

    `clock` gives seconds that never run backwards. Counters: `restarts` and `mended`; `fault` is why it does not answer
    at this moment, None while it does.
    """

    def __init__(
        self,
        service: Service,
        say: Callable[[str], None],
        *,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.fault: str | None = None
        self.restarts = 0
        self.mended = 0
        self._say, self._patience, self._clock = say, patience, clock
        self._silent_since: float | None = None
        self._start_failed = False
        self._pause_s = patience.first_pause_s
        self._next_start = self._started = clock()

    def run(self, stopped: threading.Event) -> None:
        """Look after the service until told to stop."""
        while not stopped.wait(self._patience.round_s):
            try:
                self.round()
            except Exception as error:  # whoever guards must not be gone
                self._note(f"cannot be looked after: {where(error)}")

    def round(self) -> None:
        """One look, and what follows from it."""
        if not self.service.running():
            if not self._start_failed:
                self._note("is gone")
            self._restart()
            return
        fault = self.service.probe()
        if fault is None:
            self._well()
            return
        self._note(fault)
        if self._mend():
            return
        if self._clock() - (self._silent_since or 0.0) >= self._patience.silent_s:
            self._restart()

    def _well(self) -> None:
        if self.fault is not None:
            self._say(f"{self.service.name} answers again")
        self.fault, self._silent_since = None, None
        if self._clock() - self._started >= self._patience.steady_s:
            self._pause_s = self._patience.first_pause_s

    def _note(self, fault: str) -> None:
        if fault != self.fault:
            self._say(f"{self.service.name}: {fault}")
        if self._silent_since is None:
            self._silent_since = self._clock()
        self.fault = fault

    def _mend(self) -> bool:
        try:
            done = self.service.mend()
        except (ServingError, OSError) as error:
            self._note(str(error))
            return False
        self.mended += done
        return done

    def _restart(self) -> None:
        if self._clock() < self._next_start:
            return
        self.restarts += 1
        try:
            self.service.stop()
            self.service.start()
        except (ServingError, OSError) as error:  # a full disk, no process to be had
            self._start_failed = True
            self._note(f"did not start again: {error}")
        else:
            self._start_failed = False
            self._say(f"{self.service.name} was started again")
        now = self._clock()
        self._started, self._silent_since = now, now
        self._next_start = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._patience.longest_pause_s)
