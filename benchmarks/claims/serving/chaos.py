"""All that the gateway leans on fails, under load, on the real processes: is an answer always given, is anything lost?

A stack as `make serve` starts it, with Redis and a spool on a disk of its own. One fault after the other: load, the fault
for FAULT_S, load on, until the whole cascade answers again. Slates are asked at RATE/s, and events are posted beside.

* accepted: not refused with 429 or 503
* valid: 200, a full slate, nothing that a `must` rule forbids; a lost connection is not valid
* lost: events that were answered with 200 and are not in the Parquet that the consumer writes

    python -m benchmarks.claims.serving.chaos           about 17 minutes on two idle cores
    python -m benchmarks.claims.serving.chaos game-day  twice the traffic while the state store is down for a minute: a timeline
    python -m benchmarks.claims.serving.chaos "slow ranker" nothing     these faults alone, nothing is written

Root, for a disk of its own for the spool, and a C compiler, for a wall clock of its own. Writes benchmarks/results/chaos.json.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from rich import box
from rich.table import Table

from benchmarks.lib.chaos_faults import (
    Fault,
    corrupt_bundle,
    full_disk,
    full_spool,
    halt,
    kill,
    kill_a_stub,
    kill_supervisor,
    link,
    lost_stores,
    nothing,
    other_release,
    reversed_bundle,
    slow_ranker,
    step_clock,
)
from benchmarks.lib.load import Plan
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from benchmarks.lib.serving_stack import RunningStack, running_stack, waiting
from benchmarks.lib.serving_world import World, ask_of, call_entry_point, world, write_lines
from benchmarks.lib.wall_clock import WallClock
from recsys.errors import ConfigError, ServingError, exit_on_error
from recsys.export.releases import served_release
from serving.events.record import hash_parts
from serving.layout import DeploymentLayout
from serving.processes import until

K = 10
RATE, EVENTS_RATE = 15.0, 10.0
BEFORE_S, FAULT_S, AFTER_S = 5.0, 5.0, 20.0
BURST, BURST_NAME = 10, "ten times the load"
HOUR = 3_600
DEADLINE_MS, SLACK_MS = 100.0, 20.0
RECOVERY_S = 90.0
SPOOL_BYTES, LIVE_BYTES = 16 << 20, 1 << 30
GAME_DAY_RATE, GAME_DAY_FAULT_S, GAME_DAY_AFTER_S = 30.0, 60.0, 30.0
REFUSED = (429, 503)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one fault did."""

    fault: str
    requests: int
    accepted: float
    """share of all requests, those of a burst left out"""
    valid: float
    """share of the accepted ones"""
    degraded: float
    """share of the valid ones that a lower rung gave"""
    p999_ms: float
    """of the valid ones"""
    forbidden: int
    events_acknowledged: int
    events_refused: int
    recovered_s: float | None
    """from the end of the fault until the whole cascade answered again and went on to"""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came back in one phase."""

    slates: dict[str, np.ndarray]
    events: dict[str, np.ndarray]
    acknowledged: tuple[str, ...]
    """ids of events"""


class Chaos:
    """A stack under load. made: the world; folder: for plans and answers; other: a release that is not served."""

    def __init__(self, stack: RunningStack, made: World, folder: Path, other: Path) -> None:
        self._stack, self._made, self._folder = stack, made, folder
        self._asks = write_lines(folder / "asks", [ask_of(query) for query in made.queries])
        self._forbidden = write_lines(folder / "forbidden", made.forbidden)
        self._told = 0
        self.other = other
        self.acknowledged: list[str] = []

    def run(self, name: str, fault: Fault, *, burst: bool) -> Outcome:
        rates = [(RATE, BEFORE_S), (RATE * (BURST if burst else 1), FAULT_S), (RATE, AFTER_S)]
        sent = self.under(fault, rates, FAULT_S)
        outcome = _outcome(name, sent, BEFORE_S, FAULT_S, burst)
        if not until(self._whole, RECOVERY_S):
            return Outcome(**{**asdict(outcome), "recovered_s": None})
        return outcome

    def under(self, fault: Fault, rates: Sequence[tuple[float, float]], fault_s: float) -> Sent:
        """Send while the fault is there from the end of the first phase on."""
        total = sum(seconds for _, seconds in rates)
        with self._sending("slates", self._slates(rates)), self._sending("events", self._events(total)):
            time.sleep(rates[0][1])
            with fault(self._stack):
                time.sleep(fault_s)
        slates, events = (dict(np.load(self._folder / name / "out.npz")) for name in ("slates", "events"))
        answered = events["number"][events["status"] == 200]
        ids = tuple(hash_parts("id", f"visitor {number}", f"chaos-{self._told}-{number}") for number in answered)
        self.acknowledged += ids
        return Sent(slates=slates, events=events, acknowledged=ids)

    def lost(self) -> list[str]:
        """Acknowledged events that the consumer never wrote."""
        if not until(lambda: waiting(self._stack) == 0, RECOVERY_S):
            raise ServingError("the consumer did not reach the end of the log")
        files = str(self._stack.place.events / "feedback" / "**" / "*.parquet")
        until(lambda: not self._missing(files), RECOVERY_S)
        return sorted(self._missing(files))

    def _missing(self, files: str) -> set[str]:
        return set(self.acknowledged) - set(
            pl.scan_parquet(files, missing_columns="insert").select("id").collect()["id"]
        )

    def _slates(self, rates: Sequence[tuple[float, float]]) -> Plan:
        return Plan(
            address=self._stack.address,
            bodies=str(self._asks),
            rates=rates,
            headers=self._stack.headers,
            k=K,
            forbidden=str(self._forbidden),
        )

    def _events(self, seconds: float) -> Plan:
        self._told += 1
        items = [query.history[-1].item for query in self._made.queries if query.history]
        events = [
            {"id": f"chaos-{self._told}-{number}", "user": f"visitor {number}", "item": items[number % len(items)]}
            for number in range(int(3 * EVENTS_RATE * seconds))
        ]
        bodies = [json.dumps({"events": [{**event, "actions": {"click": 1.0}}]}) for event in events]
        return Plan(
            address=self._stack.address,
            path="/v1/events",
            bodies=str(write_lines(self._folder / "told", bodies)),
            rates=[(EVENTS_RATE, seconds)],
            headers=self._stack.headers,
            seed=1,
        )

    @contextmanager
    def _sending(self, name: str, plan: Plan) -> Iterator[None]:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(asdict(plan)), encoding="utf-8")
        command = [sys.executable, str(ROOT / "benchmarks" / "lib" / "load.py"), "plan.json", "out.npz"]
        with subprocess.Popen(command, cwd=folder) as process:
            yield
        if process.returncode:
            raise ServingError(f"the generator of {name} failed with exit code {process.returncode}")

    def _whole(self) -> bool:
        sent = self.under(nothing, [(RATE, 2.0), (RATE, 0.1)], 0.1)
        return bool((sent.slates["rung"] == "recommend").all() and (sent.events["status"] == 200).all())


def _outcome(name: str, sent: Sent, before_s: float, fault_s: float, burst: bool) -> Outcome:
    slates = sent.slates
    due, status = slates["due_s"], slates["status"]
    refused, inside = np.isin(status, REFUSED), (due >= before_s) & (due < before_s + fault_s)
    counted = ~inside if burst else np.ones(len(due), bool)
    valid = (status == 200) & (slates["items"] == K) & (slates["forbidden"] == 0)
    full = valid & (slates["rung"] == "recommend")
    late = due[~full & ~refused & (due >= before_s)]
    return Outcome(
        fault=name,
        requests=len(due),
        accepted=float((~refused[counted]).mean()),
        valid=float(valid[~refused].mean()),
        degraded=float(1 - full[valid].mean()),
        p999_ms=float(np.percentile(slates["latency_ms"][valid], 99.9)),
        forbidden=int(slates["forbidden"].sum()),
        events_acknowledged=len(sent.acknowledged),
        events_refused=int((sent.events["status"] != 200).sum()),
        recovered_s=max(0.0, float(late.max()) - before_s - fault_s) if len(late) else 0.0,
    )


def faults(other: Path) -> dict[str, Fault]:
    """Name -> fault, in the order in which they strike. other: a release that is not served."""
    return {
        "nothing": nothing,
        "kill -9 the ranking stub": kill_a_stub,
        "kill -9 tritonserver": kill("triton"),
        "kill -9 the state store": kill("valkey"),
        "kill -9 the broker": kill("broker"),
        "kill -9 the consumer": kill("consumer"),
        "disk of the spool full, broker silent": full_spool,
        "disk of log, states and Parquet full": full_disk,
        "SIGSTOP Triton": halt("triton"),
        "SIGSTOP the state store": halt("valkey"),
        "SIGSTOP the broker": halt("broker"),
        "slow ranker": slow_ranker,
        "corrupt bundle, then a reload": corrupt_bundle,
        "stores of rules and items gone, Triton restarted": lost_stores,
        "another release published, a stage restarted": other_release(other),
        "wall clock an hour ahead, then right": step_clock(HOUR),
        "wall clock an hour behind, then right": step_clock(-HOUR),
        BURST_NAME: nothing,
        "kill -9 the supervisor": kill_supervisor,
    }


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes at the folder."""
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
        raise ServingError(f"no small disk could be mounted at {folder}; run this as root")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=False)


