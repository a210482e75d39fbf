"""Ten thousand broken requests at the real Triton: does it say no in one sentence, stay well, and tell its log nothing?

Every message of benchmarks/lib/payloads.py goes over gRPC to the served world of serving_world.py. Sound is an answer with one
of the STATUSES and without a traceback; what is no message at all gets gRPC's own NO_MESSAGE. Whoever asks is called by an
e-mail address that no line of the log may hold. After all of it a good query gets the slate that it got before, from models
that were never loaded again.

`python -m benchmarks.claims.serving.fuzz`: about two minutes. Writes benchmarks/results/fuzz.json.
"""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from rich import box
from rich.progress import track
from rich.table import Table

from benchmarks.lib.payloads import BREAKS, Payload, payloads
from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from benchmarks.lib.serving_world import world
from recsys.contracts import Query
from recsys.errors import exit_on_error
from serving.triton.client import Client
from serving.triton.server import TritonServer

NUM = 10_000
SEED = 0
STATUSES = ("OK", "INVALID_ARGUMENT", "NOT_FOUND")
NO_MESSAGE = ("INTERNAL", "Unable to parse request")
METHOD = "/inference.GRPCInferenceService/ModelInfer"
PLANTED = "ada.planted@example.org"
TRACEBACK = re.compile(r'Traceback|File "[^"]*", line \d|site-packages')
TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """What came back for one payload."""

    payload: Payload
    status: str
    text: str

    @property
    def sound(self) -> bool:
        declared = self.status in STATUSES or (self.status, self.text) == NO_MESSAGE
        return declared and not TRACEBACK.search(self.text)


def planted(query: Query) -> Query:
    """The same query by somebody whom a log may not name."""
    history = tuple(replace(event, user=PLANTED) for event in query.history)
    return replace(query, user=PLANTED, history=history, context={**query.context, "mail": PLANTED})


def tell(grpc_url: str, sent: Sequence[Payload]) -> list[Told]:
    """Send one after the other, as bytes that no client has looked at."""
    with grpc.insecure_channel(grpc_url) as channel:
        ask = channel.unary_unary(METHOD)
        return [_one(ask, payload) for payload in track(sent, "broken payloads", console=console)]


def _one(ask: Any, payload: Payload) -> Told:
    try:
        answer = ask(payload.message, timeout=TIMEOUT_S)
        return Told(payload=payload, status="OK", text=answer.decode(errors="replace"))
    except grpc.RpcError as error:
        return Told(payload=payload, status=error.code().name, text=error.details() or "")


@dataclass(frozen=True, kw_only=True)
class Fuzzed:
    """All that came of it."""

    told: Sequence[Told]
    log: str
    same_slate: bool
    unready: Sequence[str]

    @property
    def unsound(self) -> list[Told]:
        return [one for one in self.told if not one.sound]

    @property
    def betraying(self) -> list[str]:
        """Lines of the log that name who asked."""
        return [line for line in self.log.splitlines() if PLANTED in line]


def fuzz(repository: Path, query: Query, num: int, seed: int, log: Path) -> Fuzzed:
    """Start a server over the models, send, look at what is left. query: of a known user."""
    asked = planted(query)
    with TritonServer(repository, log=log) as server, Client(server.grpc_url) as client:
        before = client.recommend([query])
        told = tell(server.grpc_url, payloads(asked, num, seed))
        return Fuzzed(
            told=told,
            log=log.read_text(errors="replace"),
            same_slate=client.recommend([query]) == before,
            unready=server.unready(),
        )


def table(told: Sequence[Told]) -> Table:
    statuses = sorted({one.status for one in told})
    counts = Counter((one.payload.kind, one.status) for one in told)
    shown = Table(title=f"{len(told)} broken payloads", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("what was broken", *statuses):
        shown.add_column(heading, justify="left" if heading == "what was broken" else "right")
    for kind in BREAKS:
        shown.add_row(kind, *(str(counts[kind, status]) for status in statuses))
    return shown


def figures(found: Fuzzed) -> dict[str, Figure]:
    values = {
        "undeclared_answers": (len(found.unsound), f"of {len(found.told)}"),
        "betraying_log_lines": (len(found.betraying), f"of {len(found.log.splitlines())}"),
        "models_not_ready": (len(found.unready), "after all of it"),
        "slates_changed": (int(not found.same_slate), "of one good query, before and after"),
    }
    return {name: Figure(value=value, unit=unit, goal=0, better="lower") for name, (value, unit) in values.items()}


def main() -> None:
    start = time.perf_counter()
    made = world(10)
    with TemporaryDirectory() as folder:
        found = fuzz(made.serve / "current" / "models", made.queries[0], NUM, SEED, Path(folder) / "triton.log")
    claimed = figures(found)
    console.print(table(found.told))
    for one in found.unsound[:10]:
        console.print(f"{one.payload.kind}: {one.status} {one.text[:200]!r}", style="red")
    for line in found.betraying[:10]:
        console.print(line[:200], style="red")
    print_figures(claimed)
    counts = Counter((one.payload.kind, one.status) for one in found.told)
    rows = [{"broken": kind, "status": status, "answers": num} for (kind, status), num in sorted(counts.items())]
    file = write_result("fuzz", rows, claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}")


if __name__ == "__main__":
    with exit_on_error():
        main()
