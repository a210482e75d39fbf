"""Does what is deployed know its users, and is nothing shown again that they have seen?

The stack is started on what was exported, with its usual budget and with one of 20 s, in which two cores can rank for all.
The 100 users with most events are asked for in one moment, then again after 60 further events each: at once, while the
consumer may be behind, and when the states know them. Every slate that the gateway had of the first rung is made again from
its logged query, by Triton and by `recommend` in this process.

    python -m benchmarks.claims.serving.known_users [runs/demo/serve]       some minutes on two cores

Writes benchmarks/results/known_users.json.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import polars as pl
from rich import box
from rich.table import Table

from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from benchmarks.lib.serving_stack import FOLD_S, RunningStack, started_stack, waiting
from recsys.bundle import Bundle
from recsys.contracts import Query, Slate
from recsys.errors import ServingError, exit_on_error
from recsys.pipeline import recommend
from recsys.stages import load_stages, read_catalogue, read_spec
from recsys.user_seed import USER_SEED
from serving.layout import DeploymentLayout
from serving.processes import until
from serving.state.onboarding import actions_reaching
from serving.triton.client import Client

NUM_USERS, NUM_EVENTS, K = 100, 60, 10
BUDGETS = {"usual": (), "20 s": ("--budget=20000",)}
BATCH, LOG_S = 500, 120.0
ROUNDING_ERROR = 1e-6
"""of utilities in float32"""

Answers = Mapping[str, dict[str, Any]]
"""by user"""


def most_active(bundle: Bundle) -> dict[str, set[str]]:
    """User -> all items that the training data has of the user."""
    users = pl.read_ipc(bundle.file(USER_SEED), columns=["user", "events", "seen.item"])
    top = users.sort("events", "user", descending=[True, False]).head(NUM_USERS)
    return {user: set(items) for user, items in top.select("user", "seen.item").iter_rows()}


async def slates(stack: RunningStack, users: Sequence[str], name: str) -> Answers:
    """Ask for all of them in one moment."""

    async def slate(client: httpx.AsyncClient, user: str) -> dict[str, Any]:
        headers = {"x-request-id": f"{name}-{users.index(user)}"}
        answer = await client.post("/v1/recommend", json={"user": user, "k": K}, headers=headers)
        return (
            answer.json() if answer.status_code == 200 else {"items": [], "degraded": [answer.text], "request_id": ""}
        )

    address, limits = f"http://{stack.address}", httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, headers=stack.headers, timeout=60.0, limits=limits) as client:
        return dict(zip(users, await asyncio.gather(*(slate(client, user) for user in users)), strict=True))


def act(stack: RunningStack, bundle: Bundle, seen: Mapping[str, set[str]], shown: Answers) -> dict[str, set[str]]:
    """Further events of each user, of what was just shown and of other items; returns all that is seen by then."""
    generator, catalogue, spec = np.random.default_rng(0), read_catalogue(bundle)["item"].to_list(), read_spec(bundle)
    actions, now = actions_reaching(spec, (spec.target,)), time.time()
    after, events = {}, []
    for user, items in seen.items():
        fresh = [place["item"] for place in shown[user]["items"]]
        others = [item for item in catalogue if item not in items and item not in fresh]
        chosen = [*fresh, *generator.permutation(others).tolist()][:NUM_EVENTS]
        after[user] = items | set(chosen)
        events += [
            {"user": user, "item": item, "timestamp": now - NUM_EVENTS + number, "actions": actions}
            for number, item in enumerate(chosen)
        ]
    with httpx.Client(base_url=f"http://{stack.address}", headers=dict(stack.headers), timeout=60.0) as client:
        for start in range(0, len(events), BATCH):
            answer = client.post("/v1/events", json={"events": events[start : start + BATCH]})
            if answer.status_code != 200:
                raise ServingError(f"events were refused: {answer.text}")
    return after


def logged(place: DeploymentLayout, ids: set[str]) -> dict[str, Query]:
    """The queries of these requests, when the log has them as Parquet."""
    files = str(place.events / "impressions" / "**" / "*.parquet")

    def found() -> pl.DataFrame:
        try:
            return pl.read_parquet(files).filter(pl.col("query").is_not_null(), pl.col("request_id").is_in(ids))
        except (FileNotFoundError, pl.exceptions.ComputeError):
            return pl.DataFrame(schema={"request_id": pl.String, "query": pl.String})

    if not until(lambda: ids <= set(found()["request_id"]), LOG_S):
        raise ServingError(f"{len(ids - set(found()['request_id']))} requests are not in the log after {LOG_S:g} s")
    return {id: Query.from_json(text) for id, text in found().select("request_id", "query").iter_rows()}


def row(
    moment: str, by: str, items: Sequence[Sequence[str]], flags: Sequence[str], seen: Sequence[set[str]]
) -> dict[str, Any]:
    return {
        "moment": moment,
        "by": by,
        "slates": sum(bool(one) for one in items),
        "distinct": len({tuple(one) for one in items if one}),
        "history_empty": list(flags).count("history:empty"),
        "items": sum(map(len, items)),
        "already_seen": sum(item in had for one, had in zip(items, seen, strict=True) for item in one),
    }


def rows_of(
    moment: str, stack: RunningStack, stages: Any, answers: Answers, seen: Mapping[str, set[str]]
) -> list[dict[str, Any]]:
    """The slates of the gateway, and those that Triton and this process make of the same queries."""
    queries = logged(stack.place, {answer["request_id"] for answer in answers.values() if answer["request_id"]})
    full = [user for user in seen if answers[user].get("rung") == "recommend"]
    again = [user for user in seen if answers[user]["request_id"] in queries]
    requests = [queries[answers[user]["request_id"]] for user in again]
    with Client(stack.grpc) as client:
        remade = {"triton": client.recommend(requests, timeout_s=60.0), "recommend": recommend(requests, stages)}
    had, own = list(seen.values()), [[place["item"] for place in answers[user]["items"]] for user in seen]
    flags = [flag for answer in answers.values() for flag in answer["degraded"]]
    rows = [row(moment, "gateway", own, flags, had) | {"first_rung": len(full), "differing": 0}]
    for by, made in remade.items():
        items = [items_of(slate) for slate in made]
        same = sum(
            is_same(slate, answers[user]["items"]) for slate, user in zip(made, again, strict=True) if user in full
        )
        notes = [flag for slate in made for flag in slate.degraded]
        counts = {"first_rung": len(full), "differing": len(full) - same}
        rows.append(row(moment, by, items, notes, [seen[user] for user in again]) | counts)
    return rows


def is_same(slate: Slate, places: Sequence[Mapping[str, Any]]) -> bool:
    """Place by place the same item, or one of the same utility: the rounding of a model's batch decides between these."""
    pairs = list(zip(slate.items, places, strict=False))
    alike = (one.item == other["item"] or abs(one.utility - other["utility"]) < ROUNDING_ERROR for one, other in pairs)
    return len(slate.items) == len(places) and all(alike)


