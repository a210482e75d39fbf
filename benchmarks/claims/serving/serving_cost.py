"""What serving costs: the same stages in one FastAPI process, in Triton alone, and behind the gateway, in one run.

A generator in a process of its own sends at given rates, whatever comes back (benchmarks/lib/load.py). CPU time is that of all
processes of a system, its generator's stands beside it. `saturation` is the highest rate of a bisection at which every
request gets a full slate that keeps the rules, WHOLE of them from the whole cascade, p95 below DEADLINE_MS. No two queries
are alike and nothing is cached. The soak sends half of that for SOAK_S to the gateway and watches the memory.

    python -m benchmarks.claims.serving.serving_cost    about 25 minutes on two idle cores, three more the first time

Writes benchmarks/results/serving.json and serving.png.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from rich import box
from rich.table import Table

from benchmarks.lib.load import Plan
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from benchmarks.lib.serving_chart import draw
from benchmarks.lib.serving_stack import RunningStack, running_stack
from benchmarks.lib.serving_world import World, ask_of, query_of, world, write_lines
from recsys.errors import ServingError
from serving.processes import HOST, choose_ports, end, spawn, until
from serving.triton.server import TritonServer

K = 10
SYSTEMS = ("in-process", "triton", "gateway")
QUIET_RATE, QUIET_S = 20.0, 20.0
WARM_RATE, WARM_S = 20.0, 5.0
STEP_S = 10.0
MOST_RATE, STEPS = 400.0, 7
DEADLINE_MS = 100.0
HALF_S = 30.0
SOAK_S, SETTLED_S, WATCH_S = 600.0, 120.0, 5.0
FULL = "recommend"
WHOLE = 0.99
TOLD = 5
"""bad answers of a phase, at most, that are printed"""


@dataclass(frozen=True, kw_only=True)
class System:
    """One way to serve, running."""

    name: str
    plan: Plan
    leaders: tuple[int, ...]
    """process ids; their children count too"""

    def cpu_s(self) -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._processes()))

    def memory_mb(self) -> float:
        """Resident memory that no other process shares, of all processes."""
        return sum(process.memory_full_info().uss for process in self._processes()) / 2**20

    def _processes(self) -> list[psutil.Process]:
        leaders = [psutil.Process(leader) for leader in self.leaders]
        return [one for leader in leaders for one in (leader, *leader.children(recursive=True))]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One rate, held for a while."""

    system: str
    rate: float
    requests: int
    bad: int
    """without a full slate that keeps the rules"""
    light: int
    """answered by less than the whole cascade"""
    cpu_ms: float
    """a request"""
    generator_cpu_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def kept(self) -> bool:
        return self.bad == 0 and self.light <= (1 - WHOLE) * self.requests and self.p95_ms <= DEADLINE_MS


def measure(system: System, folder: Path, rates: Sequence[tuple[float, float]], seed: int) -> Phase:
    """Send, wait for the last answer, count."""
    plan = {**asdict(system.plan), "rates": rates, "seed": seed}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    before = system.cpu_s()
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "lib" / "load.py", "plan.json", "out.npz"], cwd=folder, check=True
    )
    used = system.cpu_s() - before
    found = np.load(folder / "out.npz")
    total = len(found["status"])
    whole = (found["status"] == 200) & (found["items"] == K) & (found["forbidden"] == 0)
    rungs = found["rung"] if system.name == "gateway" else np.full(total, FULL)
    p50, p95, p99 = np.percentile(found["latency_ms"], (50, 95, 99))
    for number in np.flatnonzero(~whole)[:TOLD]:
        told = {name: found[name][number].item() for name in ("status", "items", "forbidden", "latency_ms", "wrong")}
        console.print(f"bad answer of {system.name}: {told}", markup=False)
    return Phase(
        system=system.name,
        rate=rates[-1][0],
        requests=total,
        bad=int((~whole).sum()),
        light=int((whole & (rungs != FULL)).sum()),
        cpu_ms=1e3 * used / total,
        generator_cpu_ms=1e3 * float(found["cpu_s"]) / total,
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
    )


