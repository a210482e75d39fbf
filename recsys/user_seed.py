"""Users of the training data in a bundle, from which serving fills its user states.

user_seed.arrow     a row a user:
    user, events                                        id and number of events
    history.item, history.timestamp, history.action.<name>, history.context.<name>
                                                        lists: the newest events that reach an objective, oldest first
    memory.item, memory.count, memory.last              lists: what is older than the history, as in recsys/features/memory.py
    seen.item, seen.last, seen.reached.<objective>      lists: every item, by the second of its last event, then by id
    profile.<name>                                      columns of the users table that the models read
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.contracts import Event
from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, TIMESTAMP, USER
from recsys.features.memory import MAX_ITEMS, Memory
from recsys.features.spec import FeatureSpec

USER_SEED = "user_seed.arrow"
MAX_SEEN = 100_000
"""items kept of a user, those with the newest events"""
MAX_SECOND = 2**53
"""seconds; JSON keeps integers exact up to here"""
NEVER = -(2**62)
"""time of an objective that was not reached"""
EVENTS, SECOND = "events", "second"
SEEN = ("seen.item", "seen.last")
ACTION, CONTEXT = "history.action.", "history.context."
REACHED, PROFILE = "seen.reached.", "profile."
MEMORY = ("memory.item", "memory.count", "memory.last")

Lists = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class SeededUser:
    """One user, M seen items."""

    user: str
    history: tuple[Event, ...]
    memory: Memory
    """of what is older than the history"""
    seen: tuple[str, ...]
    """[M]"""
    last: np.ndarray
    """[M] int64, unix seconds, rising"""
    reached: Mapping[str, np.ndarray]
    """objective -> [M] int64, NEVER where it was not reached; without objectives that no item reached"""
    profile: Mapping[str, Any]


def user_seed(dataset: Dataset, spec: FeatureSpec) -> pl.DataFrame:
    """[U] rows as above, of all users and all events of a data set, which is in canonical order."""
    reached = pl.DataFrame(dataset.labels() > 0, schema=[f"{REACHED}{name}" for name in spec.objectives])
    log = dataset.interactions.hstack(reached.get_columns())
    profile = [pl.col(column.name).alias(f"{PROFILE}{column.name}") for column in spec.profile.columns]
    users = dataset.users.select(USER, *profile)
    mattered = log.filter(pl.any_horizontal(pl.col(f"{REACHED}{name}") for name in spec.objectives))
    tables = [_histories(mattered, spec), _memories(mattered, spec), _seen(log, reached.columns)]
    for table in (log.group_by(USER).agg(pl.len().alias(EVENTS)), *tables):
        users = users.join(table, on=USER, how="left", maintain_order="left")
    return users.with_columns(pl.col(EVENTS).fill_null(0))


def _histories(mattered: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """The newest events of each user, of those that reach an objective, in canonical order."""
    names = {name: f"{ACTION}{name}" for name in spec.actions}
    names |= {column.name: f"{CONTEXT}{column.name}" for column in spec.context.columns}
    names |= {ITEM: f"history.{ITEM}", TIMESTAMP: f"history.{TIMESTAMP}"}
    newest = (pl.col(name).tail(spec.history_length).alias(alias) for name, alias in names.items())
    return mattered.group_by(USER, maintain_order=True).agg(*newest)


def _memories(mattered: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Items of the events before those of `_histories`: how many each has, and when the last one was."""
    behind = pl.int_range(pl.len()).over(USER) < pl.len().over(USER).cast(pl.Int64) - spec.history_length
    count, last = pl.col(TIMESTAMP).n_unique().cast(pl.Float64), pl.col(TIMESTAMP).max()
    items = mattered.filter(behind).group_by(USER, ITEM).agg(count.alias("count"), last).sort(TIMESTAMP, ITEM)
    newest = pl.all().tail(MAX_ITEMS)
    names = dict(zip((ITEM, "count", TIMESTAMP), MEMORY, strict=True))
    return items.group_by(USER, maintain_order=True).agg(newest).rename(names)


