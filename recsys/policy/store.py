"""Published rules: every version kept, who published it when and why, and the way back.

    objects/<sha256 of the text>.yaml    what a person wrote, comments and all
    reports/<sha256>.json                what the dry run said of it, where one was attached
    log.jsonl, HEAD                      the audit log, see recsys.policy.audit

A version is named by the hash that slates carry, `RuleSet.hash`; the log says which text that was. The beginning of a
hash is enough where only one version has it. The folder is made with the first publish.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, ConflictError
from recsys.policy.audit import MEND, AuditLog, Head, Version, sha256
from recsys.policy.difference import Difference
from recsys.policy.durable import write_whole
from recsys.policy.rules import RuleSet

OBJECTS, REPORTS = Path("objects"), Path("reports")
MAX_TEXT_BYTES = 1 << 20
MAX_LINE = 500
NUM_SHOWN = 3
"""changes that a conflict names"""
IMMUTABLE = 0o444


class RuleStore:
    """A folder as above, for any number of processes. ConfigError for what a person can mend."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"the rule store {self.folder} is a file; give a folder")
        self._log = AuditLog(self.folder)

    @property
    def used(self) -> bool:
        """Whether anything was ever published."""
        return self._log.used

    def stamp(self) -> tuple[int, ...] | None:
        """Differs after every change; None where nothing was published. One stat."""
        return self._log.stamp()

    def head(self) -> Head | None:
        """What serves now, without a look at the log."""
        return self._log.head()

    def current(self) -> Version | None:
        """The last change, None where nothing was published."""
        entries = self._log.entries()
        return entries[-1] if entries else None

    def history(self) -> tuple[Version, ...]:
        """All changes, oldest first."""
        return self._log.entries()

    def read(self, version: str) -> str:
        """The text of a version as its publisher wrote it."""
        return self.text(self._entry(version).text)

    def text(self, address: str) -> str:
        """The text with this sha256."""
        return self._get(OBJECTS / f"{address}.yaml", address).decode()

    def report(self, version: str) -> Any:
        """The report that was attached to a version, None where there was none."""
        address = self._entry(version).report
        return None if address is None else json.loads(self._get(REPORTS / f"{address}.json", address))

    def publish(
        self, text: str, *, who: str, why: str, expected: str | None = None, report: Mapping[str, Any] | None = None
    ) -> Version:
        """Make a text the current version.

        expected: the version that the editor started from, None for an empty store; ConflictError when another one
        serves now. report: what a dry run found, kept beside the text.
        """
        version, data = _checked(text)
        _check_lines(who=who, why=why)
        with self._log.locked():
            entries = self._log.settled()
            self._check_expected(entries, expected)
            if entries and entries[-1].version == version:
                raise ConfigError(f"version {version} serves already: the text has the same rules; change a rule first")
            content = {"version": version, "text": self._put(data), "report": self._attach(report)}
            return self._log.append(_next(entries, action="publish", who=who, why=why, **content))

    def rollback(self, to: str | None = None, *, who: str, why: str, expected: str | None = None) -> Version:
        """Let an older version serve again; the log keeps what was undone.

        to: None for the one that the current version was published on, so that a second rollback goes further back.
        expected: where given, ConflictError when another version serves now.
        """
        _check_lines(who=who, why=why)
        with self._log.locked():
            entries = self._log.settled()
            if expected is not None:
                self._check_expected(entries, expected)
            target = _before(entries) if to is None else _found(entries, to)
            if target.version == entries[-1].version:
                raise ConfigError(f"version {target.version} serves already; history lists the others")
            self.text(target.text)
            content = {"version": target.version, "text": target.text, "report": target.report}
            return self._log.append(_next(entries, action="rollback", who=who, why=why, **content))

    def diff(self, before: str, after: str) -> Difference:
        """From one version to another."""
        old, new = self._entry(before), self._entry(after)
        return Difference.between(self.text(old.text), self.text(new.text), (old.version, new.version))

    def verify(self) -> tuple[Version, ...]:
        """All changes, after log, HEAD, texts and reports were compared; ConfigError names the first that was altered."""
        if not self.folder.is_dir():
            return ()
        with self._log.locked():
            entries = self._log.settled()
            for entry in entries:
                self.text(entry.text)
                if entry.report is not None:
                    self._get(REPORTS / f"{entry.report}.json", entry.report)
        return entries

    def _entry(self, version: str) -> Version:
        return _found(self._log.entries(), version)

    def _check_expected(self, entries: Sequence[Version], expected: str | None) -> None:
        current = entries[-1].version if entries else None
        if expected is not None:
            expected = _found(entries, expected).version
        if expected == current:
            return
        since = [place for place, entry in enumerate(entries, start=1) if entry.version == expected]
        raise ConflictError(_conflict(entries[since[-1] if since else 0 :], expected))

    def _put(self, data: bytes) -> str:
        address = sha256(data)
        write_whole(self.folder / OBJECTS / f"{address}.yaml", data, IMMUTABLE)
        return address

    def _attach(self, report: Mapping[str, Any] | None) -> str | None:
        if report is None:
            return None
        try:
            data = json.dumps(report, sort_keys=True, indent=1, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the report cannot be kept as JSON: {error}; give plain values") from None
        write_whole(self.folder / REPORTS / f"{sha256(data)}.json", data, IMMUTABLE)
        return sha256(data)

    def _get(self, name: Path, address: str) -> bytes:
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.folder / name} cannot be read: {error.strerror}; {MEND}") from None
        if (found := sha256(data)) != address:
            raise ConfigError(f"{self.folder / name} was altered: its sha256 is {found[:12]}…; {MEND}")
        return data


