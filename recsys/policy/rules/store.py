"""Store of published rules: every version with author, time and reason, and rollback.

    objects/<sha256 of the text>.yaml    the published text, comments included
    reports/<sha256>.json                report of the dry run, where one was attached
    signatures/<sha256 of the line>.sig  Ed25519 signature of HEAD with this line of the log, where it was signed
    log.jsonl, HEAD                      the audit log, see recsys.policy.rules.audit

A version is named by `RuleSet.hash`, which slates carry; the log maps it to the text. A unique prefix of a hash is enough.
The folder is created by the first publish. Where the environment names a public key (recsys.signatures), nothing unsigned is
published or served.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, ConflictError
from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import MEND, AuditLog, Head, RuleVersion, SignedHead, sha256
from recsys.policy.rules.rule_diff import RuleDiff, parts_of_rules
from recsys.signatures import read_signature, sign
from recsys.stores.atomic_files import write_atomically

OBJECTS, REPORTS, SIGNATURES = Path("objects"), Path("reports"), Path("signatures")
MAX_TEXT_BYTES = 1 << 20
MAX_LINE = 500
NUM_SHOWN = 3
"""number of changes that a conflict lists"""
IMMUTABLE = 0o444


class RuleStore:
    """Rule store in a folder, safe for concurrent processes. ConfigError for errors that an operator can correct.

    A store of other documents is a subclass with its own `subject`, `hash_of` and `parts_of`.
    """

    subject = "rule set"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"the store {self.folder} is a file; give a folder")
        self._log = AuditLog(self.folder)

    @staticmethod
    def hash_of(text: str) -> str:
        """Return the version that a text is; ConfigError for one that is no rule set."""
        return RuleSet.parse(text).hash

    @staticmethod
    def parts_of(text: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """Return what a text lists, by name, and its other keys."""
        return parts_of_rules(text)

    def _encoded(self, text: str) -> bytes:
        """Encode a text; ConfigError where it cannot be published."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"the {self.subject} has characters that UTF-8 does not know; remove them") from None
        if len(data) > MAX_TEXT_BYTES:
            raise ConfigError(
                f"the {self.subject} has {len(data):,} bytes; at most {MAX_TEXT_BYTES:,} can be published"
            )
        return data

    @property
    def has_history(self) -> bool:
        """Return whether any version was ever published."""
        return self._log.has_history

    def stamp(self) -> tuple[int, ...] | None:
        """Return a value that differs after every change, None where nothing was published. Costs one stat."""
        return self._log.stamp()

    def head(self) -> Head | None:
        """Return the current version from HEAD, without reading the log."""
        return self._log.head()

    def current(self) -> RuleVersion | None:
        """Return the last change, None where nothing was published."""
        entries = self._log.entries()
        return entries[-1] if entries else None

    def history(self) -> tuple[RuleVersion, ...]:
        """Return all changes, oldest first."""
        return self._log.entries()

    def read(self, version: str) -> str:
        """Return the text of a version as it was published."""
        return self.text(self._entry(version).text)

    def text(self, address: str) -> str:
        """Return the text with this sha256."""
        return self._get(OBJECTS / f"{address}.yaml", address).decode()

    def report(self, version: str) -> Any:
        """Return the report attached to a version, None without one."""
        address = self._entry(version).report
        return None if address is None else json.loads(self._get(REPORTS / f"{address}.json", address))

    def publish(
        self,
        text: str,
        *,
        who: str,
        why: str,
        expected: str | None = None,
        report: Mapping[str, Any] | None = None,
        key: Path | None = None,
    ) -> RuleVersion:
        """Publish a text as the current version.

        expected: the version that the editor started from, None for an empty store; ConflictError when another one
        serves now. report: what a dry run found, kept beside the text. key: file of the private key that signs it.
        """
        data = self._encoded(text)
        version = self.hash_of(text)
        _check_lines(who=who, why=why)
        with self._log.locked():
            entries = self._log.repaired_entries()
            self._check_expected(entries, expected)
            if entries and entries[-1].version == version:
                raise ConfigError(f"version {version} serves already: the text says the same; change it first")
            content = {"version": version, "text": self._put(data), "report": self._attach(report)}
            return self._append(_next(entries, action="publish", who=who, why=why, **content), key)

    def rollback(
        self, to: str | None = None, *, who: str, why: str, expected: str | None = None, key: Path | None = None
    ) -> RuleVersion:
        """Make an older version current again; the log keeps the undone changes.

        to: None for the one that the current version was published on, so that a second rollback goes further back.
        expected: where given, ConflictError when another version serves now. key: file of the private key that signs it.
        """
        _check_lines(who=who, why=why)
        with self._log.locked():
            entries = self._log.repaired_entries()
            if expected is not None:
                self._check_expected(entries, expected)
            target = _before(entries) if to is None else _found(entries, to)
            if target.version == entries[-1].version:
                raise ConfigError(f"version {target.version} serves already; history lists the others")
            self.text(target.text)
            content = {"version": target.version, "text": target.text, "report": target.report}
            return self._append(_next(entries, action="rollback", who=who, why=why, **content), key)

    def sign(self, key: Path) -> RuleVersion:
        """Sign the current version, which is not published again, and return it; what was altered is not signed."""
        entries = self._verified()
        if not entries:
            raise ConfigError(f"nothing was published in {self.folder}; publish a {self.subject} first")
        self._write_signature(Head.of(entries[-1]), key)
        return entries[-1]

    def signed(self, head: Head) -> SignedHead:
        """Return a version with its signature; ConfigError where a public key is configured that it is not by."""
        found = SignedHead(head=head, signature=read_signature(self._signature_file(head)))
        found.check()
        return found

    def diff(self, before: str, after: str) -> RuleDiff:
        """Return the difference between two versions."""
        old, new = self._entry(before), self._entry(after)
        return RuleDiff.between(self.text(old.text), self.text(new.text), (old.version, new.version), self.parts_of)

    def verify(self) -> tuple[RuleVersion, ...]:
        """Check log, HEAD, texts, reports and signature and return all changes; ConfigError names the first altered file."""
        entries = self._verified()
        if entries:
            self.signed(Head.of(entries[-1]))
        return entries

    def _verified(self) -> tuple[RuleVersion, ...]:
        if not self.folder.is_dir():
            return ()
        with self._log.locked():
            entries = self._log.repaired_entries()
            for entry in entries:
                self.text(entry.text)
                if entry.report is not None:
                    self._get(REPORTS / f"{entry.report}.json", entry.report)
        return entries

    def _append(self, entry: RuleVersion, key: Path | None) -> RuleVersion:
        """The signature first: a server that sees HEAD reads it."""
        if key is not None:
            self._write_signature(Head.of(entry), key)
        self.signed(Head.of(entry))
        return self._log.append(entry)

    def _write_signature(self, head: Head, key: Path) -> None:
        write_atomically(self._signature_file(head), sign(head.data, key))

    def _signature_file(self, head: Head) -> Path:
        return self.folder / SIGNATURES / f"{head.sha256}.sig"

    def _entry(self, version: str) -> RuleVersion:
        return _found(self._log.entries(), version)

    def _check_expected(self, entries: Sequence[RuleVersion], expected: str | None) -> None:
        current = entries[-1].version if entries else None
        if expected is not None:
            expected = _found(entries, expected).version
        if expected == current:
            return
        since = [number for number, entry in enumerate(entries, start=1) if entry.version == expected]
        raise ConflictError(_conflict(entries[since[-1] if since else 0 :], expected))

    def _put(self, data: bytes) -> str:
        address = sha256(data)
        write_atomically(self.folder / OBJECTS / f"{address}.yaml", data, IMMUTABLE)
        return address

    def _attach(self, report: Mapping[str, Any] | None) -> str | None:
        if report is None:
            return None
        try:
            data = json.dumps(report, sort_keys=True, indent=1, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the report cannot be kept as JSON: {error}; give plain values") from None
        write_atomically(self.folder / REPORTS / f"{sha256(data)}.json", data, IMMUTABLE)
        return sha256(data)

    def _get(self, name: Path, address: str) -> bytes:
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.folder / name} cannot be read: {error.strerror}; {MEND}") from None
        if (found := sha256(data)) != address:
            raise ConfigError(f"{self.folder / name} was altered: its sha256 is {found[:12]}…; {MEND}")
        return data