def _seen(log: pl.DataFrame, reached: Sequence[str]) -> pl.DataFrame:
    """Every item of each user, by its last event."""
    second = pl.col(TIMESTAMP).clip(-MAX_SECOND, MAX_SECOND).floor().cast(pl.Int64).alias(SECOND)
    times = (pl.col(SECOND).filter(pl.col(name)).max().alias(name) for name in reached)
    items = log.with_columns(second).group_by(USER, ITEM).agg(pl.col(SECOND).max(), *times).sort(SECOND, ITEM)
    return (
        items.group_by(USER, maintain_order=True)
        .agg(pl.all().tail(MAX_SEEN))
        .rename(dict(zip((ITEM, SECOND), SEEN, strict=True)))
    )


def read_users(file: Path, batch: int) -> Iterator[list[SeededUser]]:
    """Read all users of the file, `batch` at a time."""
    for part in pl.read_ipc(file).iter_slices(batch):
        yield _users(part)


class SeededUsers:
    """Users of the file by a key, one at a time: the file stays on the disk, 16 bytes a user are held."""

    def __init__(self, file: Path, key: Callable[[str], str]) -> None:
        """key: function of a user id by which users are looked up, e.g. a keyed hash"""
        self._table, self._key = pl.read_ipc(file), key
        digests = np.fromiter((_digest(key(user)) for user in self._table[USER]), np.uint64, len(self._table))
        self._rows = np.argsort(digests, kind="stable")
        self._digests = digests[self._rows]

    def get(self, key: str) -> SeededUser | None:
        digest = np.uint64(_digest(key))
        first, end = (int(np.searchsorted(self._digests, digest, side=side)) for side in ("left", "right"))
        for row in self._rows[first:end].tolist():
            (user,) = _users(self._table[row : row + 1])
            if self._key(user.user) == key:
                return user
        return None


def _digest(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())


def most_active_user(file: Path, num_items: int) -> str | None:
    """User with the most events among those who saw at most half of the items, else among all; None without events."""
    users = pl.read_ipc(file, columns=[USER, EVENTS, SEEN[0]]).filter(pl.col(EVENTS) > 0)
    usual = users.filter(pl.col(SEEN[0]).list.len() <= num_items / 2)
    found = (usual if usual.height else users).sort([-pl.col(EVENTS).cast(pl.Int64), USER]).head(1)
    return found[USER][0] if found.height else None


def _users(part: pl.DataFrame) -> list[SeededUser]:
    columns = {name: part[name].to_list() for name in part.columns}
    actions, contexts, reached, profiles = (_named(columns, prefix) for prefix in (ACTION, CONTEXT, REACHED, PROFILE))
    return [
        SeededUser(
            user=user,
            history=_history(user, items or (), timestamps or (), _row(actions, row), _row(contexts, row)),
            memory=_memory(*(columns[name][row] if name in columns else None for name in MEMORY)),
            seen=tuple(seen or ()),
            last=np.array(last or (), dtype=np.int64),
            reached=_reached(_row(reached, row)),
            profile=_row(profiles, row),
        )
        for row, (user, items, timestamps, seen, last) in enumerate(
            zip(*(columns[name] for name in (USER, f"history.{ITEM}", f"history.{TIMESTAMP}", *SEEN)), strict=True)
        )
    ]


def _memory(items: list[str] | None, counts: list[float] | None, last: list[float] | None) -> Memory:
    """Build a memory of three lists; None, also of files before there was one, is none."""
    return dict(zip(items or (), zip(counts or (), last or (), strict=True), strict=True))


def _history(
    user: str, items: Sequence[str], timestamps: Sequence[float], actions: Lists, contexts: Lists
) -> tuple[Event, ...]:
    return tuple(
        Event(user=user, item=item, timestamp=timestamp, actions=_row(actions, row), context=_row(contexts, row))
        for row, (item, timestamp) in enumerate(zip(items, timestamps, strict=True))
    )


def _reached(seconds: Lists) -> dict[str, np.ndarray]:
    return {
        name: np.array([NEVER if one is None else one for one in values], dtype=np.int64)
        for name, values in seconds.items()
        if any(one is not None for one in values)
    }


def _row(columns: Lists, row: int) -> dict[str, Any]:
    """One row of these columns, without nulls."""
    return {name: values[row] for name, values in columns.items() if values[row] is not None}


def _named(columns: Lists, prefix: str) -> Lists:
    return {name.removeprefix(prefix): values for name, values in columns.items() if name.startswith(prefix)}