def _next(entries: Sequence[Version], *, who: str, why: str, **content: Any) -> Version:
    """The line that follows the entries."""
    last = entries[-1] if entries else None
    return Version(
        number=len(entries) + 1,
        when=datetime.now(UTC).isoformat(timespec="milliseconds"),
        who=who.strip(),
        why=why.strip(),
        parent=last.version if last else None,
        previous=last.sha256 if last else None,
        **content,
    )


def _checked(text: str) -> tuple[str, bytes]:
    """Hash of the rules, and the text as it is kept."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise ConfigError("the rule set has characters that UTF-8 does not know; remove them") from None
    if len(data) > MAX_TEXT_BYTES:
        raise ConfigError(f"the rule set has {len(data):,} bytes; at most {MAX_TEXT_BYTES:,} can be published")
    return RuleSet.parse(text).hash, data


def _check_lines(**values: str) -> None:
    for name, value in values.items():
        if not value.strip() or not value.isprintable() or len(value) > MAX_LINE:
            raise ConfigError(f"{name} is {value[:40]!r}; write one line of 1 to {MAX_LINE} characters")


def _found(entries: Sequence[Version], version: str) -> Version:
    """The last change that made a version serve; `version` may be the beginning of its hash."""
    names = sorted({entry.version for entry in entries if version and entry.version.startswith(version)})
    if not names:
        known = "history lists what it holds" if entries else "nothing was published yet"
        raise ConfigError(f"the rule store holds no version {version!r}; {known}")
    if len(names) > 1 and version not in names:
        raise ConfigError(f"{version!r} is the beginning of the versions {' and '.join(names)}; give more of it")
    wanted = version if version in names else names[0]
    return next(entry for entry in reversed(entries) if entry.version == wanted)


def _before(entries: Sequence[Version]) -> Version:
    """What the current version was published on: publishes pile up, a rollback takes off what lies on its target."""
    pile: list[str] = []
    for entry in entries:
        if entry.action == "rollback" and entry.version in pile:
            while pile[-1] != entry.version:
                pile.pop()
        else:
            pile.append(entry.version)
    if len(pile) < 2:
        found = f"{pile[0]} is the first version" if pile else "nothing was published yet"
        raise ConfigError(f"there is nothing to go back to: {found}; publish the rules that shall serve")
    return _found(entries, pile[-2])


def _conflict(since: Sequence[Version], expected: str | None) -> str:
    changes = [f"{one.who} made {one.version} serve on {one.when} ({one.why})" for one in since[-NUM_SHOWN:]]
    started = f"you started from {expected}" if expected else "no version was named to start from"
    current = since[-1].version
    return f"{started}, but {'; '.join(changes)}; put your change into {current} and publish it --from {current}"
