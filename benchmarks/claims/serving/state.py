"""How long does a request wait for the state of its user, and how much of the log can a store take up meanwhile?

SQLite and Valkey side by side, each with 100,000 users of 50 events: one read after the other, alone, beside a consumer in a
process of its own, and beside one on the same event loop. The consumer folds batches of 100 events of 100 users without a
pause; what it writes is on the disk before the next batch.

`python -m benchmarks.claims.serving.state`: about a minute on two idle cores. Writes benchmarks/results/state.json.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from recsys.contracts import Event
from recsys.errors import exit_on_error
from recsys.features import spec as features
from recsys.features.spec import FeatureSpec
from serving.endpoints import Server
from serving.events.record import Record, StoredRecord
from serving.state.exposure_counts import ExposureCounts
from serving.state.protocols import CompareAndSwap, UserState
from serving.state.state_codec import encode
from serving.state.states import StateStore, key_of
from serving.state.store_factory import SQLITE, open_states, open_store
from serving.state.valkey_server import ValkeyServer

NUM_USERS, NUM_ITEMS, HISTORY = 100_000, 20_000, 50
HISTORIES = 2_000
"""different ones; the user does not stand in the bytes, so many may have the same"""
READS, BATCH, FILL = 5_000, 100, 1_000
WRITER_ALONE_S = 5.0
GOAL_MS = 5.0
LIMITS: dict[str, Any] = {"read_timeout_s": 5.0, "write_timeout_s": 30.0, "ttl_s": None}
START = 1_700_000_000.0


def spec() -> FeatureSpec:
    tables: dict[str, Any] = {name: features.TableSpec(name=name, columns=()) for name in features.TABLES}
    objectives = {"watch": "1", "like": "rating >= 4"}
    return FeatureSpec(
        **tables, history_length=HISTORY, actions={"rating": "number"}, objectives=objectives, target="watch"
    )


def opened(url: str) -> StateStore:
    return open_states(Server(url=url), spec(), exposure=ExposureCounts(values=dict, half_life_s=86_400.0), **LIMITS)


def histories(num: int) -> list[bytes]:
    """The bytes of users with 50 rated items each."""
    generator, of = np.random.default_rng(0), spec()
    items = generator.integers(NUM_ITEMS, size=(num, HISTORY)).tolist()
    return [encode(UserState(history=_rated(one), sequence=1, updated=START), of) for one in items]


def _rated(items: list[int]) -> tuple[Event, ...]:
    return tuple(
        Event(user="", item=str(item), timestamp=START + 60 * place, actions={"rating": 1.0 + item % 5})
        for place, item in enumerate(items)
    )


def batches(users: int, seed: int) -> Iterator[list[StoredRecord]]:
    """What the log goes on with, without end."""
    generator, sequence = np.random.default_rng(seed), time.time_ns()
    while True:
        batch = []
        for user, item in generator.integers([[users, NUM_ITEMS]] * BATCH).tolist():
            sequence += 1
            actions = {"rating": 4.0}
            event = Event(user=str(user), item=str(item), timestamp=START + sequence % 10**9, actions=actions)
            batch.append(StoredRecord(sequence=sequence, record=Record.feedback(str(sequence), event)))
        yield batch


async def fill(url: str, users: int) -> None:
    states, table = histories(min(HISTORIES, users)), open_store(Server(url=url), **LIMITS)
    for start in range(0, users, FILL):
        numbers = range(start, min(start + FILL, users))
        after = {key_of(str(number)): states[number % len(states)] for number in numbers}
        await table.compare_and_swap(
            {key: CompareAndSwap(before=None, after=data, expires=True) for key, data in after.items()}
        )
    await table.close()


async def reads(states: StateStore, users: int, num: int) -> np.ndarray:
    """Milliseconds of each of so many reads, one after the other."""
    took = []
    for user in map(str, np.random.default_rng(1).integers(users, size=num).tolist()):
        start = time.perf_counter()
        await states.get(user)
        took.append(1e3 * (time.perf_counter() - start))
    return np.array(took)


async def writes(states: StateStore, users: int, stopped: Any) -> tuple[int, float]:
    """Number of batches until `stopped.is_set()`, one at least, and the seconds that they took."""
    num, start = 0, time.perf_counter()
    for batch in batches(users, seed=2):
        await states.write(batch)
        num += 1
        if stopped.is_set():
            break
    return num, time.perf_counter() - start


def consumer(url: str, users: int, started: Any, stopped: Any, told: Any) -> None:
    """A writer in a process of its own."""

    async def consume() -> None:
        states = opened(url)
        await states.write(next(batches(users, seed=3)))
        started.set()
        told.put(await writes(states, users, stopped))
        await states.close()

    asyncio.run(consume())


@contextmanager
def consuming(url: str, users: int, rates: list[float]) -> Iterator[None]:
    """A consumer beside what is done inside; its batches a second go to the list."""
    spawned = multiprocessing.get_context("spawn")
    started, stopped, told = spawned.Event(), spawned.Event(), spawned.Queue()
    process = spawned.Process(target=consumer, args=(url, users, started, stopped, told))
    process.start()
    try:
        started.wait(LIMITS["write_timeout_s"])
        yield
    finally:
        stopped.set()
        num, seconds = told.get(timeout=LIMITS["write_timeout_s"])
        rates.append(num / seconds)
        process.join()


async def same_loop(states: StateStore, users: int, num: int) -> tuple[np.ndarray, float]:
    """Reads beside a consumer on the same event loop, and its batches a second."""
    stopped = asyncio.Event()
    writing = asyncio.create_task(writes(states, users, stopped))
    took = await reads(states, users, num)
    stopped.set()
    done, seconds = await writing
    return took, done / seconds


async def measured(store: str, url: str, users: int, num: int, alone_s: float) -> list[dict[str, Any]]:
    """A row a case."""
    rates: list[float] = []
    with consuming(url, users, rates):
        await asyncio.sleep(alone_s)
    states = opened(url)
    await reads(states, users, num // 10)
    rows = [row(store, "none", await reads(states, users, num), None), row(store, "nobody reads", None, rates.pop())]
    with consuming(url, users, rates):
        took = await reads(states, users, num)
    rows += [
        row(store, "own process", took, rates.pop()),
        row(store, "same loop", *await same_loop(states, users, num)),
    ]
    await states.close()
    return rows


def row(store: str, writer: str, took: np.ndarray | None, rate: float | None) -> dict[str, Any]:
    found = [None] * 3 if took is None else [round(float(one), 3) for one in np.percentile(took, [50, 99, 100])]
    names = ("get_p50_ms", "get_p99_ms", "get_worst_ms")
    return {
        "store": store,
        "writer": writer,
        **dict(zip(names, found, strict=True)),
        "batches_per_s": rate and round(rate, 1),
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, Figure]:
    """The slower of alone and beside a consumer in a process of its own, which is how it is served."""
    unit = f"ms, one user of {NUM_USERS} with {HISTORY} events, also beside a consumer in its own process"
    served = [one for one in rows if one["writer"] in ("none", "own process")]
    p99 = {store: [one["get_p99_ms"] for one in served if one["store"] == store] for store in ("sqlite", "valkey")}
    return {
        f"get_p99_ms_{store}": Figure(value=max(one), unit=unit, goal=GOAL_MS, better="lower")
        for store, one in p99.items()
    }


def summary(rows: list[dict[str, Any]]) -> Table:
    title = f"{NUM_USERS} users of {HISTORY} events, batches of {BATCH} events"
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in rows[0]:
        shown.add_column(name, justify="left" if name in ("store", "writer") else "right")
    for one in rows:
        shown.add_row(*("" if value is None else str(value) for value in one.values()))
    return shown


def run(folder: Path, users: int, num: int, alone_s: float) -> list[dict[str, Any]]:
    rows = []
    with ValkeyServer(folder / "valkey") as server:
        for store, url in (("sqlite", f"{SQLITE}{folder / 'states.db'}"), ("valkey", server.server.url)):
            with console.status(f"{store}: {users} users"):
                asyncio.run(fill(url, users))
            with console.status(f"{store}: reads and writes"):
                rows += asyncio.run(measured(store, url, users, num, alone_s))
    return rows


def main() -> None:
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        rows = run(Path(folder), NUM_USERS, READS, WRITER_ALONE_S)
    claimed = figures(rows)
    console.print(summary(rows))
    print_figures(claimed)
    file = write_result("state", rows, claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}")


if __name__ == "__main__":
    with exit_on_error():
        main()
