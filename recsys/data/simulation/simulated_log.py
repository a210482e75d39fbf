"""The Parquet event log that the consumer would have written for simulated visits, without gateway, broker and consumer.

Records are numbered in the order in which they arrive: an event some seconds after it happened, a few a day late, a few twice.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.simulation.faults import Faults
from recsys.data.simulation.shop import SURFACES, SimulatedShop
from recsys.data.simulation.visits import Reactions, Visits
from recsys.data.sources.event_log import ACTION, WORD
from recsys.data.sources.log_files import log_file_bytes
from recsys.data.sources.planted import DAY, SEGMENTS, names
from recsys.errors import check_ranges
from recsys.stores.atomic_files import atomic_file

FIRST = "recommend"
"""the tier that answers; in an outage that is `popular`"""
ARRIVAL_S = 5.0
"""mean time from an event to its record"""
SHOWN: tuple[str, ...] = (
    "id",
    "user",
    "timestamp",
    "item",
    "utility",
    "sources",
    "probabilities",
    "rank",
    "propensity",
)
SHOWN += (
    "explored",
    "adds",
    "because_of",
    "team",
    "position",
    "request_id",
    "bundle",
    "rules",
    "degraded",
    "rung",
    "query",
)
STALE_S = 2 * DAY
"""time that a history lacks where states are stale"""
EXPERIMENT = "shop"
"""name of the experiment that the arms of a shop are of"""


@dataclass(frozen=True, kw_only=True)
class SimulatedLog:
    """Settings of the log that visits are written to."""

    bundle: str = "simulated"
    rules: str = "none"
    named: float = 0.8
    """share of events that name their request"""
    late: float = 0.01
    """share of events that arrive a day later; `twice`: of those that arrive a second time"""
    twice: float = 0.01
    history: int = 20
    """newest clicked items in a query, at most"""
    files_per_day: int = 4
    """of each table"""

    def __post_init__(self) -> None:
        shares = {name: (getattr(self, name), 0.0, 1.0) for name in ("named", "late", "twice")}
        check_ranges("log", **shares, history=(self.history, 0, 1_000), files_per_day=(self.files_per_day, 1, 1_000))

    def write(
        self, folder: Path, shop: SimulatedShop, shown: Visits, done: Reactions, faults: Faults | None = None
    ) -> int:
        """Write the tables below a folder; return the number of rows."""
        rng, faults = shop.random(7), faults or Faults()
        feedback = self._feedback(shop, shown, done, rng)
        slates = pl.DataFrame({"number": np.arange(len(shown)), "arrived": shown.now + 0.5})
        sequence = pl.concat([slates["arrived"], feedback["arrived"]]).rank("ordinal").cast(pl.Int64)
        slates = slates.with_columns(sequence=sequence[: slates.height])
        feedback = feedback.with_columns(sequence=sequence[slates.height :])
        impressions = self._impressions(shop, shown, done, faults).join(slates, on="number", maintain_order="left")
        rows = 0
        for kind, table, columns in (("impressions", impressions, SHOWN), ("feedback", feedback, tuple(_EVENT))):
            rows += self._write(folder / kind, table, ("sequence", *columns))
        return rows

    def _write(self, folder: Path, table: pl.DataFrame, columns: tuple[str, ...]) -> int:
        """Write files by day of the record and by time of arrival; actions of an event follow its other columns."""
        actions = [name for name in table.columns if name.startswith((ACTION, WORD))]
        batch = (pl.col("arrived") / (DAY / self.files_per_day)).floor()
        days = table.sort("sequence").with_columns(day=(pl.col("timestamp") / DAY).floor(), batch=batch)
        for (day, _), part in days.partition_by("day", "batch", as_dict=True, maintain_order=True).items():
            name = f"{part['sequence'][0]}-{part['sequence'][-1]}.parquet"
            file = folder / f"day={datetime.fromtimestamp(float(day) * DAY, UTC):%Y-%m-%d}" / name
            with atomic_file(file) as draft:
                draft.write_bytes(log_file_bytes(part.select(*columns, *actions).rechunk(), file))
        return table.height

    def _impressions(self, shop: SimulatedShop, shown: Visits, done: Reactions, faults: Faults) -> pl.DataFrame:
        """A row an item, with the number of its request."""
        requests, slate = shown.items.shape
        number = np.repeat(np.arange(requests), slate)
        position = np.tile(np.arange(slate), requests)
        degraded = [["rung:popular"] if one else [] for one in shown.outage]
        of_request = pl.DataFrame(
            {
                "id": names("impression-", requests),
                "user": shop.user_names[shown.user],
                "timestamp": shown.now,
                "request_id": _requests(requests),
                "rung": np.where(shown.outage, "popular", FIRST).astype(object),
                "degraded": pl.Series(degraded, dtype=pl.List(pl.String)),
            }
        )
        queries = pl.Series(list(self._queries(shop, shown, done, faults)), dtype=pl.String)
        explored = (shown.rank > np.arange(slate)) & ~shown.outage[:, None]
        return of_request[number].with_columns(
            pl.Series("number", number),
            pl.Series("item", shop.item_names[shown.items.ravel()]),
            pl.Series("position", position),
            pl.Series("propensity", shown.propensity.ravel()),
            pl.Series("rank", shown.rank.ravel()),
            pl.Series("explored", explored.ravel()),
            pl.Series("utility", shown.click.ravel()),
            pl.lit([FIRST], pl.List(pl.String)).alias("sources"),
            pl.lit("{}").alias("probabilities"),
            pl.lit("{}").alias("adds"),
            pl.lit(None, pl.String).alias("because_of"),
            pl.lit(None, pl.String).alias("team"),
            pl.lit(self.bundle).alias("bundle"),
            pl.lit(self.rules).alias("rules"),
            query=pl.when(pl.lit(pl.Series(position == 0))).then(queries.gather(number)),
        )

    def _queries(self, shop: SimulatedShop, shown: Visits, done: Reactions, faults: Faults) -> Iterator[str]:
        """JSON of each request; the history are the clicks and purchases of its user until then."""
        rng, segments, arms, surfaces = shop.random(8), names("s", SEGMENTS), [*shop.arms], [*SURFACES]
        chosen = {name: faults.chosen(name, shown.now, rng) for name in ("missing", "renamed", "stale")}
        ages = faults.ages(shop.world.age[shown.user], shown.now)
        events: dict[int, list[tuple[float, str]]] = {}
        for row, user in enumerate(shown.user.tolist()):
            own, now = events.setdefault(user, []), shown.now[row]
            if self.history:
                newest = now - STALE_S if chosen["stale"][row] else now
                before = [text for at, text in own if at <= newest][-self.history :]
            else:
                before = []
            arm, surface = arms[shop.arm[user]], surfaces[shown.surface[row]]
            device = f"d{shown.device[row]}" + "-new" * bool(chosen["renamed"][row] and shown.device[row] == 1)
            context = f'"arm":{json.dumps(arm)}' + ("" if chosen["missing"][row] else f',"device":"{device}"')
            yield (
                f'{{"arms":{{"{EXPERIMENT}":{json.dumps(arm)}}},"context":{{{context}}},"exposure":{{}},"exclude":[],'
                f'"history":[{",".join(before)}],"impressions":{{}},"k":{shown.items.shape[1]},"now":{now},'
                f'"profile":{{"segment":"{segments[shop.world.segment[user]]}","age":{ages[row]:.4f}}},'
                f'"request_id":"{_request(row)}","surface":"{surface}","user":"{shop.user_names[user]}"}}'
            )
            own += self._events_of(shop, shown, done, row)
            own.sort()

    @staticmethod
    def _events_of(shop: SimulatedShop, shown: Visits, done: Reactions, row: int) -> Iterator[tuple[float, str]]:
        """Time and JSON of what comes of one slate."""
        for kind, happened, when in (("click", done.clicked, done.clicked_at), ("buy", done.bought, done.bought_at)):
            for column in np.flatnonzero(happened[row]):
                at, item = round(float(when[row, column]), 3), shop.item_names[shown.items[row, column]]
                yield at, f'{{"item":"{item}","timestamp":{at},"actions":{{"kind":"{kind}"}}}}'

    def _feedback(self, shop: SimulatedShop, shown: Visits, done: Reactions, rng: np.random.Generator) -> pl.DataFrame:
        """A row an event, copies included, with the time of its arrival."""
        clicks = _events(shop, shown, done.clicked, done.clicked_at, "click")
        bought = np.nonzero(done.bought)
        purchases = _events(shop, shown, done.bought, done.bought_at, "buy").with_columns(
            pl.Series(f"{ACTION}amount", shop.world.price[shown.items[bought]]),
            named=pl.Series(rng.random(len(bought[0]))),
        )
        watched = clicks.with_columns(
            pl.Series(f"{ACTION}seconds", done.watched_s[done.clicked]), named=pl.Series(rng.random(clicks.height))
        )
        events = pl.concat([watched, purchases], how="diagonal").with_row_index("event")
        wait = rng.exponential(ARRIVAL_S, events.height) + DAY * (rng.random(events.height) < self.late)
        named = pl.col("named") < self.named
        events = events.with_columns(
            id=pl.format("{}-{}", "kind", "event"),
            arrived=pl.col("timestamp") + pl.Series(wait),
            request_id=pl.when(named).then("request_id"),
            position=pl.when(named).then("position"),
        ).rename({"kind": f"{WORD}kind"})
        again = events.filter(pl.Series(rng.random(events.height) < self.twice))
        return pl.concat([events, again.with_columns(pl.col("arrived") + 60.0)]).with_columns(
            *(pl.lit(None, dtype).alias(name) for name, dtype in _EVENT.items() if name not in events.columns)
        )


_EVENT = {"id": pl.String, "user": pl.String, "timestamp": pl.Float64, "item": pl.String, "context": pl.String}
_EVENT |= {
    "request_id": pl.String,
    "position": pl.Int64,
    "propensity": pl.Float64,
    "bundle": pl.String,
    "rules": pl.String,
}
"""columns of feedback beside sequence and actions"""


def _events(shop: SimulatedShop, shown: Visits, happened: np.ndarray, at: np.ndarray, kind: str) -> pl.DataFrame:
    """A row each time that something happened [R, S]."""
    row, column = np.nonzero(happened)
    return pl.DataFrame(
        {
            "user": shop.user_names[shown.user[row]],
            "item": shop.item_names[shown.items[row, column]],
            "timestamp": np.round(at[row, column], 3),
            "kind": pl.repeat(kind, len(row), eager=True),
            "context": pl.repeat("{}", len(row), eager=True),
            "request_id": _requests(len(shown))[row],
            "position": column,
        }
    )


def _request(row: int) -> str:
    return f"request-{row}"


def _requests(count: int) -> np.ndarray:
    return np.array([_request(row) for row in range(count)], dtype=object)