def _next(entries: Sequence[RuleVersion], *, who: str, why: str, **content: Any) -> RuleVersion:
    """Return the entry that follows the given ones."""
    last = entries[-1] if entries else None
    return RuleVersion(
        number=len(entries) + 1,
        when=datetime.now(UTC).isoformat(timespec="milliseconds"),
        who=who.strip(),
        why=why.strip(),
        parent=last.version if last else None,
        previous=last.sha256 if last else None,
        **content,
    )


def _check_lines(**values: str) -> None:
    for name, value in values.items():
        if not value.strip() or not value.isprintable() or len(value) > MAX_LINE:
            raise ConfigError(f"{name} is {value[:40]!r}; write one line of 1 to {MAX_LINE} characters")


def _found(entries: Sequence[RuleVersion], version: str) -> RuleVersion:
    """Return the last change that made a version current; `version` may be a prefix of its hash."""
    names = sorted({entry.version for entry in entries if version and entry.version.startswith(version)})
    if not names:
        known = "history lists what it holds" if entries else "nothing was published yet"
        raise ConfigError(f"the store holds no version {version!r}; {known}")
    if len(names) > 1 and version not in names:
        raise ConfigError(f"{version!r} is the beginning of the versions {' and '.join(names)}; give more of it")
    name = version if version in names else names[0]
    return next(entry for entry in reversed(entries) if entry.version == name)


def _before(entries: Sequence[RuleVersion]) -> RuleVersion:
    """Return the version that the current one was published on: a publish pushes on a stack, a rollback pops down to its
    target.
    """
    pile: list[str] = []
    for entry in entries:
        if entry.action == "rollback" and entry.version in pile:
            while pile[-1] != entry.version:
                pile.pop()
        else:
            pile.append(entry.version)
    if len(pile) < 2:
        found = f"{pile[0]} is the first version" if pile else "nothing was published yet"
        raise ConfigError(f"there is nothing to go back to: {found}; publish what shall serve")
    return _found(entries, pile[-2])


def _conflict(since: Sequence[RuleVersion], expected: str | None) -> str:
    changes = [f"{one.who} made {one.version} serve on {one.when} ({one.why})" for one in since[-NUM_SHOWN:]]
    started = f"you started from {expected}" if expected else "no version was named to start from"
    current = since[-1].version
    return f"{started}, but {'; '.join(changes)}; put your change into {current} and publish it --from {current}"
