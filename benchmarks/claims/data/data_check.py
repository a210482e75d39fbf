"""How long `data check` looks at a large log: 1,000,000 events of 100,000 users and 50,000 items, made up from a seed.

The log is written as CSV and as Parquet, beside tables of items and users; the command that a person types runs as a
process of its own on each, with the page of plots. Also `data init` for the same files.
Writes benchmarks/results/data_check.json.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.lib.measured_process import run_measured
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result

EVENTS, USERS, ITEMS = 1_000_000, 100_000, 50_000
SEED = 0
GOAL_S = 20.0
YAML = """
interactions:
  file: events.{ending}
  user: user
  item: item
  timestamp: at
  actions: {{rating: number}}
  context: {{device: category}}
items: {{file: items.{ending}, item: item, columns: {{title: text, genre: category, price: number}}}}
users: {{file: users.{ending}, user: user, columns: {{age: number, region: category}}}}
objectives: {{seen: "1", like: "rating >= 4"}}
target: seen
title: title
"""


def tables(events: int, users: int, items: int, seed: int) -> dict[str, pl.DataFrame]:
    """A log of half a year whose users and items have heavy tails, in the order of time, and what describes them."""
    random = np.random.default_rng(seed)
    who, what = (_heavy(random, number, events) for number in (users, items))
    log = pl.DataFrame(
        {
            "user": [f"u{one:07d}" for one in who],
            "item": [f"item-{one:06d}" for one in what],
            "at": np.sort(random.integers(1_700_000_000, 1_715_000_000, events)),
            "rating": random.integers(1, 6, events),
            "device": random.choice(["phone", "tablet", "web"], events),
        }
    )
    catalogue = {
        "item": [f"item-{one:06d}" for one in range(items)],
        "title": [f"Item {one} of the shop" for one in range(items)],
        "genre": random.choice([f"genre {one}" for one in range(30)], items),
        "price": random.gamma(2, 20, items).round(2),
    }
    people = {
        "user": [f"u{one:07d}" for one in range(users)],
        "age": random.integers(16, 90, users),
        "region": random.choice([f"region {one}" for one in range(16)], users),
    }
    return {"events": log, "items": pl.DataFrame(catalogue), "users": pl.DataFrame(people)}


def _heavy(random: np.random.Generator, number: int, events: int) -> np.ndarray:
    """[events] indices below `number`, each at least once where there are enough events."""
    drawn = (number * random.random(events) ** 2).astype(int)
    drawn[: min(number, events)] = np.arange(min(number, events))
    return random.permutation(drawn)


def write(folder: Path, made: dict[str, pl.DataFrame]) -> None:
    for name, table in made.items():
        table.write_csv(folder / f"{name}.csv")
        table.write_parquet(folder / f"{name}.parquet")
    for ending in ("csv", "parquet"):
        (folder / f"{ending}.yaml").write_text(YAML.format(ending=ending), encoding="utf-8")


def measure(folder: Path, endings: tuple[str, ...] = ("csv", "parquet")) -> list[dict[str, Any]]:
    """A row a command and ending."""
    rows = []
    for ending in endings:
        files = [str(folder / f"{name}.{ending}") for name in ("events", "items", "users")]
        commands = {
            "check": ["data", "check", str(folder / f"{ending}.yaml"), "--html", str(folder / f"{ending}.html")],
            "init": ["data", "init", *files, "--out", str(folder / f"{ending}-proposed.yaml"), "--force"],
        }
        for name, arguments in commands.items():
            done = run_measured(["-m", "recsys", *arguments], ROOT)
            if done.code:
                raise SystemExit(done.output)
            seconds, cpu, peak = round(done.seconds, 2), round(done.cpu_s, 2), round(done.peak_mib)
            row = {"command": f"data {name}", "files": ending, "seconds": seconds, "cpu_s": cpu, "peak_mib": peak}
            rows.append(row)
            console.print(f"data {name:6} {ending:8} {seconds:6.1f} s  {cpu:6.1f} s of CPU  {peak:6,} MiB")
    return rows


def figures(rows: list[dict[str, Any]]) -> dict[str, Figure]:
    return {
        f"data_{row['command'].split()[1]}_{row['files']}_s": Figure(
            value=row["seconds"], unit="s", goal=GOAL_S, better="lower"
        )
        for row in rows
    }


def main() -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), tables(EVENTS, USERS, ITEMS, SEED))
        rows = measure(Path(folder))
    claimed = figures(rows)
    print_figures(claimed)
    console.print(f"wrote {write_result('data_check', rows, claimed, time.perf_counter() - start)}")


if __name__ == "__main__":
    main()
