"""API keys: a file of their hashes, scopes, rates, tenants and ends.

    {"version": 2,
     "keys": [{"name": "shop", "sha256": "9f…", "scopes": ["recommend", "events"], "rate": 200.0, "burst": 400,
               "tenant": null, "created": 1764489600.0, "expires": null, "previous": [], "token_file": null}]}

A token has 256 random bits, so a plain hash of it cannot be inverted; it is shown once, on creation.
"""

import hashlib
import hmac
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from recsys.errors import ConfigError, QueryError, check_ranges
from recsys.schema import ListOf, Text, schema_of
from serving.gateway.caller import TENANT, TENANT_RULE, Caller
from serving.gateway.http_error import HTTPError
from serving.gateway.token_bucket import TokenBucket

Scope = Literal["recommend", "events", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
VERSION = 2
"""of the file; version 1 had neither a version nor tenants, ends and previous tokens"""
MAX_TOKEN = 256
"""characters that are hashed; ours have 46"""
MAX_SECOND = 253_402_300_799.0
"""end of the year 9999"""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousToken:
    """Token that was replaced, and stays valid for a while."""

    sha256: str
    until: float
    """unix seconds"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One API key. ConfigError for an invalid field."""

    name: str
    sha256: str
    """of the token, in hex"""
    scopes: tuple[Scope, ...] = field(metadata={"value": ListOf(of=Text(), make=tuple)})
    rate: float
    """sustained requests a second"""
    burst: int
    """burst of requests"""
    tenant: str | None = None
    """the key sees and writes only users of this tenant"""
    created: float | None = None
    """unix seconds"""
    expires: float | None = None
    """unix seconds; None for never"""
    previous: tuple[PreviousToken, ...] = ()
    token_file: str | None = None
    """file beside the keys that holds the token; removing it revokes the key"""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(f"the key name {self.name!r} is not usable; write 1 to 32 of a-z, 0-9 and -")
        if not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in self.hashes):
            raise ConfigError(f"the key {self.name!r} has no sha256 in 64 hex digits; make it again")
        if not self.scopes or not set(self.scopes) <= set(SCOPES):
            raise ConfigError(
                f"the key {self.name!r} has the scopes {list(self.scopes)}; choose of {', '.join(SCOPES)}"
            )
        self._check_tenant()
        if self.token_file is not None and not _FILE_NAME.fullmatch(self.token_file):
            raise ConfigError(
                f"the key {self.name!r} has the token file {self.token_file!r}; name a file beside the keys"
            )
        times = {"created": self.created, "expires": self.expires}
        check_ranges(
            f"key {self.name}",
            rate=(self.rate, 1e-3, 1e6),
            burst=(self.burst, 1, 1_000_000),
            **{name: (value, 0.0, MAX_SECOND) for name, value in times.items() if value is not None},
        )

    @property
    def hashes(self) -> tuple[str, ...]:
        """Of the token and of those before it."""
        return self.sha256, *(one.sha256 for one in self.previous)

    def _check_tenant(self) -> None:
        if self.tenant is None:
            return
        if not TENANT.fullmatch(self.tenant):
            raise ConfigError(f"the key {self.name!r} has the tenant {self.tenant!r}; write {TENANT_RULE}")
        if "admin" in self.scopes:
            raise ConfigError(
                f"the key {self.name!r} of the tenant {self.tenant!r} has the scope admin, which changes items of all "
                "tenants; give admin to a key without a tenant"
            )


