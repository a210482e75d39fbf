"""Supervision of services: probe, repair where possible, restart with exponential backoff, report each step.

Triton neither restarts a dead python stub nor reports it (2.51), so a probe is a real request, not a look at the process.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from recsys.errors import ServingError, where


class Service(Protocol):
    """Supervised service."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int:
        """Process id; ServingError without a process."""
        ...

    def start(self) -> None:
        """Return when the service answers; ServingError when it does not start."""
        ...

    def stop(self) -> None:
        """Stop the service in any state, completely; stopping twice is allowed."""
        ...

    def running(self) -> bool:
        """Whether the process is alive."""
        ...

    def probe(self) -> str | None:
        """Send a real request: None if the service answers, else one sentence."""
        ...

    def repair(self) -> bool:
        """Repair short of a restart; True if something was done. ServingError when it did not help."""
        ...

    def restartable(self) -> bool:
        """Whether a restart may help now; a full disk has to be waited for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Intervals of a guard, in seconds."""

    interval_s: float = 1.0
    """between two probes"""
    max_silence_s: float = 12.0
    """without an answer before a running service is restarted; a briefly halted process recovers by itself"""
    first_pause_s: float = 0.5
    """before a second restart; doubled each time"""
    max_pause_s: float = 30.0
    stable_s: float = 60.0
    """of uptime that reset the pause"""


class Guard:
    """Supervises one started service. `report` gets one sentence for each finding and action.

    `clock` is monotonic, in seconds. Counters: `num_restarts` and `num_repairs`; `fault` is the current fault, None while
    the service answers.
    """

    def __init__(
        self,
        service: Service,
        report: Callable[[str], None],
        *,
        policy: RestartPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.fault: str | None = None
        self.num_restarts = 0
        self.num_repairs = 0
        self._report, self._policy, self._clock = report, policy, clock
        self._silent_since: float | None = None
        self._start_failed = False
        self._pause_s = policy.first_pause_s
        self._next_start = self._started = clock()

    def run(self, stopped: threading.Event) -> None:
        """Supervise the service until `stopped` is set."""
        while not stopped.wait(self._policy.interval_s):
            try:
                self.check()
            except Exception as error:  # the guard must survive any defect
                self._report_fault(f"cannot be supervised: {where(error)}")

    def check(self) -> None:
        """Probe once and act on the result."""
        if not self.service.running():
            if not self._start_failed:
                self._report_fault("is gone")
            self._restart()
            return
        fault = self.service.probe()
        if fault is None:
            self._mark_healthy()
            return
        self._report_fault(fault)
        if self._try_repair():
            return
        if self._clock() - (self._silent_since or 0.0) >= self._policy.max_silence_s:
            self._restart()

    def _mark_healthy(self) -> None:
        recovered, self.fault, self._silent_since = self.fault is not None, None, None
        if recovered:
            self._report(f"{self.service.name} answers again")
        if self._clock() - self._started >= self._policy.stable_s:
            self._pause_s = self._policy.first_pause_s

    def _report_fault(self, fault: str) -> None:
        changed, self.fault = fault != self.fault, fault
        if self._silent_since is None:
            self._silent_since = self._clock()
        if changed:
            self._report(f"{self.service.name}: {fault}")

    def _try_repair(self) -> bool:
        try:
            done = self.service.repair()
        except (ServingError, OSError) as error:
            self._report_fault(str(error))
            return False
        self.num_repairs += done
        return done

    def _restart(self) -> None:
        if self._clock() < self._next_start or not self.service.restartable():
            return
        self.num_restarts += 1
        try:
            self.service.stop()
            self.service.start()
        except (ServingError, OSError) as error:  # a full disk, no process to be had
            self._start_failed = True
            self._report_fault(f"did not start again: {error}")
        else:
            self._start_failed = False
            self._report(f"{self.service.name} was started again")
        now = self._clock()
        self._started, self._silent_since = now, now
        self._next_start = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._policy.max_pause_s)
