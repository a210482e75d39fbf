"""Does the consumer keep up with twice the load of the serving benchmark?

    python -m benchmarks.claims.serving.consumer_load

The whole stack runs; impressions of RATE slates a second, twice what the gateway keeps on two cores (serving_cost), and as many
clicks are appended to its broker for HELD_S. The slates are those that the bundle makes in process. About two
minutes, three more the first time.

Writes benchmarks/results/consumer_load.json.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from benchmarks.lib.serving_stack import RunningStack, started_stack
from benchmarks.lib.serving_world import world
from recsys.bundle import Bundle
from recsys.contracts import Event, Query, Slate
from recsys.errors import ServingError
from recsys.pipeline import recommend
from recsys.stages import load_stages
from serving.endpoints import read_endpoints
from serving.events.log_factory import open_writer
from serving.events.record import Record
from serving.processes import until

RATE, HELD_S, TICK_S = 2 * 184.0, 60.0, 0.25
K, SLATES, WRITTEN_S = 10, 1_000, 120.0
SINKS = ("states", "parquet")
STARTED_S = 5.0
STATES_S, PARQUET_S = 1.0, 15.0
"""goals: states are to be fresh; the Parquet waits 10 s for a batch, looks each second, and writes"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Slates that are shown again and again, to other users at other times."""

    shown: Sequence[tuple[Query, Slate]]

    def records(self, numbers: range) -> Iterator[Record]:
        """Yield an impression and a click on it for each number."""
        for number in numbers:
            query, slate = self.shown[number % len(self.shown)]
            now, name = time.time(), f"load-{number}"
            shown = replace(query, now=now, request_id=name)
            yield Record.impression(shown, replace(slate, request_id=name), "recommend")
            item = slate.items[number % len(slate.items)].item
            actions = {"rating": 5.0} if "rating" in query.history[0].actions else dict(query.history[0].actions)
            click = Event(user=query.user, item=item, timestamp=now, actions=actions, request_id=name)
            yield Record.feedback(f"click-{number}", click)


def load_of(serve: Path, queries: Sequence[Query]) -> Load:
    stages = load_stages(Bundle.open(serve / "current" / "bundle"))
    asked = [one for one in queries if one.history][:SLATES]
    slates = [one for begin in range(0, len(asked), 50) for one in recommend(asked[begin : begin + 50], stages)]
    return Load(shown=[pair for pair in zip(asked, slates, strict=True) if pair[1].items])


def written(stack: RunningStack) -> dict[str, float]:
    """Sink -> records that it has written."""
    text = httpx.get(stack.addresses["consumer"], timeout=5.0).text
    lines = [line.split() for line in text.splitlines() if line.startswith("recsys_consumer_folded{")]
    return {sink: float(value) for sink in SINKS for name, value in lines if f'sink="{sink}"' in name}


async def hold(stack: RunningStack, load: Load) -> tuple[list[dict[str, float]], int]:
    """Append at RATE for HELD_S; return the records sent and written, once a second, and all that were sent."""
    writer = open_writer(read_endpoints(stack.place.endpoints).broker)
    start, sent = time.perf_counter(), 0
    seen: list[dict[str, float]] = []
    try:
        while (passed := time.perf_counter() - start) < HELD_S:
            due = int(RATE * passed)
            await writer.append(list(load.records(range(sent, due))))
            sent = due
            if passed >= len(seen) + 1:
                seen.append({"second": len(seen) + 1, "sent": 2 * sent, **await asyncio.to_thread(written, stack)})
            await asyncio.sleep(TICK_S)
    finally:
        await writer.close()
    return seen, 2 * sent


def written_s(stack: RunningStack, num: float) -> float:
    """Wait until each sink has written so many records; the seconds that it took."""
    start = time.perf_counter()
    if not until(lambda: min(written(stack).values()) >= num, WRITTEN_S):
        raise ServingError(f"after {WRITTEN_S:g} s {written(stack)} of {num:,.0f} records are written")
    return time.perf_counter() - start


def cpu_s(stack: RunningStack) -> float:
    times = psutil.Process(stack.pids["consumer"]).cpu_times()
    return times.user + times.system


def main() -> None:
    start = time.perf_counter()
    made = world(K)
    load = load_of(made.serve, made.queries)
    with (
        tempfile.TemporaryDirectory() as scratch,
        started_stack(made.serve, Path(scratch), "--drift-minutes=0") as stack,
    ):
        before = cpu_s(stack)
        rows, sent = asyncio.run(hold(stack, load))
        behind_s = written_s(stack, sent)
        used = cpu_s(stack) - before
        console.print(
            f"{RATE:g} slates and as many clicks a second for {HELD_S:g} s: all are written {behind_s:.1f} s later"
        )
    late = max(one["sent"] - one["states"] for one in rows if one["second"] > STARTED_S) / (2 * RATE)
    figures = {
        "states_behind": Figure(value=round(late, 2), unit="s, most", goal=STATES_S, better="lower"),
        "parquet_behind": Figure(value=round(behind_s, 1), unit="s, at the end", goal=PARQUET_S, better="lower"),
        "cores_of_the_consumer": Figure(value=round(used / HELD_S, 3), unit="cores", goal=1.0, better="lower"),
        "records_a_cpu_second": Figure(value=round(sent / used), unit="records", goal=2 * RATE, better="higher"),
    }
    print_figures(figures)
    console.print(f"wrote {write_result('consumer_load', rows, figures, time.perf_counter() - start)}")


if __name__ == "__main__":
    main()
