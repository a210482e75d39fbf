"""Are the figures of a measurement true when all of it goes through the real HTTP door?

    python -m benchmarks.claims.measurement.live_door
    python -m benchmarks.claims.measurement.live_door 20000     # items shown: a small run

Simulated users ask the real stack (gateway, broker, states, Triton, consumer) for slates over HTTP, CLIENTS at once, until a
million items were shown, and send their clicks back. In the middle the consumer is killed. Then `python -m recsys measure`
runs, and once more in another folder with two kills. Counts have to be those of the users; each figure is compared with its
truth, the mean of the probabilities of a click given what was shown.

Writes benchmarks/results/live_door.json.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.lib.measured_process import run_measured
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from benchmarks.lib.serving_stack import RunningStack, started_stack
from benchmarks.lib.serving_world import world
from recsys.bundle import Bundle
from recsys.data.simulation.live_users import HttpDoor, LiveTruth, LiveUsers
from recsys.data.simulation.shop import SURFACES, SimulatedShop
from recsys.errors import ServingError
from recsys.measurement.kpis import Period, kpis
from recsys.measurement.outcomes import EVENTS, IMPRESSIONS, MeasuredLog
from recsys.measurement.settings import MeasurementSettings
from recsys.measurement.user_sums import ALL
from recsys.stages import read_catalogue
from serving.processes import until

SHOWN, K, CLIENTS, USERS = 1_000_000, 20, 4, 5_000
WINDOW_S, WRITTEN_S, BUDGET = 20.0, 600.0, "--budget=2000"
EVER = Period(first=date(2000, 1, 1), last=date(2100, 1, 1))
SETTINGS = f"""
actions: {{click: number}}
outcomes:
  click: {{value: "click > 0", window_s: {WINDOW_S:g}}}
