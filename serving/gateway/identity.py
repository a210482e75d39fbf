"""What users are called behind the door: one setting for the event log, the state and Triton, so that training agrees."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from recsys.errors import ConfigError

KEY_BYTES = 32
LEAST_BYTES = 16
STORED_DIGITS = 32
LOGGED_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """HMAC-SHA256 of the id that came in, in UTF-8; what is logged is the beginning of what is stored.

    Raises ConfigError for a key of less than 16 bytes.
    """

    key: bytes = field(repr=False)
    store_raw: bool
    """whether event log, state and queries see the id as it came, or its hash"""

    def __post_init__(self) -> None:
        if len(self.key) < LEAST_BYTES:
            raise ConfigError(f"the key of the identities has {len(self.key)} bytes; give at least {LEAST_BYTES}")

    @staticmethod
    def from_file(path: Path, *, store_raw: bool) -> "Identity":
        """The key in `path`, hexadecimal; it is made when there is none, for its owner only (mode 0600).

        Another key makes everybody a stranger: keep the file with the event log, and give every gateway the same.
        ConfigError for a file that others may read or that holds no key.
        """
        path = Path(path)
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others than its owner; run `chmod 600 {path}`")
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii"))
        except ValueError:
            raise ConfigError(f"{path} holds no hexadecimal key; restore it, or remove it for a new one") from None
        return Identity(key=key, store_raw=store_raw)

    def stored(self, user: str) -> str:
        """What event log, state and Triton's queries call the user: the id, or 32 hex digits of its hash."""
        return user if self.store_raw else self._hash(user)[:STORED_DIGITS]

    def logged(self, user: str) -> str:
        """What logs, traces and metrics call the user of this raw id: 16 hex digits of its hash."""
        return self._hash(user)[:LOGGED_DIGITS]

    def _hash(self, user: str) -> str:
        return hmac.new(self.key, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _create(path: Path) -> None:
    """Whole or not at all; of two gateways that start at once both read the key of the first."""
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
