"""Keyed hashes of user ids, and the file of their key."""

import hashlib
import hmac
from pathlib import Path

from recsys.errors import ConfigError

IDENTITY = "identity.key"
"""file of the key, in the folder of a deployment"""
STORED_DIGITS = 32


def user_hash(key: bytes, user: str) -> str:
    """Return HMAC-SHA256 of the UTF-8 user id, 64 hex digits."""
    return hmac.digest(key, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()


def pseudonym(key: bytes, user: str) -> str:
    """Return the id that stands for a user behind a gateway with hashed ids, 32 hex digits."""
    return user_hash(key, user)[:STORED_DIGITS]


def read_identity(path: Path) -> bytes:
    """Read the hexadecimal key; ConfigError for a file that is absent, that others can read or that holds no key."""
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); restore the key of the user ids") from None
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others than its owner; run `chmod 600 {path}`")
    try:
        return bytes.fromhex(data.decode("ascii"))
    except ValueError:
        raise ConfigError(f"{path} holds no hexadecimal key; restore it, or remove it for a new one") from None
