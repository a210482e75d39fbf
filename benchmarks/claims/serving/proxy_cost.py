"""CPU of a request through the shipped HAProxy against a request straight to the gateway, in turns on one stack.

Every process of the stack counts, and the proxy's where it is asked; the generator does not, which encrypts as well.

    python -m benchmarks.claims.serving.proxy_cost    about four minutes on two idle cores

Writes benchmarks/results/proxy_cost.json.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.claims.serving.serving_cost import WARM_RATE, WARM_S, Phase, System, gateway_plan, measure
from benchmarks.lib.proxy import running_proxy
from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from benchmarks.lib.serving_stack import running_stack
from benchmarks.lib.serving_world import world
from recsys.errors import exit_on_error
from serving.processes import HOST

K = 10
ROUNDS = 4
RATE, SECONDS = 50.0, 15.0
DIRECT, PROXIED = "direct", "through HAProxy"
GOAL = 1.2


@contextmanager
def systems(folder: Path) -> Iterator[dict[str, System]]:
    """Both ways into one stack."""
    made = world(K)
    with running_stack(made, folder / "live", f"--trusted-proxy={HOST}", "--budget=1000") as stack:
        plan = gateway_plan(made, folder, stack)
        with running_proxy(stack.address, folder) as proxy:
            through = replace(plan, address=proxy.address, certificate=str(proxy.certificate))
            yield {
                DIRECT: System(name="gateway", plan=plan, leaders=(stack.supervisor,)),
                PROXIED: System(name="gateway", plan=through, leaders=(stack.supervisor, proxy.pid)),
            }


def rounds(folder: Path) -> list[tuple[str, Phase]]:
    """(way, phase) of every round; the same requests both ways."""
    found = []
    with systems(folder) as ways:
        for system in ways.values():
            measure(system, folder, [(WARM_RATE, WARM_S)], seed=1)
        for seed in range(ROUNDS):
            for way, system in ways.items():
                found.append((way, measure(system, folder, [(RATE, SECONDS)], seed=10 + seed)))
                console.print(f"{way:16}  CPU {found[-1][1].cpu_ms:5.2f} ms  p95 {found[-1][1].p95_ms:5.1f} ms")
    return found


def figures(found: list[tuple[str, Phase]]) -> dict[str, Figure]:
    costs = {way: [phase.cpu_ms for name, phase in found if name == way] for way in (DIRECT, PROXIED)}
    ratios = np.divide(costs[PROXIED], costs[DIRECT])
    unit = (
        f"times the {np.mean(costs[DIRECT]):.1f} ms of a direct request; rounds {min(ratios):.3f} to {max(ratios):.3f}"
    )
    bad = sum(phase.bad for _, phase in found)
    return {
        "proxied_over_direct_cpu": Figure(value=round(float(ratios.mean()), 3), unit=unit, goal=GOAL, better="lower"),
        "bad_answers": Figure(
            value=bad, unit=f"of {sum(phase.requests for _, phase in found)}", goal=0, better="lower"
        ),
    }


def table(found: list[tuple[str, Phase]]) -> Table:
    shown = Table(title=f"{RATE:g} slates/s", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("way", "CPU ms", "p50 ms", "p95 ms", "light", "generator CPU ms"):
        shown.add_column(heading, justify="left" if heading == "way" else "right")
    for way, phase in found:
        cells = [f"{value:.1f}" for value in (phase.cpu_ms, phase.p50_ms, phase.p95_ms)]
        shown.add_row(way, *cells, str(phase.light), f"{phase.generator_cpu_ms:.2f}")
    return shown


def main() -> None:
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        found = rounds(Path(folder))
    claimed = figures(found)
    console.print(table(found))
    print_figures(claimed)
    rows = [{"way": way, **asdict(phase)} for way, phase in found]
    console.print(f"\nresult   {write_result('proxy_cost', rows, claimed, time.perf_counter() - start)}")


if __name__ == "__main__":
    with exit_on_error():
        main()
