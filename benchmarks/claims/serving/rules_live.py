"""Rules are published and undone under live load on the real Triton: is any request lost, and how soon is the old version back?

A small synthetic world is trained, exported and served; clients ask without a pause while rules are published and
rolled back many times. A rollback is over when every client was answered by the old version and by no other again.
`undo` goes back to the version just before, `far` to one that the server has to make anew. Beside it: two processes
that publish at once, and a log altered in every way.

    python -m benchmarks.claims.serving.rules_live      about three minutes on two idle cores

Writes benchmarks/results/rules_live.json.
"""

import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich import box
from rich.progress import track
from rich.table import Table

from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from recsys.contracts import Query
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.tables import Tables
from recsys.data.splits import whole
from recsys.errors import ConfigError, ConflictError, RecsysError, ServingError, exit_on_error
from recsys.policy.rules.audit import LOG, RuleVersion
from recsys.policy.rules.store import RuleStore
from recsys.replay.replay import Replay
from serving.triton.client import Client
from serving.triton.server import TritonServer

WORLD = (
    *("recipe=synthetic", "data.users=400", "data.items=2000", "data.events=20000", "trainer.progress=false"),
    *(
        "retrieval.epochs=1",
        "ranking.epochs=1",
        "ranking.sampling.requests_per_user=2",
        "retrieval.dim=32",
        "ranking.sizes.dim=8",
    ),
)
NUM_RULES = 50
ROUNDS, RACES = 20, 10
CLIENTS, BATCH = 4, 4
PATIENCE_S = 60.0
WHO = "benchmark"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One batch that a client asked for."""

    client: int
    start: float
    stop: float
    version: str | None
    """the rules of its slates; None where there was none, or more than one"""


class Load:
    """Clients that never stop asking."""

    def __init__(self, url: str, queries: Sequence[Query]) -> None:
        self._url, self._queries = url, queries
        self._answers: list[Answer] = []
        self._heard, self._stopped = threading.Condition(), threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        clients = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            yield
        finally:
            self._stopped.set()
            for client in clients:
                client.join()

    def since(self, start: float) -> list[Answer]:
        """Answers that arrived later."""
        with self._heard:
            return [answer for answer in self._answers if answer.stop > start]

    def until(self, version: str, start: float) -> None:
        """Wait until every client that asked after `start` was last answered by the version."""
        with self._heard:
            if not self._heard.wait_for(lambda: self._all_by(version, start), PATIENCE_S):
                raise ServingError(f"version {version} did not answer within {PATIENCE_S:g} s; see the server's log")

    def _all_by(self, version: str, start: float) -> bool:
        last = {answer.client: answer.version for answer in self._answers[-50 * CLIENTS :] if answer.start > start}
        return len(last) == CLIENTS and set(last.values()) == {version}

    def _ask(self, number: int) -> None:
        generator = np.random.default_rng(number)
        with Client(self._url) as client:
            while not self._stopped.is_set():
                batch = [self._queries[row] for row in generator.integers(len(self._queries), size=BATCH)]
                start, version = time.perf_counter(), _version(client, batch)
                answer = Answer(client=number, start=start, stop=time.perf_counter(), version=version)
                with self._heard:
                    self._answers.append(answer)
                    self._heard.notify_all()


def _version(client: Client, batch: Sequence[Query]) -> str | None:
    try:
        slates = client.recommend(batch)
    except RecsysError as error:
        console.print(f"failed   {error}", style="red")
        return None
    versions = {slate.rules for slate in slates}
    whole = len(slates) == len(batch) and all(slate.items and not _stale(slate.degraded) for slate in slates)
    return versions.pop() if whole and len(versions) == 1 else None


def _stale(degraded: Sequence[str]) -> bool:
    return any(flag.startswith("rules:") for flag in degraded)


def text(number: int) -> str:
    """A rule set of NUM_RULES, another for every number."""
    boosts = [
        f"  - {{name: b{rule}, boost: 1.01, where: 'price > {rule + number / 100}'}}" for rule in range(NUM_RULES - 2)
    ]
    cap = "  - {name: two-of-a-category, cap: 2, of: category, top: 5}"
    return "\n".join([f"# number {number}", "rules:", "  - {name: dear, must: 'not price > 90'}", cap, *boosts, ""])


def publish(store: RuleStore, number: int) -> RuleVersion:
    current = store.current()
    return store.publish(text(number), who=WHO, why="load", expected=current.version if current else None)


def _published(store: RuleStore) -> str:
    """Of the published rules, of which there are some."""
    head = store.head()
    assert head is not None
    return head.version


def measured(store: RuleStore, load: Load, rounds: int) -> list[dict[str, Any]]:
    """Three rows a round: a new version, back to the one before, on to an older one."""
    versions = [publish(store, number).version for number in range(3)]
    load.until(versions[-1], time.perf_counter())
    rows = []
    for number in track(range(3, rounds + 3), "changing rules", console=console):
        before = _published(store)
        rows.append(changed(load, "publish", partial(publish, store, number)))
        versions.append(_published(store))
        far = next(version for version in versions if version not in (before, versions[-1]))
        rows.append(changed(load, "undo", lambda: store.rollback(who=WHO, why="load")))
        rows.append(changed(load, "far", partial(store.rollback, far, who=WHO, why="load")))
    return rows


def changed(load: Load, kind: str, change: Callable[[], RuleVersion]) -> dict[str, Any]:
    """Seconds from the call of the change to the first answer by its version, and to the last one by another."""
    start = time.perf_counter()
    version = change().version
    load.until(version, start)
    answers = load.since(start)
    firsts = [answer.stop for answer in answers if answer.version == version]
    others = [answer.stop for answer in answers if answer.version != version]
    return {
        "change": kind,
        "seconds_first": round(min(firsts) - start, 4),
        "seconds_all": round(max([min(firsts), *others]) - start, 4),
        "requests": len(answers),
        "slowest_ms": round(1e3 * max(answer.stop - answer.start for answer in answers), 1),
    }


def attempt(folder: Path, number: int, times: int, expected: str, barrier: Any, outcomes: Any) -> None:
    """One of two editors, in a process of its own."""
    store = RuleStore(folder)
    for turn in range(times):
        barrier.wait()
        try:
            store.publish(text(1_000 * number + turn), who=WHO, why="race", expected=expected)
            outcomes.put("won")
        except ConflictError:
            outcomes.put("conflict")
        barrier.wait()
        expected = _published(store)
        barrier.wait()


def races(folder: Path, times: int) -> list[str]:
    """What two editors who began with the same version were told, so many times."""
    expected = publish(RuleStore(folder), 0).version
    spawned = multiprocessing.get_context("spawn")
    barrier, outcomes = spawned.Barrier(2), spawned.Queue()
    editors = [
        spawned.Process(target=attempt, args=(folder, number, times, expected, barrier, outcomes)) for number in (1, 2)
    ]
    for editor in editors:
        editor.start()
    found = [outcomes.get(timeout=PATIENCE_S) for _ in range(2 * times)]
    for editor in editors:
        editor.join()
    if len(RuleStore(folder).verify()) != times + 1:
        raise ServingError(f"{folder} does not hold one change a race")
    return found


def alterations(store: RuleStore) -> dict[str, Callable[[], object]]:
    """Ways to alter a store of at least three entries."""
    log, entry = store.folder / LOG, store.history()[0]
    lines = log.read_bytes().splitlines(keepends=True)
    report = store.folder / "reports" / f"{entry.report}.json"
    return {
        "a byte of an entry": lambda: log.write_bytes(log.read_bytes().replace(b"load", b"lead", 1)),
        "a line in the middle removed": lambda: log.write_bytes(b"".join([lines[0], *lines[2:]])),
        "the last line removed": lambda: log.write_bytes(b"".join(lines[:-1])),
        "two lines exchanged": lambda: log.write_bytes(b"".join([lines[1], lines[0], *lines[2:]])),
        "a text": lambda: _overwrite(store.folder / "objects" / f"{entry.text}.yaml"),
        "a report": lambda: _overwrite(report),
    }


def _overwrite(file: Path) -> None:
    kept = file.read_bytes()
    file.unlink()
    file.write_bytes(kept + b"#")


def tampering(folder: Path) -> dict[str, str | None]:
    """What verify says of every way to alter a store; None where it sees nothing."""
    whole = RuleStore(folder / "whole")
    whole.publish(text(0), who=WHO, why="load", report={"slates_changed": 0.1})
    for number in (1, 2):
        publish(whole, number)
    found: dict[str, str | None] = {}
    for place, name in enumerate(alterations(whole)):
        copy = RuleStore(shutil.copytree(whole.folder, folder / str(place)))
        alterations(copy)[name]()
        found[name] = _sentence(copy)
    return found


def _sentence(store: RuleStore) -> str | None:
    try:
        store.verify()
    except ConfigError as error:
        return str(error)
    return None


def figures(rows: Sequence[dict[str, Any]], load: Load, told: Sequence[str], seen: dict[str, Any]) -> dict[str, Figure]:
    answers = load.since(0.0)
    back = max(row["seconds_all"] for row in rows if row["change"] != "publish")
    return {
        "failed_requests": Figure(
            value=sum(answer.version is None for answer in answers),
            unit=f"of {len(answers)} requests of {BATCH} queries",
            goal=0,
            better="lower",
        ),
        "seconds_until_old_version_answers": Figure(
            value=back, unit="s, the slowest rollback, no client answered otherwise later", goal=3, better="lower"
        ),
        "conflicts_refused": Figure(
            value=told.count("conflict"), unit=f"of {RACES} races of two processes", goal=RACES, better="higher"
        ),
        "tampering_detected": Figure(
            value=sum(one is not None for one in seen.values()), unit="kinds", goal=len(seen), better="higher"
        ),
    }


def summary(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(
        title=f"{NUM_RULES} rules, {CLIENTS} clients that never pause", box=box.SIMPLE_HEAD, title_justify="left"
    )
    for heading in ("change", "times", "first answer s", "all answers s", "worst s", "slowest request ms"):
        shown.add_column(heading, justify="left" if heading == "change" else "right")
    for kind in ("publish", "undo", "far"):
        of = [row for row in rows if row["change"] == kind]
        first, every = ([row[name] for row in of] for name in ("seconds_first", "seconds_all"))
        slowest = max(row["slowest_ms"] for row in of)
        medians = (f"{np.median(first):.3f}", f"{np.median(every):.3f}")
        shown.add_row(kind, str(len(of)), *medians, f"{max(every):.3f}", f"{slowest:.0f}")
    return shown


def served(folder: Path) -> list[Query]:
    """Train and export a small world into the folder; returns what to ask for."""
    _call("train.py", *WORLD, f"run_dir={folder}")
    _call("export.py", f"bundle={folder / 'bundle'}")
    dataset = Tables(description=str(folder / "data" / DESCRIPTION_FILE)).load()
    rows = np.random.default_rng(0).choice(dataset.num_events, 200, replace=False)
    return Replay(dataset, whole(dataset)).queries(rows, k=10)


def _call(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServingError(f"{command[0]} failed: {done.stderr.strip()}")


def run(folder: Path, rounds: int) -> tuple[list[dict[str, Any]], Load]:
    with console.status("training and exporting a small world"):
        queries = served(folder)
    with TritonServer(folder / "serve" / "current" / "models") as server:
        load = Load(server.grpc_url, queries)
        with load.running():
            rows = measured(RuleStore(folder / "serve" / "rules"), load, rounds)
    return rows, load


def main() -> None:
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        rows, load = run(Path(folder) / "run", ROUNDS)
        told, seen = races(Path(folder) / "races", RACES), tampering(Path(folder) / "tampering")
    claimed = figures(rows, load, told, seen)
    console.print(summary(rows))
    for name, sentence in seen.items():
        console.print(f"{name}: {'seen' if sentence else 'not seen'}")
    print_figures(claimed)
    found = [{"altered": name, "seen": sentence is not None} for name, sentence in seen.items()]
    file = write_result("rules_live", [*rows, *found], claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}")
    console.print("next     python -m recsys rules --help", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
