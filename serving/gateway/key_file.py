"""Changes of the file of API keys: create, revoke, rotate. Running gateways follow within a second.

Commands exclude each other by a lock of their own beside the file; no server holds it.
"""

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError
from recsys.stores.atomic_files import write_atomically
from serving.gateway.api_keys import VERSION, ApiKey, PreviousToken, Scope, as_entry, hash_token, read_keys

PREFIX = "rk_"
"""of a token, by which scanners of source code find one that leaked"""
LOCK_FILE = "keys.lock"
LOCK_TIMEOUT_S, LOCK_POLL_S = 10.0, 0.02
OWNER_ONLY = 0o600

Keys = tuple[ApiKey, ...]


def create_key(
    path: Path,
    *,
    name: str,
    scopes: Sequence[Scope],
    rate: float,
    burst: int,
    expires: float | None = None,
    tenant: str | None = None,
    token_file: str | None = None,
    out: Path | None = None,
    now: Callable[[], float] = time.time,
) -> str:
    """Add a key to a file, created if absent; return the token, which is stored nowhere but in `token_file` and `out`.

    ConfigError where the name is taken. The other arguments are those of ApiKey.
    """
    token = _new_token()
    key = ApiKey(
        name=name,
        sha256=hash_token(token),
        scopes=tuple(dict.fromkeys(scopes)),
        rate=rate,
        burst=burst,
        tenant=tenant,
        created=now(),
        expires=expires,
        token_file=token_file,
    )
    with _locked(path):
        known = read_keys(path) if path.exists() else ()
        if any(one.name == name for one in known):
            raise ConfigError(f"{path} has a key {name!r} already; take another name, or revoke or rotate that one")
        _write_token(token, path, token_file, out)
        _write(path, (*known, key))
    return token


def revoke_key(path: Path, name: str) -> ApiKey:
    """Remove a key, with the file that holds its token; ConfigError for an unknown name."""
    with _locked(path):
        known = read_keys(path)
        key = _named(path, known, name)
        _write(path, tuple(one for one in known if one.name != name))
        if key.token_file is not None:
            (path.parent / key.token_file).unlink(missing_ok=True)
    return key


def rotate_key(
    path: Path, name: str, *, grace_s: float, out: Path | None = None, now: Callable[[], float] = time.time
) -> str:
    """Give a key a new token; the present one stays valid for `grace_s` seconds. ConfigError for an unknown name.

    out: file into which the token is written
    """
    token, time_s = _new_token(), now()
    with _locked(path):
        known = read_keys(path)
        key = _named(path, known, name)
        previous = (*key.previous, PreviousToken(sha256=key.sha256, until=time_s + grace_s))
        kept = tuple(one for one in previous if one.until > time_s)
        _write_token(token, path, key.token_file, out)
        changed = replace(key, sha256=hash_token(token), previous=kept)
        _write(path, tuple(changed if one is key else one for one in known))
    return token


def _write_token(token: str, path: Path, token_file: str | None, out: Path | None) -> None:
    """Write a token into files that only their owner can read, before the key is valid: no key is without its token."""
    for file in (None if token_file is None else path.parent / token_file, out):
        if file is not None:
            write_atomically(file, f"{token}\n".encode(), OWNER_ONLY)


def _new_token() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _named(path: Path, keys: Keys, name: str) -> ApiKey:
    for key in keys:
        if key.name == name:
            return key
    known = ", ".join(sorted(key.name for key in keys)) or "none"
    raise ConfigError(f"{path} has no key {name!r}; it has {known}")


def _write(path: Path, keys: Keys) -> None:
    """Replace the file atomically, readable by its owner only."""
    document: dict[str, Any] = {"version": VERSION, "keys": [as_entry(key) for key in keys]}
    write_atomically(path, json.dumps(document, indent=1).encode(), OWNER_ONLY)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the commands. ConfigError when another one holds it for too long."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.parent / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
    try:
        _wait_for(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_POLL_S)
    raise ConfigError(
        f"{path} is being changed by another command for {LOCK_TIMEOUT_S:g} s; end that one and try again"
    )
