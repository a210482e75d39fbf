"""The audit log of a rule store: one line a change, each with the sha256 of the line before it, and HEAD.

log.jsonl   only ever appended to; its last line is what serves
HEAD        number, sha256, version and text of that line: the log's end cannot be removed unseen, and a server has one
            small file to watch

A change is made when its line is whole on the disk. A crash after that and before HEAD moved is finished by whoever
opens the store next; a line that was cut off is a change that was never made, and is removed. HEAD lags by one line at
most, so anything else that does not fit was altered by other hands. Whoever rewrites every line and HEAD alike leaves
no trace here: keep a copy of HEAD elsewhere to see that too.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from recsys.errors import ConfigError
from recsys.policy.durable import append, cut, locked, write_whole

LOG, HEAD = "log.jsonl", "HEAD"
MEND = "restore the store from a copy"

Action = Literal["publish", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One line of the audit log: which rules came to serve, when, by whom and why."""

    number: int
    """1 is the first"""
    when: str
    """ISO 8601, UTC"""
    who: str
    why: str
    action: Action
    version: str
    """RuleSet.hash, what slates carry"""
    text: str
    """sha256 of the published text"""
    parent: str | None
    """the version that served before"""
    report: str | None
    """sha256 of the attached report"""
    previous: str | None
    """sha256 of the line before"""

    @property
    def sha256(self) -> str:
        return sha256(_canonical(asdict(self)))

    @property
    def line(self) -> bytes:
        return _canonical({**asdict(self), "sha256": self.sha256})


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What HEAD says of the last line."""

    number: int
    version: str
    text: str
    sha256: str

    @staticmethod
    def of(entry: Version) -> "Head":
        return Head(number=entry.number, version=entry.version, text=entry.text, sha256=entry.sha256)


class AuditLog:
    """The log of one folder. Writers hold the lock: `with log.locked(): log.settled(); log.append(...)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log, self._head = folder / LOG, folder / HEAD

    @property
    def used(self) -> bool:
        """Whether anything was ever published."""
        return self._head.exists() or self._log.exists()

    def stamp(self) -> tuple[int, ...] | None:
        """Differs after every change; None where nothing was published. One stat."""
        try:
            found = os.stat(self._head)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def head(self) -> Head | None:
        """ConfigError where HEAD is none."""
        if not self._head.exists():
            return None
        try:
            head = Head(**json.loads(self._head.read_bytes()))
        except (ValueError, TypeError):
            head = None
        if head is None or not isinstance(head.number, int):
            raise ConfigError(f"{self._head} was altered: it does not name an entry of {LOG}; {MEND}")
        return head

    def entries(self) -> tuple[Version, ...]:
        """All changes, oldest first. ConfigError names the first line that does not fit."""
        if not self.folder.is_dir():
            return ()
        head, entries, rest = self._read()
        if not rest and head == _head_of(entries):
            return entries
        with self.locked():
            return self.settled()

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes and threads from writing."""
        return locked(self.folder)

    def settled(self) -> tuple[Version, ...]:
        """The same as `entries`, after a change that a crash cut off was finished or removed; under the lock."""
        head, entries, rest = self._read()
        self._compare(head, entries)
        if rest:
            cut(self._log, self._log.stat().st_size - len(rest))
        if head != _head_of(entries):
            self._move_head(entries[-1])
        return entries

    def append(self, entry: Version) -> Version:
        """Under the lock, after `settled`; returns the entry when it is on the disk."""
        append(self._log, entry.line + b"\n")
        self._move_head(entry)
        return entry

    def _read(self) -> tuple[Head | None, tuple[Version, ...], bytes]:
        """HEAD first, so that without the lock the log can only be ahead of it; at the end a line that was cut off."""
        head = self.head()
        *lines, rest = (self._log.read_bytes() if self._log.exists() else b"").split(b"\n")
        return head, _chain(self._log, lines), rest

    def _compare(self, head: Head | None, entries: Sequence[Version]) -> None:
        known = head.number if head else 0
        if known > len(entries):
            raise ConfigError(f"{self._log} ends with entry {len(entries)}, {HEAD} names entry {known}; {MEND}")
        if head != _head_of(entries[:known]):
            raise ConfigError(f"{self._head} does not fit entry {known} of {LOG}; one of them was altered; {MEND}")
        if len(entries) > known + 1:
            raise ConfigError(f"{self._head} names entry {known}, {LOG} goes on to entry {len(entries)}; {MEND}")

    def _move_head(self, entry: Version) -> None:
        write_whole(self._head, _canonical(asdict(Head.of(entry))) + b"\n")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _head_of(entries: Sequence[Version]) -> Head | None:
    return Head.of(entries[-1]) if entries else None


def _chain(file: Path, lines: Sequence[bytes]) -> tuple[Version, ...]:
    entries: list[Version] = []
    for number, line in enumerate(lines, start=1):
        entry = _entry(f"{file}, line {number}", line)
        if entry.number != number:
            raise ConfigError(
                f"{file}, line {number} has the number {entry.number}: lines are missing or changed places; {MEND}"
            )
        if entry.previous != (entries[-1].sha256 if entries else None):
            raise ConfigError(f"{file}, line {number} does not follow the line before it; one was altered; {MEND}")
        entries.append(entry)
    return tuple(entries)


def _entry(place: str, line: bytes) -> Version:
    try:
        document = json.loads(line)
        del document["sha256"]
        entry = Version(**document)
        if entry.line == line:
            return entry
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{place} was altered: it is no entry; {MEND}") from None
    raise ConfigError(f"{place} was altered: its content does not have its sha256; {MEND}")
