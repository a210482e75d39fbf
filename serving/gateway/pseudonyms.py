"""User pseudonyms: one setting for event log, state store and Triton, so that training sees the same ids."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from recsys.data.pseudonyms import pseudonym, read_identity, user_hash
from recsys.errors import ConfigError

KEY_BYTES = 32
MIN_KEY_BYTES = 16
LOGGED_DIGITS = 16


class Pseudonyms(Protocol):
    """User ids as seen outside of the caller's own requests and answers."""

    def stored(self, user: str) -> str:
        """Id in the event log, the state store and the models' queries."""
        ...

    def logged(self, user: str) -> str:
        """Id in logs and traces: a keyed hash."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPseudonyms:
    """HMAC-SHA256 of the UTF-8 user id; the logged pseudonym is a prefix of the stored one.

    Raises ConfigError for a key of less than 16 bytes.
    """

    key: bytes = field(repr=False)
    store_raw: bool
    """whether event log, state and queries hold the raw id or its hash"""

    def __post_init__(self) -> None:
        if len(self.key) < MIN_KEY_BYTES:
            raise ConfigError(f"the key of the identities has {len(self.key)} bytes; give at least {MIN_KEY_BYTES}")

    @staticmethod
    def from_file(path: Path, *, store_raw: bool) -> "UserPseudonyms":
        """Read the hexadecimal key in `path`, created with mode 0600 if absent.

        Another key makes every user unknown: keep the file with the event log and give every gateway the same.
        ConfigError for a file that others can read or that holds no key.
        """
        path = Path(path)
        if not path.exists():
            _create(path)
        return UserPseudonyms(key=read_identity(path), store_raw=store_raw)

    def stored(self, user: str) -> str:
        """Id in event log, state and Triton queries: raw, or 32 hex digits of its hash."""
        return user if self.store_raw else pseudonym(self.key, user)

    def logged(self, user: str) -> str:
        """Pseudonym of a raw id in logs, traces and metrics: 16 hex digits of its hash."""
        return user_hash(self.key, user)[:LOGGED_DIGITS]


def _create(path: Path) -> None:
    """Create atomically: of two gateways starting at once both read the key of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
