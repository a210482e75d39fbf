"""`python -m serving demo`: the main job on real data, from nothing to recommendations.

MovieLens 100K is read and split by time, the models are trained and measured, the bundle is exported and served by Triton,
ten users are queried over gRPC, and Triton is compared with the in-process pipeline on 250 queries. Writes summary.json
into the run directory.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.bundle import Bundle
from recsys.contracts import Query, Slate
from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.tables import Tables
from recsys.data.splits import whole
from recsys.errors import ServingError
from recsys.export.releases import served_release
from recsys.pipeline import recommend
from recsys.replay.replay import Replay
from recsys.stages import item_names, load_stages, read_catalogue
from serving.triton.client import Client
from serving.triton.server import TritonServer

NUM_PARITY_QUERIES = 250
NUM_USERS = 10
NUM_SHOWN = 3
TOLERANCE = 1e-5
console = Console()
"""as wide as the terminal; 80 in a file"""
TITLE = "What Triton recommends to the ten users who were last active"

seconds: dict[str, float] = {}


@contextmanager
def step(name: str) -> Iterator[None]:
    """Time one step and say that it begins."""
    console.rule(f"[bold]{name}", align="left")
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)


def call(*command: str) -> None:
    """Run a command of `recsys` with this Python; its own message has been printed when it fails."""
    done = subprocess.run([sys.executable, "-m", "recsys", *command], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def ask(client: Client, replay: Replay) -> list[Slate]:
    """The next slate of the ten users who were last active."""
    newest = np.unique(replay.users[np.argsort(replay.timestamps)[::-1]], return_index=True)[1]
    users = replay.names[np.argsort(newest)[:NUM_USERS]]
    now = float(replay.timestamps.max())
    return client.recommend([replay.latest(str(user), now, 10) for user in users])


def slates_table(slates: Sequence[Slate], bundle: Bundle, dataset: Dataset) -> Table:
    names = item_names(read_catalogue(bundle), dataset.description.title)
    table = Table(title=TITLE, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("user", "", "film", "P(watch)", "P(like)", "because of", "rules"):
        number = heading.startswith(("P(", "user"))
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    for slate in slates:
        for place, shown in enumerate(slate.items[:NUM_SHOWN], start=1):
            probabilities = [f"{shown.probabilities[objective]:.3f}" for objective in ("watch", "like")]
            reasons = (", ".join(shown.sources), ", ".join(shown.rules))
            cells = (slate.user, str(place), names[shown.item], *probabilities, *reasons)
            table.add_row(*(Text(cell) for cell in cells))
        table.add_section()
    return table


def parity(client: Client, bundle: Bundle, replay: Replay) -> dict[str, Any]:
    """The same queries through the in-process pipeline and through Triton."""
    rows = np.random.default_rng(0).choice(len(replay.users), NUM_PARITY_QUERIES, replace=False)
    queries = replay.queries(rows, 10)
    stages = load_stages(bundle)
    mismatches = sum(not same(query, stages, client) for query in queries)
    return {"queries": len(queries), "mismatches": mismatches}


def same(query: Query, stages: Any, client: Client) -> bool:
    (here,), (there,) = recommend([query], stages), client.recommend([query])
    if [shown.item for shown in here.items] != [shown.item for shown in there.items]:
        return False
    return all(abs(a.utility - b.utility) <= TOLERANCE for a, b in zip(here.items, there.items, strict=True))


def demo(run: Path) -> None:
    """Train, export, serve and query in a run directory, which is made anew."""
    shutil.rmtree(run, ignore_errors=True)
    with step("train and evaluate"):
        call("train", "recipe=movielens_100k", f"run_dir={run}")
    with step("export"):
        call("export", f"bundle={run / 'bundle'}")
    bundle, dataset = Bundle.open(run / "bundle"), Tables(description=str(run / "data" / DESCRIPTION_FILE)).load()
    replay = Replay(dataset, whole(dataset))
    with step("start Triton"):
        server = TritonServer(served_release(run / "serve") / "models")
        server.start()
    try:
        with Client(server.grpc_url) as client:
            with step("ask ten users over gRPC"):
                console.print(slates_table(ask(client, replay), bundle, dataset))
            with step("compare Triton with the in-process pipeline"):
                compared = parity(client, bundle, replay)
                console.print(f"{compared['queries']} queries, {compared['mismatches']} mismatches")
            version = server.version()
    finally:
        server.stop()
    summarise(run, bundle, dataset, compared, version)
    if compared["mismatches"]:
        raise ServingError(f"Triton and the in-process pipeline disagree; see {run / 'summary.json'}")


def summarise(run: Path, bundle: Bundle, dataset: Dataset, compared: dict[str, Any], version: str) -> None:
    metrics = bundle.document("metrics.json")
    summary = {
        "data": {
            "users": dataset.num_users,
            "items": dataset.num_items,
            "events": dataset.num_events,
            "targets_sha256": metrics["targets_sha256"],
        },
        "metrics": metrics["rows"],
        "parity": compared,
        "server": {"name": "triton", "version": version},
        "bundle": {"path": str(bundle.path), "fingerprint": bundle.fingerprint},
        "seconds": seconds,
    }
    (run / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    steps = ", ".join(f"{name} {taken:.0f} s" for name, taken in seconds.items())
    console.print(f"\n{steps}\nsummary  {run / 'summary.json'}\npicture  {run / 'metrics.png'}")
    console.print(f"next     python -m recsys recommend --bundle {run / 'bundle'} --user 405", style="bold")