class Authorizer(Protocol):
    """Identifies callers. Called in the event loop: it waits for nothing."""

    def admit(self, authorization: str | None, scope: Scope) -> Caller:
        """Return the caller. HTTPError: 401 if it is not known, 403 beyond its scopes, 429 beyond its rate."""
        ...

    @property
    def warnings(self) -> Mapping[str, str]:
        """Part -> sentence, for parts that go on with an older version."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """Valid token of a key. until: unix seconds."""

    digest: bytes
    until: float
    key: ApiKey
    bucket: TokenBucket
    caller: Caller


class ApiKeys:
    """All keys with their token buckets. clock: monotonic, now: unix, both in seconds.

    before: the keys in use until now, whose callers go on with the tokens of their buckets
    """

    warnings: Mapping[str, str] = {}

    def __init__(
        self,
        keys: Iterable[ApiKey],
        *,
        clock: Callable[[], float],
        now: Callable[[], float] = time.time,
        before: "ApiKeys | None" = None,
    ) -> None:
        self._keys, self._now = tuple(keys), now
        names = [key.name for key in self._keys]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two keys are called {duplicates[0]!r}; give each a name of its own")
        if len({one for key in self._keys for one in key.hashes}) < sum(len(key.hashes) for key in self._keys):
            raise ConfigError("two keys have the same token; make one of them again")
        known: Mapping[str, TokenBucket] = {} if before is None else before._buckets
        self._buckets: Mapping[str, TokenBucket] = {
            key.name: _bucket(key, known.get(key.name), clock) for key in self._keys
        }
        self._tokens = {one.digest: one for key in self._keys for one in _tokens(key, self._buckets[key.name])}

    def __len__(self) -> int:
        return len(self._keys)

    def admit(self, authorization: str | None, scope: Scope) -> Caller:
        """Return the caller. HTTPError: 401 without a valid key, 403 beyond its scopes, 429 beyond its rate."""
        token = self._find(bearer_token(authorization))
        if token is None:
            raise HTTPError(401, "no known API key came; send the header 'Authorization: Bearer <key>'")
        if self._now() >= token.until:
            raise HTTPError(401, f"this API key ended on {utc_text(token.until)}; ask for a new one")
        if scope not in token.key.scopes:
            raise HTTPError(403, f"this API key may not do this; it needs the scope {scope!r}")
        if wait_s := token.bucket.wait():
            raise HTTPError(
                429, f"this API key sends more than {token.key.rate:g} requests a second", retry_after_s=wait_s
            )
        return token.caller

    def _find(self, token: str) -> _Token | None:
        """Look up a token by its hash, in a time that depends neither on the token nor on the number of keys.

        A caller cannot choose the hash of a token, so that the buckets of a dict reveal nothing of another token.
        """
        digest = _digest(token[:MAX_TOKEN])
        found = self._tokens.get(digest)
        same = hmac.compare_digest(NO_DIGEST if found is None else found.digest, digest)
        return found if same and len(token) <= MAX_TOKEN else None


NO_DIGEST = bytes(32)


def _bucket(key: ApiKey, before: TokenBucket | None, clock: Callable[[], float]) -> TokenBucket:
    if before is None:
        return TokenBucket(rate=key.rate, burst=key.burst, clock=clock)
    return before.limited(rate=key.rate, burst=key.burst)


def _tokens(key: ApiKey, bucket: TokenBucket) -> Iterator[_Token]:
    ends = {one.sha256: one.until for one in key.previous} | {key.sha256: math.inf}
    last = math.inf if key.expires is None else key.expires
    caller = Caller(name=key.name, tenant=key.tenant)
    for sha256, until in ends.items():
        digest = bytes.fromhex(sha256)
        yield _Token(digest=digest, until=min(until, last), key=key, bucket=bucket, caller=caller)


def bearer_token(authorization: str | None) -> str:
    """Token of the header, "" without one."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def utc_text(timestamp: float) -> str:
    """Time as it is printed, to the minute."""
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"


def hash_token(token: str) -> str:
    """sha256 of the token in hex."""
    return _digest(token).hex()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class DamagedKeys(ConfigError):
    """The file holds no keys: it is neither absent, nor closed to this account, nor of a later version."""


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read the file of keys, of this version or an earlier one; ConfigError if it cannot be read, DamagedKeys for no keys."""
    try:
        document = json.loads(path.read_bytes())
        version = document.get("version", 1) if isinstance(document, dict) else None
        if isinstance(version, int) and version > VERSION:
            raise ConfigError(
                f"{path} is of version {version}, this release reads the versions up to {VERSION}; serve by a later release"
            )
        if version not in range(1, VERSION + 1):
            raise ValueError("it has no version")
        return tuple(schema_of(ApiKey).parse(f"keys[{index}]", one) for index, one in enumerate(document["keys"]))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; make a key with `python -m serving keys create --name=shop --keys={path}`"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give it to the account that serves") from None
    except (ValueError, KeyError, TypeError, RecursionError, QueryError) as error:
        raise DamagedKeys(
            f"{path} is no file of API keys: {_reason(error)}; restore it from a copy, or remove it and make its keys again"
        ) from None


def token_file_missing(path: Path, key: ApiKey) -> bool:
    """Whether the file that holds the token of a key was removed, which revokes the key."""
    return key.token_file is not None and not (path.parent / key.token_file).exists()


def _reason(error: Exception) -> str:
    """Reason without the contents of the file, which an error of decoding would quote."""
    match error:
        case UnicodeDecodeError():
            return "it holds no UTF-8"
        case KeyError():
            return f"the field {error} is missing"
        case QueryError():
            return str(error).partition(";")[0]
        case _:
            return str(error)


def as_entry(key: ApiKey) -> dict[str, Any]:
    """Entry of a key in the file."""
    return schema_of(ApiKey).document(key)