def items_of(slate: Slate) -> list[str]:
    return [place.item for place in slate.items]


def measured(serve: Path, live: Path, budget: str) -> list[dict[str, Any]]:
    bundle = Bundle.open(serve / "current" / "bundle")
    seen, stages = most_active(bundle), load_stages(bundle)
    with started_stack(serve, live, *BUDGETS[budget]) as stack:
        first = asyncio.run(slates(stack, list(seen), "first"))
        after = act(stack, bundle, seen, first)
        at_once = asyncio.run(slates(stack, list(seen), "at-once"))
        if not until(lambda: waiting(stack) == 0, FOLD_S):
            raise ServingError(f"{waiting(stack)} events were not folded within {FOLD_S:g} s")
        later = asyncio.run(slates(stack, list(seen), "later"))
        rows = [
            *rows_of("deployed", stack, stages, first, seen),
            *rows_of(f"{NUM_EVENTS} events more, at once", stack, stages, at_once, after),
            *rows_of(f"{NUM_EVENTS} events more, folded in", stack, stages, later, after),
        ]
    return [{"budget": budget} | row for row in rows]


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    users = max(row["slates"] for row in rows)
    unit = f"of {users} users, the worst of {len(rows)} rows"
    worst = {
        name: (min if name in ("slates", "distinct") else max)(row[name] for row in rows)
        for name in rows[0]
        if name not in ("budget", "moment", "by", "items", "first_rung")
    }
    return {
        "slates": Figure(value=worst["slates"], unit=unit, goal=NUM_USERS, better="higher"),
        "distinct": Figure(value=worst["distinct"], unit=unit, goal=90, better="higher"),
        "history_empty": Figure(value=worst["history_empty"], unit=unit, goal=0, better="lower"),
        "already_seen": Figure(
            value=worst["already_seen"], unit=f"of {NUM_USERS * K} places, the worst row", goal=0, better="lower"
        ),
        "differing": Figure(value=worst["differing"], unit="of those of the first rung", goal=0, better="lower"),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(title=f"the {NUM_USERS} users with most events, k={K}", box=box.SIMPLE_HEAD, title_justify="left")
    for name in rows[0]:
        shown.add_column(name.replace("_", " "), justify="left" if name in ("budget", "moment", "by") else "right")
    for one in rows:
        shown.add_row(*map(str, one.values()))
    return shown


def main() -> None:
    start, serve = time.perf_counter(), Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/serve")
    rows = []
    for budget in BUDGETS:
        with TemporaryDirectory() as live, console.status(f"requests with the budget {budget}"):
            rows += measured(serve.resolve(), Path(live), budget)
    claimed = figures(rows)
    console.print(summary(rows))
    print_figures(claimed)
    console.print(f"\nresult   {write_result('known_users', rows, claimed, time.perf_counter() - start)}")


if __name__ == "__main__":
    with exit_on_error():
        main()
