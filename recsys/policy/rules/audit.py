"""Hash-chained audit log of a rule store: one line per change with the sha256 of the line before, and HEAD.

log.jsonl   append-only; its last line is the current version
HEAD        number, sha256, version and text of that line: the log's end cannot be removed unseen, and a server has one
            small file to watch

A change is committed when its line is complete on the disk. A crash between that and the move of HEAD is repaired when
the store is opened next; a partial line is a change that was never committed, and is removed. HEAD lags by one line at
most, so any other mismatch is tampering. Rewriting every line and HEAD consistently leaves no trace here: keep a copy of
HEAD elsewhere, or sign it (RuleStore.sign), to detect that too.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from recsys.errors import ConfigError
from recsys.signatures import signature_fault
from recsys.stores.atomic_files import Stamp, append, file_stamp, locked, truncate, write_atomically

LOG, HEAD = "log.jsonl", "HEAD"
MEND = "restore the store from a copy"

Action = Literal["publish", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleVersion:
    """One line of the audit log: a version that became current, with time, author and reason."""

    number: int
    """1 is the first"""
    when: str
    """ISO 8601, UTC"""
    who: str
    why: str
    action: Action
    version: str
    """RuleSet.hash, as in slates"""
    text: str
    """sha256 of the published text"""
    parent: str | None
    """version that was current before"""
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
    """Content of HEAD, a summary of the last line."""

    number: int
    version: str
    text: str
    sha256: str

    @property
    def data(self) -> bytes:
        """Content of the file, which a signature covers: by the chain of hashes also every line before."""
        return _canonical(asdict(self)) + b"\n"

    @staticmethod
    def of(entry: RuleVersion) -> "Head":
        return Head(number=entry.number, version=entry.version, text=entry.text, sha256=entry.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """HEAD of a version with its signature, where it has one."""

    head: Head
    signature: bytes | None

    def check(self) -> None:
        """ConfigError where a public key is configured and the signature is not by it."""
        fault = signature_fault(self.head.data, self.signature, f"version {self.head.version} of the rules")
        if fault:
            raise ConfigError(f"{fault}; publish with --key, or sign what serves by `python -m recsys rules sign`")


class AuditLog:
    """Audit log of one folder. Writers hold the lock: `with log.locked(): log.repaired_entries(); log.append(...)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log, self._head = folder / LOG, folder / HEAD

    @property
    def has_history(self) -> bool:
        """Return whether any version was ever published."""
        return self._head.exists() or self._log.exists()

    def stamp(self) -> Stamp | None:
        """Return a value that differs after every change, None where nothing was published. Costs one stat."""
        return file_stamp(self._head)

    def head(self) -> Head | None:
        """Return HEAD, None where nothing was published; ConfigError where its content is malformed."""
        if not self._head.exists():
            return None
        try:
            head = Head(**json.loads(self._head.read_bytes()))
        except (ValueError, TypeError):
            head = None
        if head is None or not isinstance(head.number, int):
            raise ConfigError(f"{self._head} was altered: it does not name an entry of {LOG}; {MEND}")
        return head

    def entries(self) -> tuple[RuleVersion, ...]:
        """Return all changes, oldest first. ConfigError names the first line that breaks the chain."""
        if not self.folder.is_dir():
            return ()
        head, entries, rest = self._read()
        if not rest and head == _head_of(entries):
            return entries
        with self.locked():
            return self.repaired_entries()

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock against other writers, in processes and threads."""
        return locked(self.folder)

    def repaired_entries(self) -> tuple[RuleVersion, ...]:
        """Return `entries` after a change that a crash interrupted was completed or removed; needs the lock."""
        head, entries, rest = self._read()
        self._compare(head, entries)
        if rest:
            truncate(self._log, self._log.stat().st_size - len(rest))
        if head != _head_of(entries):
            self._move_head(entries[-1])
        return entries

    def append(self, entry: RuleVersion) -> RuleVersion:
        """Append an entry and return it when it is on the disk; needs the lock, after `repaired_entries`."""
        append(self._log, entry.line + b"\n")
        self._move_head(entry)
        return entry

    def _read(self) -> tuple[Head | None, tuple[RuleVersion, ...], bytes]:
        """Return HEAD, entries and a partial last line. HEAD is read first: without the lock the log can then only be ahead."""
        head = self.head()
        *lines, rest = (self._log.read_bytes() if self._log.exists() else b"").split(b"\n")
        return head, _chain(self._log, lines), rest

    def _compare(self, head: Head | None, entries: Sequence[RuleVersion]) -> None:
        known = head.number if head else 0
        if known > len(entries):
            raise ConfigError(f"{self._log} ends with entry {len(entries)}, {HEAD} names entry {known}; {MEND}")
        if head != _head_of(entries[:known]):
            raise ConfigError(f"{self._head} does not fit entry {known} of {LOG}; one of them was altered; {MEND}")
        if len(entries) > known + 1:
            raise ConfigError(f"{self._head} names entry {known}, {LOG} goes on to entry {len(entries)}; {MEND}")

    def _move_head(self, entry: RuleVersion) -> None:
        write_atomically(self._head, Head.of(entry).data)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _head_of(entries: Sequence[RuleVersion]) -> Head | None:
    return Head.of(entries[-1]) if entries else None


def _chain(file: Path, lines: Sequence[bytes]) -> tuple[RuleVersion, ...]:
    entries: list[RuleVersion] = []
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


def _entry(location: str, line: bytes) -> RuleVersion:
    try:
        document = json.loads(line)
        del document["sha256"]
        entry = RuleVersion(**document)
        if entry.line == line:
            return entry
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{location} was altered: it is no entry; {MEND}") from None
    raise ConfigError(f"{location} was altered: its content does not have its sha256; {MEND}")
