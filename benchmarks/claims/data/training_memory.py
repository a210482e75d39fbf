"""Peak memory and time of `python train.py` with all defaults, on made-up logs of rising size, beside the estimate.

    python -m benchmarks.claims.data.training_memory                    all sizes, goes on where it stopped
    python -m benchmarks.claims.data.training_memory small medium       some
    python -m benchmarks.claims.data.training_memory large epochs=1     of towers and ranker, with the memory of any number

A log is drawn with a seed: items by Zipf's law, events a user log-normal, times even over a year. Protocol: global time,
seed 0. A size runs in a process of its own, whose peak resident memory the kernel counts. The large one takes hours: what it
was estimated to take is printed first. Writes benchmarks/results/training_memory.json.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from recsys.training.footprint import GIB, LogSize, TrainingSize, estimate

RUNS = ROOT / "runs" / "training_memory"
SEED, START, YEAR = 0, 1.6e9, 365 * 86_400.0
DESCRIPTION = """\
interactions: {file: events.parquet, user: user, item: item, timestamp: at, actions: {rating: number}}
objectives: {watch: "1", like: "rating >= 4"}
target: watch
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    events: int
    users: int
    items: int


SIZES = {
    "small": Size(events=20_000, users=2_000, items=1_000),
    "medium": Size(events=100_000, users=10_000, items=5_000),
    "wide": Size(events=100_000, users=10_000, items=50_000),
    "large": Size(events=1_000_000, users=100_000, items=50_000),
}


def write_log(size: Size, folder: Path) -> LogSize:
    """Write events.parquet and shop.yaml; returns what came of the size."""
    rng = np.random.default_rng(SEED)
    shares = 1 / np.arange(1, size.items + 1) ** 0.8
    activity = rng.lognormal(0, 1, size.users)
    users = rng.choice(size.users, size.events, p=activity / activity.sum())
    items = rng.choice(size.items, size.events, p=shares / shares.sum())
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(
        {
            "user": [f"u{user}" for user in users.tolist()],
            "item": [f"i{item}" for item in items.tolist()],
            "at": np.floor(START + YEAR * rng.random(size.events)),
            "rating": rng.integers(1, 6, size.events).astype(float),
        }
    ).write_parquet(folder / "events.parquet")
    (folder / "shop.yaml").write_text(DESCRIPTION, encoding="utf-8")
    counts = np.bincount(users)
    distinct = len(np.unique(items))
    return LogSize(
        events=size.events, users=int((counts > 0).sum()), items=distinct, longest=int(counts.max()), objectives=2
    )


def measure(name: str, folder: Path, epochs: int | None) -> dict[str, Any]:
    """One training in a process of its own; epochs: None for the defaults."""
    log = write_log(SIZES[name], folder)
    usual = TrainingSize()
    footprint = estimate(
        log, usual if epochs is None else replace(usual, retrieval_epochs=epochs, ranking_epochs=epochs)
    )
    console.print(f"{name}: {asdict(log)}; estimated {footprint}")
    command = ["train.py", "data=tables", f"data.description={folder / 'shop.yaml'}", f"run_dir={folder / 'run'}"]
    options = [] if epochs is None else [f"retrieval.epochs={epochs}", f"ranking.epochs={epochs}"]
    options += ["logger=csv", "trainer.progress=false"]
    command += options
    started = time.perf_counter()
    with (folder / "log.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    row = {
        "size": name,
        "epochs": epochs or "default",
        **asdict(log),
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss * 1024 / GIB, 3),
        "estimated_gib": round(footprint.peak_bytes / GIB, 3),
        "estimated_seconds": round(footprint.seconds),
        "seed": SEED,
        "protocol": "global_time",
        "command": " ".join(["python", *command[:2], *options]),
    }
    (folder / "row.json").write_text(json.dumps(row), encoding="utf-8")
    return row


def main() -> None:
    started = time.perf_counter()
    given = [word.removeprefix("epochs=") for word in sys.argv[1:] if word.startswith("epochs=")]
    epochs = int(given[0]) if given else None
    names = [word for word in sys.argv[1:] if not word.startswith("epochs=")] or list(SIZES)
    if strange := [name for name in names if name not in SIZES]:
        raise SystemExit(f"there is no size {strange[0]!r}; choose of {', '.join(SIZES)}")
    rows = []
    for name in names:
        folder = RUNS / (name if epochs is None else f"{name}-epochs-{epochs}")
        done = folder / "row.json"
        rows.append(json.loads(done.read_text(encoding="utf-8")) if done.is_file() else measure(name, folder, epochs))
        console.print(rows[-1])
    off = max(abs(row["peak_gib"] / row["estimated_gib"] - 1) for row in rows)
    figures = {
        "estimate of memory off by": Figure(value=round(off, 3), unit="share", goal=0.5, better="lower"),
        "peak memory of the largest": Figure(value=rows[-1]["peak_gib"], unit="GiB", goal=8.0, better="lower"),
    }
    print_figures(figures)
    console.print(write_result("training_memory", rows, figures, time.perf_counter() - started))


if __name__ == "__main__":
    main()