k: [1, {K}]
"""
Row = dict[str, Any]


def clients(serve: Path) -> list[LiveUsers]:
    """Populations of their own before one gateway."""
    catalogue = read_catalogue(Bundle.open(serve / "current" / "bundle"))["item"].to_list()
    shops = [
        SimulatedShop(users=USERS, items=2_000, days=1, slate=K, seed=0, population=number) for number in range(CLIENTS)
    ]
    return [
        LiveUsers(shop=shop, catalogue=catalogue, click={"click": 1.0}, prefix=f"client-{number}-")
        for number, shop in enumerate(shops)
    ]


def visit(stack: RunningStack, users: Sequence[LiveUsers], requests: int) -> list[LiveTruth]:
    """Visit from all clients at once; after half of the requests the consumer is killed."""
    token = dict(stack.headers)["Authorization"].removeprefix("Bearer ")
    total, done, lock = requests * len(users), [0], threading.Lock()
    started = time.perf_counter()

    def story(one: LiveUsers) -> LiveTruth:
        with HttpDoor(f"http://{stack.address}", token) as door:
            return one.visit(_Counted(door, progress), requests)

    def progress() -> None:
        with lock:
            done[0] += 1
            if total > 1 and done[0] == total // 2:
                os.kill(stack.pids["consumer"], signal.SIGKILL)
                console.print("the consumer is killed")
            if done[0] % max(1, total // 20) == 0:
                left = (time.perf_counter() - started) * (total - done[0]) / done[0]
                console.print(f"{done[0]:,} of {total:,} requests, about {left / 60:.0f} min left")

    with ThreadPoolExecutor(len(users)) as pool:
        return list(pool.map(story, users))


class _Counted:
    """A door that reports each slate."""

    def __init__(self, door: HttpDoor, progress: Any) -> None:
        self._door, self._progress = door, progress

    def recommend(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        slate = self._door.recommend(request)
        self._progress()
        return slate

    def send(self, events: Sequence[Mapping[str, Any]]) -> None:
        self._door.send(events)


def wait_until_written(stack: RunningStack, truths: Sequence[LiveTruth]) -> None:
    """Wait until the consumer wrote all that was sent."""
    shown, clicks = sum(one.shown for one in truths), sum(one.clicks for one in truths)

    def written() -> bool:
        found = counted(stack.place.events)
        return found["shown"] >= shown and found["clicks"] >= clicks

    if not until(written, WRITTEN_S):
        raise ServingError(f"of {shown:,} items and {clicks:,} clicks the log has {counted(stack.place.events)}")


def counted(events: Path) -> dict[str, int]:
    """Rows of the log, copies among them."""
    found = {}
    for name, kind in (("shown", "impressions"), ("clicks", "feedback")):
        files = list((events / kind).glob("**/*.parquet"))
        found[name] = sum(pl.scan_parquet(file).select(pl.len()).collect().item() for file in files)
    return found


def expected(truths: Sequence[LiveTruth]) -> dict[str, float]:
    """Figure -> its truth given what was shown."""
    slates = [one for truth in truths for one in truth.probabilities]
    surfaces = np.array([one for truth in truths for one in truth.surfaces])
    sums, counts = np.array([one.sum() for one in slates]), np.array([len(one) for one in slates])
    found = {
        "click@1": float(np.mean([one[0] for one in slates])),
        f"click@{K}": float(sums.sum() / counts.sum()),
        "click_per_request": float(sums.mean()),
    }
    by = {
        f"click_per_request, {name}": float(sums[surfaces == name].mean())
        for name in SURFACES
        if (surfaces == name).any()
    }
    return {**found, **by}


def compared(figures: pl.DataFrame, truth: Mapping[str, float]) -> list[Row]:
    rows = {(row["split"], row["value"], row["metric"]): row for row in figures.iter_rows(named=True)}
    found = []
    for name, wanted in truth.items():
        metric, _, surface = name.partition(", ")
        row = rows[("surface", surface, metric) if surface else (ALL, ALL, metric)]
        inside = row["low"] <= wanted <= row["high"]
        found.append(
            {
                "part": "figures",
                "figure": name,
                "truth": wanted,
                "inside": inside,
                **{key: row[key] for key in ("estimate", "low", "high")},
            }
        )
    return found


def measured(events: Path, settings: Path, folder: Path) -> tuple[MeasuredLog, bool]:
    """Measure by the command; and again with two kills: whether all bytes are the same."""
    command = ["-m", "recsys", "measure", str(events), "--settings", str(settings), "--out"]
    done = run_measured([*command, str(folder / "whole")], ROOT)
    if done.code:
        raise SystemExit(done.output)
    for share in (0.5, 0.7):
        run_measured([*command, str(folder / "crashed")], ROOT, limit_s=share * done.seconds)
    run_measured([*command, str(folder / "crashed")], ROOT)
    tables = [
        {str(file.relative_to(one)): file.read_bytes() for file in sorted(one.glob("*/*.parquet"))}
        for one in (folder / "whole", folder / "crashed")
    ]
    log = MeasuredLog(log=events, folder=folder / "whole", settings=MeasurementSettings.read(settings))
    return log, tables[0] == tables[1]


def counts(log: MeasuredLog, truths: Sequence[LiveTruth]) -> Row:
    """What was measured beside what the users counted."""
    shown, events = (
        pl.concat([log.table(kind, day) for day in sorted(log.days(kind))]) for kind in (IMPRESSIONS, EVENTS)
    )
    return {
        "part": "counts",
        "requests": shown["id"].n_unique(),
        "requests_of_users": sum(len(one.probabilities) for one in truths),
        "shown": shown["item"].drop_nulls().len(),
        "shown_to_users": sum(one.shown for one in truths),
        "clicks": events.height,
        "clicks_of_users": sum(one.clicks for one in truths),
        "failed": sum(one.failed for one in truths),
        "rungs": dict(shown.unique("id")["rung"].value_counts().iter_rows()) if "rung" in shown.columns else {},
    }


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else SHOWN
    start = time.perf_counter()
    made = world(K)
    with tempfile.TemporaryDirectory() as scratch:
        folder, settings = Path(scratch), Path(scratch, "settings.yaml")
        settings.write_text(SETTINGS, encoding="utf-8")
        with started_stack(made.serve, folder / "live", BUDGET, "--drift-minutes=0") as stack:
            users = clients(made.serve)
            truths = visit(stack, users, wanted // (K * CLIENTS))
            time.sleep(WINDOW_S)
            truths += visit(stack, users[:1], 1)  # the log tells by it that all windows before are over
            wait_until_written(stack, truths)
            events = stack.place.events
        log, same = measured(events, settings, folder)
        row = counts(log, truths)
        figures = compared(kpis(log, EVER), expected(truths))
    for one in (row, *figures):
        console.print(one)
    exact = all(
        row[name] == row[other]
        for name, other in (
            ("requests", "requests_of_users"),
            ("shown", "shown_to_users"),
            ("clicks", "clicks_of_users"),
        )
    )
    claims = {
        "items_shown": Figure(value=float(row["shown"]), unit="items", goal=float(wanted) * 0.99, better="higher"),
        "counts_are_those_of_the_users": Figure(value=float(exact), unit="1 is yes", goal=1.0, better="higher"),
        "same_bytes_after_two_kills": Figure(value=float(same), unit="1 is yes", goal=1.0, better="higher"),
        "figures_inside": Figure(
            value=float(np.mean([one["inside"] for one in figures])),
            unit=f"of {len(figures)} figures",
            goal=1 - 1 / len(figures),  # of 95% intervals, one of five misses in a fifth of all runs
            better="higher",
        ),
    }
    print_figures(claims)
    console.print(f"wrote {write_result('live_door', [row, *figures], claims, time.perf_counter() - start)}")


if __name__ == "__main__":
    main()
