"""One attack or fault on a stack, its outcome, and the counts that a claim stands by."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import wraps

from benchmarks.lib.attacked_stack import AttackedStack
from benchmarks.lib.http_attacks import Target
from benchmarks.lib.other_caller import OtherCaller
from benchmarks.lib.result_file import Figure

RECOVERY_S = 180.0
MIN_ATTACKS = 40
ACCOUNT = "another account"
REQUESTS = (ACCOUNT, "requests", "keys and tenants")
"""groups whose attacks may restart nothing and delay nobody else"""


class Stopwatch:
    """Seconds since the last damage was done, where an attack waits for a part of the recovery itself."""

    def __init__(self) -> None:
        self._begin: float | None = None

    def reset(self) -> None:
        self._begin = None

    def start(self) -> None:
        self._begin = time.monotonic()

    def started(self) -> float:
        """Return when it was started; it is now where nobody has."""
        if self._begin is None:
            self.start()
        assert self._begin is not None
        return self._begin


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A stack under attack. token: of a key for probes; target: the gateway with the key of the attacker."""

    stack: AttackedStack
    token: str
    target: Target
    caller: OtherCaller
    watch: Stopwatch = field(default_factory=Stopwatch)


Strike = Callable[[Scene], AbstractContextManager[str]]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A context manager that attacks, gives a clause of what happened, and puts back what it damaged.

    It raises AssertionError where the attack came through. Within its block the stack has to recover by itself.
    """

    group: str
    tried: str
    strike: Strike
    root: bool = False
    """only root can do it"""

    @property
    def possible(self) -> bool:
        return not self.root or os.geteuid() == 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A row of the table."""

    group: str
    tried: str
    happened: str
    came_through: bool
    executed: bool
    """whether the service ran code of another account"""
    recovered_s: float | None
    """None where it did not recover alone"""
    restarted_gateway: bool
    asked: int
    """requests of the other caller meanwhile"""
    failed: int
    """those that were not answered with 200"""
    forbidden: int
    """items of its slates that a `must` forbids"""


def struck(function: Callable[[Scene], str]) -> Strike:
    """Make an attack of a function that leaves nothing to put back."""

    @wraps(function)
    @contextmanager
    def strike(scene: Scene) -> Iterator[str]:
        yield function(scene)

    return strike


def carry_out(attack: Attack, scene: Scene) -> Outcome:
    """Attack, and wait until the stack is well again."""
    stack, before = scene.stack, scene.caller.witnessed()
    gateway = stack.pids.get("gateway")
    came_through, recovered = True, None
    scene.watch.reset()
    try:
        with attack.strike(scene) as happened:
            recovered = _recovery_s(scene)
        came_through = False
    except Exception as error:  # whatever an attack meets is its outcome; the others go on
        happened = f"{type(error).__name__}: {error}"[:300]
        recovered = _recovery_s(scene) if recovered is None else recovered
    seen = scene.caller.witnessed(before)
    return Outcome(
        group=attack.group,
        tried=attack.tried,
        happened=" ".join(happened.split()),
        came_through=came_through,
        executed=stack.executed,
        recovered_s=None if recovered is None else round(recovered, 1),
        restarted_gateway=stack.pids.get("gateway") != gateway,
        asked=seen.answers,
        failed=seen.failures,
        forbidden=seen.forbidden,
    )


def _recovery_s(scene: Scene) -> float | None:
    """Seconds from the damage until the stack is well, None if it is not within the time."""
    begin = scene.watch.started()
    return time.monotonic() - begin if scene.stack.recovers(scene.token, RECOVERY_S) else None


def figures(outcomes: Sequence[Outcome], acknowledged: Sequence[str], written: Sequence[str]) -> dict[str, Figure]:
    """Goals of the claim. acknowledged, written: ids of events."""
    by_request = [one for one in outcomes if one.group in REQUESTS]
    kept = set(written)
    lost = sum(id not in kept for id in acknowledged)
    doubled = len(written) - len(kept)
    num, asked = f"of {len(outcomes)}", f"of {sum(one.asked for one in by_request)}"
    values = {
        "code_executed_by_another_account": (sum(one.executed for one in outcomes), num),
        "other_account_came_through": (_through(outcomes, True), "attacks that reached something"),
        "other_attacks_came_through": (_through(outcomes, False), num),
        "gateway_restarts_by_requests": (sum(one.restarted_gateway for one in by_request), f"of {len(by_request)}"),
        "others_refused_meanwhile": (sum(one.failed for one in by_request), asked),
        "must_violations": (sum(one.forbidden for one in outcomes), "items"),
        "acknowledged_events_lost": (lost, f"of {len(acknowledged)}"),
        "acknowledged_events_doubled": (doubled, f"of {len(written)} in the Parquet"),
        "not_recovered_alone": (sum(one.recovered_s is None for one in outcomes), num),
    }
    shown = {name: Figure(value=value, unit=unit, goal=0, better="lower") for name, (value, unit) in values.items()}
    return {"attacks": Figure(value=len(outcomes), unit="attacks", goal=MIN_ATTACKS, better="higher"), **shown}


def _through(outcomes: Sequence[Outcome], by_account: bool) -> int:
    return sum(one.came_through for one in outcomes if (one.group == ACCOUNT) == by_account)
