"""API keys: a file of their hashes, what each may do, and how often.

    {"keys": [{"name": "shop", "sha256": "9f…", "scopes": ["recommend", "events"], "rate": 200.0, "burst": 400}]}

A token is 256 random bits, so that a plain hash of it cannot be guessed back; it is shown once, when it is made.
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
from serving.gateway.refusals import Refusal

Scope = Literal["recommend", "events", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "rk_"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One caller. ConfigError for what no key can be."""

    name: str
    sha256: str
    """of the token, in hex"""
    scopes: tuple[Scope, ...]
    rate: float
    """requests a second in the long run"""
    burst: int
    """requests at once after a rest"""

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


class Bucket:
    """A token bucket: `rate` a second, at most `burst` saved up. clock: seconds, rising."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._saved, self._at = float(burst), clock()

    def wait(self) -> float:
        """Take one: 0 when there was one, else the seconds until there will be."""
        now = self._clock()
        self._saved = min(self._burst, self._saved + (now - self._at) * self._rate)
        self._at = now
        if self._saved < 1:
            return (1 - self._saved) / self._rate
        self._saved -= 1
        return 0.0


class Keyring:
    """All keys, and how much each has left."""

    def __init__(self, keys: Iterable[Key], *, clock: Callable[[], float]) -> None:
        self._keys = tuple(keys)
        names = [key.name for key in self._keys]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two keys are called {twice[0]!r}; give each a name of its own")
        self._buckets = {key.name: Bucket(rate=key.rate, burst=key.burst, clock=clock) for key in self._keys}

    def admit(self, authorization: str | None, scope: Scope) -> str:
        """Name of the key that asks. Refusal: 401 without a known key, 403 beyond its scopes, 429 beyond its rate."""
        key = self._find(authorization)
        if key is None:
            raise Refusal(401, "no known API key came; send the header 'Authorization: Bearer <key>'")
        if scope not in key.scopes:
            raise Refusal(403, f"this API key may not do this; it needs the scope {scope!r}")
        if wait_s := self._buckets[key.name].wait():
            raise Refusal(429, f"this API key sends more than {key.rate:g} requests a second", retry_after_s=wait_s)
        return key.name

    def _find(self, authorization: str | None) -> Key | None:
        """Every key is compared, in constant time each, so that nothing can be told from how long it took."""
        scheme, _, token = (authorization or "").partition(" ")
        digest = hash_token(token.strip())
        same = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return same[0] if same and scheme.lower() == "bearer" else None


def hash_token(token: str) -> str:
    """sha256 in hex; of whatever bytes came."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """ConfigError for a file that is absent or not as above."""
    try:
        entries = json.loads(path.read_bytes())["keys"]
        return tuple(_key(entry) for entry in entries)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; make a first key") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no file of API keys: {error!r}; make its keys again") from None


def create_key(path: Path, *, name: str, scopes: Sequence[Scope], rate: float, burst: int, anew: bool = False) -> str:
    """Add a key to a file, which is made where there is none; returns the token, which is kept nowhere.

    anew: it may take the place of a key of that name, which is refused otherwise
    """
    token = PREFIX + secrets.token_urlsafe(32)
    key = Key(name=name, sha256=hash_token(token), scopes=tuple(scopes), rate=rate, burst=burst)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path.parent):
        known = read_keys(path) if path.exists() else ()
        others = [one for one in known if one.name != name]
        if len(others) < len(known) and not anew:
            raise ConfigError(f"{path} has a key {name!r} already; take another name or remove it first")
        _write(path, {"keys": [asdict(one) for one in (*others, key)]})
    return token


def _key(entry: Any) -> Key:
    return Key(**{**entry, "scopes": tuple(entry["scopes"])})


def _write(path: Path, document: Any) -> None:
    """Replace the file atomically, readable by its owner only."""
    write_atomically(path, json.dumps(document, indent=1).encode(), 0o600)
