"""Forgotten users: a list of keyed hashes by which replays, seeds and later trainings leave them out.

    live/identity.key             key of the hashes
    live/forgotten/users.json     {"schema": 1, "users": {"<hash>": <unix seconds>}, "open": {"<hash>": ["states", ...]}}

The list holds no user id, not even a pseudonym of the event log. A record is dropped when its time is not after that of its
user's entry, so a user who comes back starts anew. `open` names the parts of a deployment that have not removed the user yet.
"""

import hashlib
import hmac
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import TIMESTAMP, USER
from recsys.data.pseudonyms import IDENTITY, pseudonym, read_identity
from recsys.errors import DataError
from recsys.stores.atomic_files import Stamp, file_stamp, locked, write_atomically

FORGOTTEN, FILE = "forgotten", "users.json"
SCHEMA = 1
DIGITS = 32
DOMAIN = b"forgotten\0"
"""separates the hashes of the list from the pseudonyms of the event log"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenUsers:
    """One version of the list."""

    key: bytes = field(repr=False)
    times: Mapping[str, float] = field(default_factory=dict)
    """hash -> unix seconds of the forgetting"""
    open: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """hash -> parts that have not removed the user yet"""

    def __len__(self) -> int:
        return len(self.times)

    def hashes(self, user: str) -> tuple[str, ...]:
        """Return the hashes of every form of a user's id.

        The forms are the id itself, its pseudonym, and the pseudonym of that: a seed of pseudonyms is hashed a second time.
        """
        stored = pseudonym(self.key, user)
        return tuple(map(self._hash, (user, stored, pseudonym(self.key, stored))))

    def time_of(self, user: str) -> float | None:
        """Time of the forgetting in unix seconds, for any form of the id; None for a user who is not forgotten."""
        found = [self.times[one] for one in self._known(user, self.times)]
        return max(found, default=None)

    def drops(self, user: str, timestamp: float) -> bool:
        """Whether data of this user and time (unix seconds) is to be left out."""
        time = self.time_of(user)
        return time is not None and timestamp <= time

    def is_open(self, user: str, *parts: str) -> bool:
        """Whether one of these parts may still hold data of a forgotten user."""
        return any(set(parts) & set(self.open[one]) for one in self._known(user, self.open))

    def open_in(self, part: str) -> "ForgottenUsers":
        """Return the users whom this part has not removed yet."""
        open = {one: parts for one, parts in self.open.items() if part in parts}
        return replace(self, times={one: self.times[one] for one in open}, open=open)

    def keeps(self, table: pl.DataFrame, *, timed: bool) -> pl.Series:
        """Return [R] bool, the rows of columns user and timestamp to keep; timed: False where timestamps are no seconds."""
        users = table[USER].unique().drop_nulls()
        times = {user: time for user in users if (time := self.time_of(user)) is not None} if self.times else {}
        if not times:
            return pl.repeat(True, table.height, eager=True)
        until = table[USER].replace_strict(list(times), list(times.values()), default=None, return_dtype=pl.Float64)
        return until.is_null() | (table[TIMESTAMP] > until).fill_null(False) if timed else until.is_null()

    def _known(self, user: str, among: Collection[str]) -> list[str]:
        if not among:
            return []
        forms = (user, pseudonym(self.key, user))
        return [one for form in forms if (one := self._hash(form)) in among]

    def _hash(self, form: str) -> str:
        return hmac.digest(self.key, DOMAIN + form.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:DIGITS]


NOBODY = ForgottenUsers(key=b"")


class ForgottenList:
    """The list in a folder, shared by processes: a change by one is seen by the next call of another.

    DataError for a damaged file that this process has not read before; later ones are logged and the last version stays.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self.file = Path(folder) / FILE
        self._key = key
        self._stamp: Stamp | None = None
        self._current = ForgottenUsers(key=key)
        self._read_once = False
        self.current()

    def current(self) -> ForgottenUsers:
        """Return the current version, at the cost of one stat where nothing changed."""
        stamp = self._look()
        if stamp != self._stamp:
            try:
                self._current = self._read()
            except DataError as error:
                if not self._read_once:
                    raise
                logger.error("%s; the last version stays", error)
            self._stamp = stamp
        self._read_once = True
        return self._current

    def _look(self) -> Stamp | None:
        """Stamp of the file; that of the last version where it is away, so that nobody comes back with a lost file."""
        try:
            return file_stamp(self.file) or self._stamp
        except OSError:
            return self._stamp

    def add(self, users: Iterable[str], time: float, parts: Collection[str]) -> None:
        """Forget users as of this time (unix seconds), durably; every part opens for them."""

        def added(before: ForgottenUsers) -> ForgottenUsers:
            hashes = [one for user in users for one in before.hashes(user)]
            times = {one: max(time, before.times.get(one, time)) for one in hashes}
            return replace(
                before,
                times={**before.times, **times},
                open={**before.open, **dict.fromkeys(hashes, tuple(sorted(parts)))},
            )

        self._change(added)

    def close(self, part: str, done: ForgottenUsers) -> None:
        """Note that a part has removed these users; an entry that was renewed since stays open."""

        def closed(before: ForgottenUsers) -> ForgottenUsers:
            same = {one for one in done.open if before.times.get(one) == done.times[one]}
            left = {
                one: tuple(name for name in parts if one not in same or name != part)
                for one, parts in before.open.items()
            }
            return replace(before, open={one: parts for one, parts in left.items() if parts})

        self._change(closed)

    def _change(self, change: Any) -> None:
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.file.parent):
            after = change(self._read() if self.file.exists() else self._current)
            document = {"schema": SCHEMA, "users": dict(after.times), "open": dict(after.open)}
            write_atomically(self.file, json.dumps(document, indent=1).encode(), 0o600)

    def _read(self) -> ForgottenUsers:
        if not self.file.exists():
            return ForgottenUsers(key=self._key)
        try:
            document = json.loads(self.file.read_bytes())
            if document["schema"] != SCHEMA:
                raise DataError(f"{self.file} has schema {document['schema']!r}, this version reads {SCHEMA}")
            times = {str(one): float(time) for one, time in document["users"].items()}
            open = {str(one): tuple(parts) for one, parts in document["open"].items() if one in times}
            return ForgottenUsers(key=self._key, times=times, open=open)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.file} cannot be read as the list of forgotten users ({error!r}); restore it"
            ) from None


