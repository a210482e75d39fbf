"""Changes of items between trainings: who changed what when, in one order for every process that reads them.

    log.jsonl        one line a change, numbered from 1; appended to, and begun anew when it has grown
    snapshot.jsonl   the number up to which changes were put together, then one line an item in order of appearance
    .lock            held by whoever writes

A change is made when its line is whole and on the disk. A line that a crash cut off is a change that was never made:
readers leave it out and the next writer removes it. The folder is made with the first change.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataError
from recsys.items.schema import ItemSchema
from recsys.stores.atomic_files import Stamp, append, file_stamp, locked, truncate, write_atomically

LOG, SNAPSHOT = "log.jsonl", "snapshot.jsonl"
GROWN_BYTES = 4 << 20
"""a log of so many bytes, and of more than the snapshot, becomes part of the snapshot"""
BEGINNING_BYTES = 32
MAX_TEXT = 500
MAX_LINE_BYTES = 1 << 20
MEND = "restore the folder from a copy"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Requested change of one item, known or new."""

    item: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    """column -> its value from now on, None for missing; columns that are not named stay as they are"""
    withdrawn: bool | None = None
    """True takes the item out of retrieval and rules, False brings it back, None leaves that as it is"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of the log."""

    number: int
    """1 is the first of the store"""
    item: str
    columns: Mapping[str, Any]
    withdrawn: bool | None
    when: str
    """ISO 8601, UTC"""
    who: str

    @property
    def line(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def after(self, before: "Change | None") -> "Change":
        """Both in one, `before` being the older of the same item or None."""
        if before is None:
            return self
        withdrawn = before.withdrawn if self.withdrawn is None else self.withdrawn
        return replace(self, columns={**before.columns, **self.columns}, withdrawn=withdrawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Position of a reader."""

    number: int = 0
    """of the last change that was read"""
    beginning: bytes = b""
    """of the log that was read, which holds the number of its first change and so tells it from a later one"""
    offset: int = 0
    """bytes of that log that were read"""


class ItemStore:
    """A folder as above, for any number of processes. ConfigError for a file that cannot be read."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"the item store {self.folder} is a file; give a folder")
        self._log, self._snapshot = self.folder / LOG, self.folder / SNAPSHOT

    def stamp(self) -> Stamp | None:
        """Differs after every change; None where nothing was changed. One stat."""
        return file_stamp(self._log)

    def put(self, schema: ItemSchema, edits: Sequence[Edit], *, who: str) -> tuple[Change, ...]:
        """Write changes, all or none of them; they are on the disk when this returns.

        DataError for an item or a column that does not fit the schema, before anything is written.
        """
        for edit in edits:
            _check(schema, edit)
        _check_text("who", who)
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        with locked(self.folder):
            first = self._settled() + 1
            changes = tuple(_numbered(edit, number, when, who) for number, edit in enumerate(edits, first))
            append(self._log, b"".join(map(_line, changes)))
            self._compact_if_grown()
        return changes

    def read(self, since: Position) -> tuple[list[Change], Position]:
        """Return the changes behind a position, oldest first, and the position after them.

        Changes that were put together meanwhile come as one an item; to apply what was applied before changes nothing.
        """
        lines, here, rest = self._lines(since)
        if rest:
            with locked(self.folder):
                lines, here, rest = self._lines(since)
            if rest:
                logger.warning("items: the last line of %s was cut off; it is left out", self._log)
        changes = [_change(self._log, line) for line in lines]
        gone_on = here.offset > 0 and here.beginning == since.beginning
        earlier, reached = ([], since.number) if gone_on else self._put_together(since.number, changes)
        fresh = [change for change in changes if change.number > reached]
        _check_numbers(self._log, fresh, reached)
        last = fresh[-1].number if fresh else reached
        return [*earlier, *fresh], replace(here, number=last)

    def history(self, item: str | None = None) -> list[Change]:
        """All changes that are still told apart, oldest first, of one item or of all; those before as one an item."""
        return [change for change in self.read(Position())[0] if item in (None, change.item)]

    def mirror(self, changes: Sequence[Change], since: int, number: int) -> bool:
        """Take over what another store holds from one number up to another, without what is known already.

        False where this store does not reach to `since`.
        """
        with locked(self.folder):
            reached = self._settled()
            fresh = [change for change in changes if change.number > reached]
            if since > reached:
                return False
            if [change.number for change in fresh] == [*range(reached + 1, number + 1)]:
                append(self._log, b"".join(change.line for change in fresh))
                self._compact_if_grown()
            elif fresh:
                self._write_snapshot([*self.read(Position())[0], *fresh], number)
        return True

    def replace_all(self, changes: Sequence[Change], number: int) -> None:
        """Hold these changes, which reach to a number, in the place of all others, damaged ones included."""
        with locked(self.folder):
            self._write_snapshot(changes, number)

    def compact(self) -> None:
        """Put all changes of an item together into one; readers need not know."""
        with locked(self.folder):
            self._settled()
            self._compact()

    def _lines(self, since: Position) -> tuple[list[bytes], Position, bytes]:
        """Whole lines that were not read, where the log is read up to them, and a line that was cut off."""
        try:
            with self._log.open("rb") as stream:
                beginning = stream.read(BEGINNING_BYTES)
                start = since.offset if beginning == since.beginning else 0
                stream.seek(start)
                data = stream.read()
        except FileNotFoundError:
            return [], Position(), b""
        whole, newline, rest = data.rpartition(b"\n")
        here = Position(beginning=beginning, offset=start + len(whole) + len(newline))
        return whole.split(b"\n") if whole else [], here, rest

    def _put_together(self, known: int, changes: Sequence[Change]) -> tuple[list[Change], int]:
        """Changes of the snapshot, where the log begins later than a reader needs, and the number reached by them."""
        if changes and changes[0].number <= known + 1 and changes[-1].number >= known:
            return [], known
        if (reached := self._snapshot_number()) < known:
            raise ConfigError(f"{self.folder} lost changes that were read before; {MEND}, or start the reader anew")
        if reached == known:
            return [], known
        _, *lines = self._snapshot.read_bytes().splitlines()
        return [_change(self._snapshot, line) for line in lines], reached

    def _snapshot_number(self) -> int:
        try:
            with self._snapshot.open("rb") as stream:
                return int(json.loads(stream.readline())["number"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{self._snapshot} was altered: it does not begin with a number; {MEND}") from None

    def _settled(self) -> int:
        """Number of the last change, after a line that was cut off was removed; under the lock."""
        data = self._log.read_bytes() if self._log.exists() else b""
        whole, _, rest = data.rpartition(b"\n")
        if rest:
            truncate(self._log, len(data) - len(rest))
        if not whole:
            return self._snapshot_number()
        return _change(self._log, whole.rpartition(b"\n")[2]).number

    def _compact_if_grown(self) -> None:
        size = self._snapshot.stat().st_size if self._snapshot.exists() else 0
        if self._log.stat().st_size > max(GROWN_BYTES, size):
            self._compact()

    def _compact(self) -> None:
        changes, position = self.read(Position())
        self._write_snapshot(changes, position.number)

    def _write_snapshot(self, changes: Sequence[Change], number: int) -> None:
        """The snapshot first: a log whose changes are in it already is read as if it were empty."""
        together: dict[str, Change] = {}
        for change in changes:
            together[change.item] = change.after(together.get(change.item))
        head = json.dumps({"number": number}).encode() + b"\n"
        write_atomically(self._snapshot, head + b"".join(change.line for change in together.values()))
        write_atomically(self._log, b"")


def _numbered(edit: Edit, number: int, when: str, who: str) -> Change:
    columns = dict(edit.columns)
    return Change(number=number, item=edit.item, columns=columns, withdrawn=edit.withdrawn, when=when, who=who)


def _check(schema: ItemSchema, edit: Edit) -> None:
    _check_text("the item id", edit.item)
    if edit.withdrawn is not None and not isinstance(edit.withdrawn, bool):
        raise DataError(f"item {edit.item!r}: withdrawn is {edit.withdrawn!r}; give true or false")
    schema.check(edit.item, edit.columns)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > MAX_TEXT:
        raise DataError(f"{name} is {str(value)[:40]!r}; give one line of 1 to {MAX_TEXT} characters")


def _line(change: Change) -> bytes:
    try:
        line = change.line
    except UnicodeEncodeError:
        raise DataError(f"item {change.item!r} has characters that UTF-8 does not know; remove them") from None
    if len(line) > MAX_LINE_BYTES:
        raise DataError(f"item {change.item!r} has {len(line):,} bytes; at most {MAX_LINE_BYTES:,} are kept")
    return line


def _change(file: Path, line: bytes) -> Change:
    try:
        change = Change(**json.loads(line))
        if isinstance(change.number, int) and isinstance(change.item, str) and isinstance(change.columns, dict):
            return change
    except (ValueError, TypeError):
        pass
    raise ConfigError(f"{file} was altered: {line[:60]!r} is no change; {MEND}")


def _check_numbers(file: Path, changes: Sequence[Change], before: int) -> None:
    for number, change in enumerate(changes, before + 1):
        if change.number != number:
            raise ConfigError(f"{file}: change {change.number} stands where {number} should; lines are missing; {MEND}")