def saturation(system: System, folder: Path) -> tuple[float, list[Phase]]:
    """The highest rate that was kept, requests/s, and all that was tried."""
    low, high, tried = 0.0, MOST_RATE, []
    for step in range(STEPS):
        rate = (low + high) / 2
        phase = measure(system, folder, [(rate, STEP_S)], seed=100 + step)
        tried.append(phase)
        low, high = (rate, high) if phase.kept else (low, rate)
        console.print(
            f"{system.name:10}  {rate:6.1f}/s  p95 {phase.p95_ms:7.1f} ms  bad {phase.bad}  light {phase.light}"
        )
        until(lambda: _idle(system), 20.0)
    if not low:
        raise ServingError(f"{system.name} keeps no rate down to {high:g} requests/s; is the machine idle?")
    return low, tried


def _idle(system: System) -> bool:
    before = system.cpu_s()
    time.sleep(0.5)
    return system.cpu_s() - before < 0.1


@contextmanager
def running(name: str, made: World, folder: Path) -> Iterator[System]:
    """Start one system, warm."""
    start = {"in-process": _in_process, "triton": _triton, "gateway": _gateway}[name]
    with console.status(f"{name} starts"), start(made, folder) as system:
        measure(system, folder, [(WARM_RATE, WARM_S)], seed=1)
        yield system


@contextmanager
def _in_process(made: World, folder: Path) -> Iterator[System]:
    port = choose_ports({"port": 0})["port"]
    script = ROOT / "benchmarks" / "lib" / "serving_inprocess.py"
    command, threads = [sys.executable, str(script), str(made.serve), str(port)], {"OMP_NUM_THREADS": "1"}
    process = spawn(command, log=folder / "in_process.log", cwd=ROOT, environment={**os.environ, **threads})
    try:
        if not until(lambda: _listens(port), 120.0):
            raise ServingError(f"the in-process server did not start; see {folder / 'in_process.log'}")
        yield System(name="in-process", plan=_plan(made, folder, f"{HOST}:{port}"), leaders=(process.pid,))
    finally:
        end(process)


@contextmanager
def _triton(made: World, folder: Path) -> Iterator[System]:
    with TritonServer(made.serve / "current" / "models") as server:
        plan = _plan(made, folder, server.grpc_url, model=FULL)
        yield System(name="triton", plan=plan, leaders=(server.pid,))


@contextmanager
def _gateway(made: World, folder: Path) -> Iterator[System]:
    with running_stack(made, folder / "live") as stack:
        yield System(name="gateway", plan=gateway_plan(made, folder, stack), leaders=(stack.supervisor,))


def gateway_plan(made: World, folder: Path, stack: RunningStack) -> Plan:
    """Plan of requests to the gateway, without rates."""
    return Plan(
        address=stack.address,
        bodies=str(write_lines(folder / "asks", [ask_of(query) for query in made.queries])),
        rates=(),
        headers=stack.headers,
        k=K,
        forbidden=str(write_lines(folder / "forbidden", made.forbidden)),
    )


def _plan(made: World, folder: Path, address: str, model: str | None = None) -> Plan:
    forbidden = write_lines(folder / "forbidden", made.forbidden)
    bodies = write_lines(folder / "queries", [query_of(query) for query in made.queries])
    return Plan(
        address=address,
        bodies=str(bodies),
        rates=(),
        model=model,
        k=K,
        forbidden=str(forbidden),
        from_query=True,
    )


def _listens(port: int) -> bool:
    return any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in psutil.net_connections("tcp"))


def soak(system: System, folder: Path, rate: float) -> tuple[Phase, list[tuple[float, float]]]:
    """One rate for long; memory as [(seconds, MB), ...] meanwhile."""
    watched: list[tuple[float, float]] = []
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(system, watched, ended))
    watching.start()
    try:
        phase = measure(system, folder, [(rate, SOAK_S)], seed=7)
    finally:
        ended.set()
        watching.join()
    return phase, watched


def _watch(system: System, watched: list[tuple[float, float]], ended: threading.Event) -> None:
    start = time.perf_counter()
    while not ended.wait(WATCH_S):
        watched.append((time.perf_counter() - start, system.memory_mb()))