def read_forgotten(folder: Path) -> ForgottenUsers:
    """Read the list in a folder `forgotten` for a training, with the key beside that folder; ConfigError without the key."""
    if not (folder / FILE).exists():
        raise DataError(f"{folder / FILE} does not exist; name the folder `forgotten` of a deployment, or leave it out")
    return ForgottenList(folder, read_identity(folder.parent / IDENTITY)).current()


def without_forgotten(dataset: Dataset, forgotten: ForgottenUsers) -> Dataset:
    """Return the data set without the forgotten users; of one who came back only the later events are left, no profile."""
    kept = forgotten.keeps(dataset.interactions, timed=dataset.description.clock)
    interactions = dataset.interactions.filter(kept)
    gone = pl.Series([forgotten.time_of(user) is not None for user in dataset.users[USER]], dtype=pl.Boolean)
    if not gone.any():
        return dataset
    returned = dataset.users[USER].is_in(interactions[USER].unique().implode())
    blank = (pl.when(gone).then(None).otherwise(pl.col(name)).alias(name) for name in dataset.users.columns[1:])
    note = f"forgotten users that were left out: {int((gone & ~returned).sum())}, of their events {int((~kept).sum())}"
    return replace(
        dataset,
        interactions=interactions,
        users=dataset.users.with_columns(*blank).filter(~gone | returned),
        notes=(*dataset.notes, note),
    )
