"""What is served in benchmarks of serving: a made-up catalogue of 27,000 items, rules that are on, queries that never repeat.

Trained once, with little care for quality, and kept in runs/serving_world; what it costs to answer does not depend on it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.lib.result_file import ROOT
from recsys.contracts import Query
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.tables import Tables
from recsys.data.splits import whole
from recsys.errors import ServingError
from recsys.policy.rules.store import RuleStore
from recsys.replay.replay import Replay

FOLDER = ROOT / "runs" / "serving_world"
TRAINING = (
    *("recipe=synthetic", "data.users=6000", "data.items=27000", "data.events=200000", "candidates.total=200"),
    *("retrieval.epochs=1", "ranking.epochs=1", "ranking.sampling.requests_per_user=1"),
)
NUM_QUERIES = 5_000
RULES = """\
rules:
  - {name: not-too-dear, must: "price < 95"}
  - {name: no-crime-for-the-young, when: "user.age < 18", must: "category != 'crime'"}
  - {name: cheap, boost: 1.1, where: "price < 10"}
  - {name: music, boost: 1.2, where: "category == 'music'", when: "context.device == 'phone'"}
  - {name: dear, bury: 1.5, where: "price > 80"}
  - {name: three-of-a-category, cap: 3, of: category, top: 10}
  - {name: not-a-ninth-time, frequency: 8}
"""


@dataclass(frozen=True, kw_only=True)
class World:
    """An exported bundle with its rules, and who asks."""

    serve: Path
    queries: tuple[Query, ...]
    forbidden: tuple[str, ...]
    """items that the `must` rule for everybody keeps out"""


def world(k: int) -> World:
    """Trained and exported where that was not done yet."""
    serve = FOLDER / "serve"
    if not (serve / "current" / "models").exists():
        call_entry_point("train.py", *TRAINING, f"run_dir={FOLDER}")
        call_entry_point("export.py", f"bundle={FOLDER / 'bundle'}")
    store = RuleStore(serve / "rules")
    if not store.has_history:
        store.publish(RULES, who="benchmark", why="rules are on", expected=None)
    dataset = Tables(description=str(FOLDER / "data" / DESCRIPTION_FILE)).load()
    rows = np.random.default_rng(0).choice(dataset.num_events, NUM_QUERIES, replace=False)
    dear = dataset.items.filter(dataset.items["price"] >= 95)
    return World(
        serve=serve, queries=tuple(Replay(dataset, whole(dataset)).queries(rows, k=k)), forbidden=tuple(dear["item"])
    )


def write_lines(path: Path, documents: Sequence[str]) -> Path:
    """One document a line."""
    path.write_text("\n".join(documents), encoding="utf-8")
    return path


def ask_of(query: Query) -> str:
    """What a caller of the gateway sends for it: the history stands in the state store, the device is all the context."""
    context = {name: value for name, value in query.context.items() if name == "device"}
    return json.dumps({"user": query.user, "k": query.k, "context": context, "profile": dict(query.profile)})


def query_of(query: Query) -> str:
    """The whole query, its request id left open."""
    document = json.loads(query.to_json())
    return json.dumps({name: value for name, value in document.items() if name != "request_id"}, separators=(",", ":"))


def call_entry_point(*command: str) -> None:
    """Run train.py or export.py; ServingError when it fails."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServingError(f"{command[0]} failed: {done.stderr.strip()}")
