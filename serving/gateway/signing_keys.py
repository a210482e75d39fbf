"""Public keys of a token issuer (JWKS) from a file or a URL, read again in a background thread."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from recsys.errors import ConfigError
from recsys.stores.atomic_files import file_stamp
from recsys.stores.change_watcher import POLL_INTERVAL_S, ChangeWatcher, OncePerErrorLogger
from serving.gateway.jwt_settings import FAMILIES, JwtSettings

FETCH_TIMEOUT_S = 5.0
UNKNOWN_KEY_PAUSE_S = 10.0
"""least time between two fetches because of tokens of an unknown key, which anybody can send"""
STALE = "the keys of the token issuer cannot be read; those that were read last stay in use"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A public key, and the accepted algorithms that fit it."""

    key: Any
    algorithms: tuple[str, ...]


class SigningKeys:
    """Keys by id. ConfigError at the start for a file that holds none; a URL may answer later. clock: monotonic, seconds."""

    def __init__(
        self, settings: JwtSettings, *, clock: Callable[[], float] = time.monotonic, every_s: float = POLL_INTERVAL_S
    ) -> None:
        self._settings, self._clock = settings, clock
        self._requests, self._requested_at = 0, -UNKNOWN_KEY_PAUSE_S
        self._errors = OncePerErrorLogger(logger, "token issuer")
        self.keys: Mapping[str | None, SigningKey] = {}
        """replaced as a whole, so that its identity tells versions apart; empty until the keys are known"""
        self.stale = False
        self._watcher = ChangeWatcher(self._stamp, self._reload)
        if settings.url is None:
            self.keys = self._read()
        elif not self._reload():
            self._watcher.mark_failed()
        self._watcher.start_polling(every_s)

    def find(self, id: str | None) -> SigningKey | None:
        """Return the key of this id, the only one for a token without; an unknown id has the keys fetched soon."""
        keys = self.keys
        if id is None and len(keys) == 1:
            return next(iter(keys.values()))
        if id not in keys and self._clock() - self._requested_at >= UNKNOWN_KEY_PAUSE_S:
            self._requests, self._requested_at = self._requests + 1, self._clock()
        return keys.get(id)

    def _stamp(self) -> object:
        if self._settings.url is None:
            return file_stamp(Path(self._settings.jwks))
        return int(self._clock() / self._settings.refresh_s), self._requests

    def _reload(self) -> bool:
        try:
            found = self._read()
        except Exception as error:
            self._errors.log(error, "the keys that were read last stay in use" if self.keys else "no token is accepted")
            self.stale = True
            return False
        if found.keys() != self.keys.keys() or any(found[id] != self.keys[id] for id in found):
            self.keys = found
        self._errors.reset()
        self.stale = False
        return True

    def _read(self) -> Mapping[str | None, SigningKey]:
        """ConfigError without a usable key."""
        try:
            found = dict(self._usable(self._document()["keys"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, jwt.PyJWTError) as error:
            raise ConfigError(f"{self._settings.jwks} has no keys of a token issuer: {error}") from None
        if not found:
            accepted = ", ".join(self._settings.algorithms)
            raise ConfigError(f"{self._settings.jwks} has no public key for {accepted}; name others in jwt.algorithms")
        return found

    def _document(self) -> Any:
        if self._settings.url is None:
            return json.loads(Path(self._settings.jwks).read_bytes())
        return jwt.PyJWKClient(self._settings.url, cache_jwk_set=False, timeout=FETCH_TIMEOUT_S).fetch_data()

    def _usable(self, entries: Any) -> Iterator[tuple[str | None, SigningKey]]:
        """Public keys for signatures; others, such as secrets and keys for encryption, are left out."""
        for entry in entries:
            if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
                continue
            try:
                key = jwt.PyJWK(entry)
            except jwt.PyJWTError:
                continue
            if algorithms := self._fitting(entry, key):
                yield key.key_id, SigningKey(key=key.key, algorithms=algorithms)

    def _fitting(self, entry: Mapping[str, Any], key: jwt.PyJWK) -> tuple[str, ...]:
        """Accepted algorithms of a key: the one that it names or that its curve implies, else those of its type.

        Empty for a key that is too short, or whose id is no text.
        """
        if key.Algorithm.check_key_length(key.key) or not isinstance(key.key_id, str | None):
            return ()
        own = entry.get("alg") or (key.algorithm_name if key.key_type == "EC" else None)
        accepted = self._settings.algorithms
        return tuple(one for one in accepted if FAMILIES[one] == key.key_type and own in (None, one))