def growth(watched: Sequence[tuple[float, float]]) -> float:
    """Share by which memory grew between the first and the last fifth of the time after it had settled."""
    settled = [memory for second, memory in watched if second > SETTLED_S]
    fifth = max(1, len(settled) // 5)
    return float(np.median(settled[-fifth:]) / np.median(settled[:fifth]) - 1)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One system."""

    quiet: Phase
    saturation: float
    tried: list[Phase]
    half: Phase


def measured(system: System, folder: Path) -> Measured:
    quiet = measure(system, folder, [(QUIET_RATE, QUIET_S)], seed=2)
    most, tried = saturation(system, folder)
    return Measured(
        quiet=quiet, saturation=most, tried=tried, half=measure(system, folder, [(most / 2, HALF_S)], seed=3)
    )


def figures(found: dict[str, Measured], soaked: Phase, grown: float) -> dict[str, Figure]:
    alone, triton, gateway = (found[name] for name in SYSTEMS)
    return {
        "triton_added_cpu_ms_per_request": Figure(
            value=round(triton.half.cpu_ms - alone.half.cpu_ms, 2),
            unit=f"ms; {triton.half.cpu_ms / alone.half.cpu_ms:.2f} times the {alone.half.cpu_ms:.1f} ms of in-process",
            goal=3.5,
            better="lower",
        ),
        "triton_over_inprocess_throughput": Figure(
            value=round(triton.saturation / alone.saturation, 3),
            unit="times, at saturation; in-process has one core, Triton both",
            goal=1.0,
            better="higher",
        ),
        "gateway_cpu_ms_per_request": Figure(
            value=round(gateway.half.cpu_ms, 2),
            unit=f"ms, all processes, at half the saturation; generator {gateway.half.generator_cpu_ms:.2f}",
            goal=10.0,
            better="lower",
        ),
        "saturation_requests_per_second": Figure(
            value=round(gateway.saturation, 1),
            unit=f"requests/s, gateway, no error, at most {1 - WHOLE:.0%} answered by less than the whole cascade",
            goal=150.0,
            better="higher",
        ),
        "p95_ms_at_half_saturation": Figure(
            value=round(gateway.half.p95_ms, 1), unit="ms, gateway", goal=25.0, better="lower"
        ),
        "memory_growth_in_soak": Figure(
            value=round(grown, 4), unit=f"of all processes in {SOAK_S / 60:g} minutes", goal=0.02, better="lower"
        ),
        "bad_answers_in_soak": Figure(value=soaked.bad, unit=f"of {soaked.requests}", goal=0, better="lower"),
    }


def table(found: dict[str, Measured]) -> Table:
    shown = Table(title=f"200 candidates ranked, {K} shown, 27,000 items", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("system", "rate /s", "CPU ms", "p50 ms", "p95 ms", "p99 ms", "bad", "light", "generator CPU ms"):
        shown.add_column(heading, justify="left" if heading == "system" else "right")
    for name, of in found.items():
        for phase in (of.quiet, of.half, max((one for one in of.tried if one.kept), key=lambda one: one.rate)):
            times = (phase.cpu_ms, phase.p50_ms, phase.p95_ms, phase.p99_ms)
            cells = [f"{phase.rate:.1f}", *(f"{time:.1f}" for time in times), str(phase.bad), str(phase.light)]
            shown.add_row(name, *cells, f"{phase.generator_cpu_ms:.2f}")
    return shown


def run(folder: Path) -> tuple[dict[str, Measured], Phase, list[tuple[float, float]]]:
    made = world(K)
    found: dict[str, Measured] = {}
    for name in SYSTEMS:
        place = folder / name
        place.mkdir()
        with running(name, made, place) as system:
            found[name] = measured(system, place)
            if name == "gateway":
                soaked, watched = soak(system, place, found[name].saturation / 2)
    return found, soaked, watched


def main() -> None:
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        found, soaked, watched = run(Path(folder))
    claimed = figures(found, soaked, growth(watched))
    console.print(table(found))
    print_figures(claimed)
    phases = [asdict(phase) for of in found.values() for phase in (of.quiet, *of.tried, of.half)]
    file = write_result("serving", [*phases, asdict(soaked)], claimed, time.perf_counter() - start)
    picture = draw(phases, watched, file.with_suffix(".png"))
    console.print(f"\nresult   {file}\npicture  {picture}")
    console.print("next     python -m benchmarks.claims.serving.chaos", style="bold")
