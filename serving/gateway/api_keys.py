"""API keys: a file of their hashes, scopes and rates.

    {"keys": [{"name": "shop", "sha256": "9f…", "scopes": ["recommend", "events"], "rate": 200.0, "burst": 400}]}

A token has 256 random bits, so a plain hash of it cannot be inverted; it is shown once, on creation.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from recsys.errors import ConfigError, check_ranges
from recsys.stores.atomic_files import locked, write_atomically
from serving.gateway.http_error import HTTPError

Scope = Literal["recommend", "events", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "rk_"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One API key. ConfigError for an invalid field."""

    name: str
    sha256: str
    """of the token, in hex"""
    scopes: tuple[Scope, ...]
    rate: float
    """sustained requests a second"""
    burst: int
    """burst of requests"""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(f"the key name {self.name!r} is not usable; write 1 to 32 of a-z, 0-9 and -")
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f"the key {self.name!r} has no sha256 in 64 hex digits; make it again")
        if not self.scopes or not set(self.scopes) <= set(SCOPES):
            raise ConfigError(
                f"the key {self.name!r} has the scopes {list(self.scopes)}; choose of {', '.join(SCOPES)}"
            )
        check_ranges(f"key {self.name}", rate=(self.rate, 1e-3, 1e6), burst=(self.burst, 1, 1_000_000))


class TokenBucket:
    """Token bucket: `rate` tokens a second, at most `burst`. clock: monotonic, in seconds."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._updated = float(burst), clock()

    def wait(self) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class ApiKeys:
    """All keys with their token buckets."""

    def __init__(self, keys: Iterable[ApiKey], *, clock: Callable[[], float]) -> None:
        self._keys = tuple(keys)
        names = [key.name for key in self._keys]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two keys are called {duplicates[0]!r}; give each a name of its own")
        self._buckets = {key.name: TokenBucket(rate=key.rate, burst=key.burst, clock=clock) for key in self._keys}

    def admit(self, authorization: str | None, scope: Scope) -> str:
        """Return the name of the key. HTTPError: 401 without a known key, 403 beyond its scopes, 429 beyond its rate."""
        key = self._find(authorization)
        if key is None:
            raise HTTPError(401, "no known API key came; send the header 'Authorization: Bearer <key>'")
        if scope not in key.scopes:
            raise HTTPError(403, f"this API key may not do this; it needs the scope {scope!r}")
        if wait_s := self._buckets[key.name].wait():
            raise HTTPError(429, f"this API key sends more than {key.rate:g} requests a second", retry_after_s=wait_s)
        return key.name

    def _find(self, authorization: str | None) -> ApiKey | None:
        """Compare every key in constant time, against timing attacks."""
        scheme, _, token = (authorization or "").partition(" ")
        digest = hash_token(token.strip())
        same = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return same[0] if same and scheme.lower() == "bearer" else None


def hash_token(token: str) -> str:
    """sha256 of the token in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read the file of keys; ConfigError if it is absent or invalid."""
    try:
        entries = json.loads(path.read_bytes())["keys"]
        return tuple(_key(entry) for entry in entries)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; make a first key") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no file of API keys: {error!r}; make its keys again") from None


def create_key(
    path: Path, *, name: str, scopes: Sequence[Scope], rate: float, burst: int, replace: bool = False
) -> str:
    """Add a key to a file, created if absent; return the token, which is stored nowhere.

    replace: replace a key of the same name, ConfigError otherwise
    """
    token = PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(name=name, sha256=hash_token(token), scopes=tuple(scopes), rate=rate, burst=burst)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path.parent):
        known = read_keys(path) if path.exists() else ()
        others = [one for one in known if one.name != name]
        if len(others) < len(known) and not replace:
            raise ConfigError(f"{path} has a key {name!r} already; take another name or remove it first")
        _write(path, {"keys": [asdict(one) for one in (*others, key)]})
    return token


def _key(entry: Any) -> ApiKey:
    return ApiKey(**{**entry, "scopes": tuple(entry["scopes"])})


def _write(path: Path, document: Any) -> None:
    """Replace the file atomically, readable by its owner only."""
    write_atomically(path, json.dumps(document, indent=1).encode(), 0o600)