@contextmanager
def chaos(folder: Path) -> Iterator[Chaos]:
    """A stack that is ready to suffer."""
    made = world(K)
    other = export_other(made, folder)
    clock, live = WallClock.made(folder), folder / "live"
    disks = small_disk(live, LIVE_BYTES), small_disk(live / "spool", SPOOL_BYTES)
    with disks[0], disks[1], running_stack(made, live, "--state=redis", clock=clock) as stack:
        yield Chaos(stack, made, folder, other)


def export_other(made: World, folder: Path) -> Path:
    """Export another release beside the served one, which stays the one that serves; return its folder."""
    layout, served = DeploymentLayout.of(made.serve), served_release(made.serve)
    call_entry_point("export.py", f"bundle={reversed_bundle(layout, folder / 'bundle')}", f"repository={made.serve}")
    other = served_release(made.serve)
    link(made.serve, served)
    return other


def figures(outcomes: Sequence[Outcome], lost: Sequence[str], num_events: int) -> dict[str, Figure]:
    worst = min(outcomes, key=lambda one: one.valid)
    slowest = max(outcomes, key=lambda one: one.p999_ms)
    refusing = min(outcomes, key=lambda one: one.accepted)
    limit = DEADLINE_MS + SLACK_MS
    recovered = sum(one.recovered_s is not None for one in outcomes)
    return {
        "worst_availability": Figure(
            value=round(worst.valid, 5), unit=f"valid of accepted, {worst.fault}", goal=0.9995, better="higher"
        ),
        "worst_accepted": Figure(
            value=round(refusing.accepted, 4), unit=f"of all, {refusing.fault}", goal=0.99, better="higher"
        ),
        "worst_p999_ms": Figure(
            value=round(slowest.p999_ms, 1), unit=f"ms, {slowest.fault}", goal=limit, better="lower"
        ),
        "acknowledged_events_lost": Figure(value=len(lost), unit=f"of {num_events}", goal=0, better="lower"),
        "must_violations": Figure(value=sum(one.forbidden for one in outcomes), unit="items", goal=0, better="lower"),
        "recovered_alone": Figure(value=recovered, unit="faults", goal=len(outcomes), better="higher"),
    }


