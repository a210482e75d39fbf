"""Time from `python -m serving up` until /readyz says 200, with an empty compile cache and with a full one.

The cache of this installation is removed before the first start and full again after it.

    python -m benchmarks.claims.serving.cold_start    about two minutes on two idle cores, three more the first time

Writes benchmarks/results/cold_start.json.
"""

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from numba import config

from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from benchmarks.lib.serving_stack import started_stack
from benchmarks.lib.serving_world import world
from recsys import jit  # noqa: F401  names the cache
from recsys.errors import exit_on_error

K = 10
COLD, WARM = "empty cache", "full cache"
GOAL_S = 60.0


def start_once(serve: Path, live: Path, cache: str) -> dict[str, Any]:
    """Start and stop a stack; seconds on the clock, and CPU seconds of all that still runs then."""
    start = time.perf_counter()
    with started_stack(serve, live) as stack:
        seconds = time.perf_counter() - start
        supervisor = psutil.Process(stack.supervisor)
        times = [one.cpu_times() for one in (supervisor, *supervisor.children(recursive=True))]
        ended = supervisor.cpu_times()
    cpu_s = sum(one.user + one.system for one in times) + ended.children_user + ended.children_system
    row = {"cache": cache, "seconds": round(seconds, 1), "cpu_s": round(cpu_s, 1)}
    console.print(f"{cache:12}  ready after {row['seconds']:5.1f} s, {row['cpu_s']:5.1f} CPU s")
    return row


def main() -> None:
    start, made = time.perf_counter(), world(K)
    shutil.rmtree(str(config.CACHE_DIR), ignore_errors=True)  # type: ignore[attr-defined]
    with TemporaryDirectory() as folder:
        rows = [start_once(made.serve, Path(folder) / cache.replace(" ", "_"), cache) for cache in (COLD, WARM)]
    seconds = {row["cache"]: row["seconds"] for row in rows}
    claimed = {
        "cold_start_s": Figure(value=seconds[COLD], unit="s, empty compile cache", goal=GOAL_S, better="lower"),
        "warm_start_s": Figure(value=seconds[WARM], unit="s, full compile cache", goal=GOAL_S, better="lower"),
    }
    print_figures(claimed)
    console.print(f"\nresult   {write_result('cold_start', rows, claimed, time.perf_counter() - start)}")


if __name__ == "__main__":
    with exit_on_error():
        main()
