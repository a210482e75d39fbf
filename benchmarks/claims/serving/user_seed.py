"""How long until a store knows the users of the training data, and what does a seen item cost?

Made up are 1,000,000 events of 100,000 users; their seed is built as training does and put into SQLite and Valkey, twice:
into an empty store, and once more beneath what is there. Then one user with 20,000 seen items is read.

`python -m benchmarks.claims.serving.user_seed`: about two minutes on two idle cores. Writes benchmarks/results/user_seed.json.
"""

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from recsys.bundle import Bundle, write_bundle
from recsys.contracts import Event
from recsys.data.dataset import Dataset, canonical
from recsys.data.description import Description
from recsys.errors import exit_on_error
from recsys.features.spec import TABLES, FeatureSpec, TableSpec
from recsys.user_seed import USER_SEED, user_seed
from serving.endpoints import Server
from serving.state.exposure_counts import ExposureCounts
from serving.state.protocols import CompareAndSwap, UserState
from serving.state.seeding import seed
from serving.state.seen import SeenItems
from serving.state.state_codec import encode
from serving.state.states import key_of
from serving.state.store_factory import SQLITE, open_states, open_store
from serving.state.valkey_server import ValkeyServer

NUM_EVENTS, NUM_USERS, NUM_ITEMS, HISTORY = 1_000_000, 100_000, 50_000, 50
SEEN, READS = 20_000, 200
USERS_PER_MINUTE, READ_MS, SEED_S = 100_000, 5.0, 10.0
LIMITS: dict[str, Any] = {"read_timeout_s": 5.0, "write_timeout_s": 30.0, "ttl_s": None}
START = 1_700_000_000.0
OBJECTIVES = {"watch": "1", "like": "rating >= 4"}


def spec() -> FeatureSpec:
    tables: dict[str, Any] = {name: TableSpec(name=name, columns=()) for name in TABLES}
    actions = described().actions
    return FeatureSpec(**tables, history_length=HISTORY, actions=actions, objectives=OBJECTIVES, target="watch")


def described() -> Description:
    return Description(
        actions={"rating": "number"},
        context={},
        items={},
        users={},
        objectives=OBJECTIVES,
        target="watch",
        title=None,
        order="time",
    )


def dataset() -> Dataset:
    """Items by Zipf, everything else even."""
    generator = np.random.default_rng(0)
    log = {
        "user": generator.integers(NUM_USERS, size=NUM_EVENTS).astype(str),
        "item": (generator.zipf(1.3, size=NUM_EVENTS) % NUM_ITEMS).astype(str),
        "timestamp": START + generator.integers(10**7, size=NUM_EVENTS),
        "rating": generator.integers(1, 6, size=NUM_EVENTS).astype(np.float64),
    }
    everybody = pl.DataFrame({"user": np.arange(NUM_USERS).astype(str)})
    frame = pl.DataFrame(log)
    return canonical(name="made up", interactions=frame, items=None, users=everybody, description=described())


def built(folder: Path) -> tuple[Bundle, dict[str, Any]]:
    """A bundle that has the seed alone, and what that took."""
    data, of = dataset(), spec()
    start = time.perf_counter()
    with write_bundle(folder / "bundle", of.fingerprint) as draft:
        user_seed(data, of).write_ipc(draft.path / USER_SEED)
        seconds = time.perf_counter() - start
    bundle = Bundle.open(folder / "bundle")
    size = bundle.file(USER_SEED).stat().st_size
    return bundle, {"step": "build", "store": "", "seconds": round(seconds, 2), "megabytes": round(size / 1e6, 1)}


async def seeded(store: str, url: str, bundle: Bundle) -> list[dict[str, Any]]:
    states = open_states(Server(url=url), spec(), exposure=ExposureCounts(values=dict, half_life_s=86_400.0), **LIMITS)
    rows = []
    for step in ("seed", "seed again"):
        done = await seed(states, bundle, str)
        rate = 60 * done.users / done.seconds
        rows.append({"step": step, "store": store, "seconds": round(done.seconds, 1), "users_per_minute": round(rate)})
    await states.close()
    return rows


async def read(store: str, url: str, data: bytes) -> dict[str, Any]:
    """One user with many seen items, one read after the other."""
    table = open_store(Server(url=url), **LIMITS)
    await table.compare_and_swap({key_of("reader"): CompareAndSwap(before=None, after=data, expires=False)})
    await table.close()
    states, took = (
        open_states(Server(url=url), spec(), exposure=ExposureCounts(values=dict, half_life_s=86_400.0), **LIMITS),
        [],
    )
    for _ in range(READS):
        start = time.perf_counter()
        await states.get("reader")
        took.append(1e3 * (time.perf_counter() - start))
    await states.close()
    p50, p99 = np.percentile(took, [50, 99])
    return {"step": f"read {SEEN} seen", "store": store, "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


def much_seen() -> bytes:
    times = np.sort(np.random.default_rng(1).integers(10**7, size=SEEN)) + START
    events = [
        Event(user="", item=str(item), timestamp=at, actions={"rating": 1.0 + item % 5})
        for item, at in enumerate(times.tolist())
    ]
    return encode(UserState(seen=SeenItems().after(events, spec())), spec())


def run(folder: Path) -> list[dict[str, Any]]:
    with console.status("building the seed"):
        bundle, first = built(folder)
    data = much_seen()
    per_item = (len(data) - len(encode(UserState(), spec()))) / SEEN
    rows = [first, {"step": "bytes a seen item", "store": "", "bytes": round(per_item, 1)}]
    with ValkeyServer(folder / "valkey") as server:
        for store, url in (("sqlite", f"{SQLITE}{folder / 'states.db'}"), ("valkey", server.server.url)):
            with console.status(f"{store}: {NUM_USERS} users"):
                rows += asyncio.run(seeded(store, url, bundle))
                rows.append(asyncio.run(read(store, url, data)))
    return rows


def figures(rows: list[dict[str, Any]]) -> dict[str, Figure]:
    unit = f"users a minute of {NUM_USERS}, the slower of empty and filled"
    found = {"build_s": Figure(value=rows[0]["seconds"], unit=f"s, {NUM_EVENTS} events", goal=SEED_S, better="lower")}
    for store in ("sqlite", "valkey"):
        of = [row for row in rows if row["store"] == store]
        slowest = min(row["users_per_minute"] for row in of if "users_per_minute" in row)
        read_ms = next(row["p50_ms"] for row in of if "p50_ms" in row)
        found |= {
            f"users_per_minute_{store}": Figure(value=slowest, unit=unit, goal=USERS_PER_MINUTE, better="higher"),
            f"read_ms_{store}": Figure(value=read_ms, unit=f"ms p50, {SEEN} seen items", goal=READ_MS, better="lower"),
        }
    return found


def main() -> None:
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        rows = run(Path(folder))
    claimed = figures(rows)
    for row in rows:
        console.print("  ".join(f"{name} {value}" for name, value in row.items() if value != ""))
    print_figures(claimed)
    console.print(f"\nresult   {write_result('user_seed', rows, claimed, time.perf_counter() - start)}")


if __name__ == "__main__":
    with exit_on_error():
        main()