def table(outcomes: Sequence[Outcome]) -> Table:
    shown = Table(title=f"{RATE:g} slates/s, {EVENTS_RATE:g} events/s", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("fault", "accepted", "valid", "degraded", "p99.9 ms", "events refused", "well again after s"):
        shown.add_column(heading, justify="left" if heading == "fault" else "right")
    for one in outcomes:
        shares = [f"{100 * share:.2f}%" for share in (one.accepted, one.valid, one.degraded)]
        back = "never" if one.recovered_s is None else f"{one.recovered_s:.1f}"
        shown.add_row(one.fault, *shares, f"{one.p999_ms:.0f}", str(one.events_refused), back)
    return shown


def timeline(sent: Sent, seconds: float) -> Table:
    """A line every five seconds."""
    shown = Table(title="game day", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("second", "asked", "200", "p95 ms", "whole", "without a state"):
        shown.add_column(heading, justify="right")
    due, flagged = sent.slates["due_s"], sent.slates["stateless"]
    for begin in range(0, int(seconds), 5):
        rows = (due >= begin) & (due < begin + 5)
        good = rows & (sent.slates["status"] == 200)
        p95 = np.percentile(sent.slates["latency_ms"][good], 95) if good.any() else np.nan
        whole = (sent.slates["rung"][good] == "recommend").mean() if good.any() else 0.0
        stateless = flagged[good].mean() if good.any() else 0.0
        shown.add_row(
            str(begin), str(rows.sum()), str(good.sum()), f"{p95:.0f}", f"{100 * whole:.0f}%", f"{100 * stateless:.0f}%"
        )
    return shown


def game_day() -> None:
    with TemporaryDirectory() as folder, chaos(Path(folder)) as suffering:
        phases = [(GAME_DAY_RATE, seconds) for seconds in (10.0, GAME_DAY_FAULT_S, GAME_DAY_AFTER_S)]
        sent = suffering.under(halt("valkey"), phases, GAME_DAY_FAULT_S)
        console.print(timeline(sent, sum(seconds for _, seconds in phases)))
        console.print(f"acknowledged events lost: {len(suffering.lost())} of {len(suffering.acknowledged)}")


def main() -> None:
    start = time.perf_counter()
    with TemporaryDirectory() as folder, chaos(Path(folder)) as suffering:
        outcomes = struck(suffering, list(faults(suffering.other)))
        lost = suffering.lost()
    claimed = figures(outcomes, lost, len(suffering.acknowledged))
    console.print(table(outcomes))
    print_figures(claimed)
    file = write_result("chaos", [asdict(one) for one in outcomes], claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}")
    console.print("next     python -m benchmarks.claims.serving.chaos game-day", style="bold")


def struck(suffering: Chaos, names: Sequence[str]) -> list[Outcome]:
    """Let these faults strike, and print what each did."""
    known, outcomes = faults(suffering.other), []
    for name in names:
        outcomes.append(suffering.run(name, known[name], burst=name == BURST_NAME))
        console.print(table(outcomes[-1:]))
    return outcomes


def some(names: Sequence[str]) -> None:
    """Strike with these faults alone; nothing is written."""
    if unknown := set(names) - set(faults(Path())):
        raise ConfigError(f"no fault is named {', '.join(sorted(unknown))}; known are {', '.join(faults(Path()))}")
    with TemporaryDirectory() as folder, chaos(Path(folder)) as suffering:
        struck(suffering, names)


if __name__ == "__main__":
    with exit_on_error():
        match sys.argv[1:]:
            case []:
                main()
            case ["game-day"]:
                game_day()
            case names:
                some(names)
