"""A running gateway follows the file of its keys, whatever becomes of the file."""

import asyncio
import fcntl
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.events.folder_lock import lock_folder
from serving.gateway.container import Dependencies
from serving.gateway.http_error import HTTPError
from serving.gateway.key_file import LOCK_FILE, create_key, revoke_key, rotate_key
from serving.gateway.reloaded_keys import STALE, ReloadedKeys
from serving.processes import until

PATIENCE_S = 30.0
POLL_S = 0.01


def made(path: Path, name: str, **more: Any) -> str:
    return create_key(path, name=name, scopes=["recommend"], burst=3, rate=0.001, **more)


def reloaded(path: Path) -> ReloadedKeys:
    return ReloadedKeys(path, clock=lambda: 0.0, every_s=POLL_S)


def status_of(keys: ReloadedKeys, token: str) -> int:
    try:
        keys.admit(f"Bearer {token}", "recommend")
    except HTTPError as refusal:
        return refusal.status
    return 200


def becomes(true: Callable[[], bool]) -> bool:
    return until(true, PATIENCE_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "live" / "keys.json"


def test_a_new_key_works_and_a_revoked_one_does_not_without_a_restart(path: Path) -> None:
    first = made(path, "first")
    keys = reloaded(path)
    second = made(path, "second")
    assert becomes(lambda: len(keys) == 2)
    assert [status_of(keys, one) for one in (first, second)] == [200, 200]
    revoke_key(path, "first")
    assert becomes(lambda: len(keys) == 1)
    assert [status_of(keys, one) for one in (first, second)] == [401, 200]


def test_a_rotated_key_works_with_both_tokens(path: Path) -> None:
    old = made(path, "shop")
    keys = reloaded(path)
    new = rotate_key(path, "shop", grace_s=3_600.0)
    assert becomes(lambda: status_of(keys, new) == 200)
    assert status_of(keys, old) == 200


def test_removing_the_file_of_a_token_revokes_its_key(path: Path) -> None:
    token = made(path, "first", token_file="first.key")
    keys = reloaded(path)
    assert status_of(keys, token) == 200
    (path.parent / "first.key").unlink()
    assert becomes(lambda: len(keys) == 0)
    assert status_of(keys, token) == 401


def test_the_buckets_of_unchanged_keys_keep_their_fill(path: Path) -> None:
    token = made(path, "busy")
    keys = reloaded(path)
    assert [status_of(keys, token) for _ in range(4)] == [200, 200, 200, 429]
    made(path, "other")
    assert becomes(lambda: len(keys) == 2)
    assert status_of(keys, token) == 429


def replaced(path: Path, data: bytes) -> None:
    """In one step, so that the gateway sees no other state between."""
    draft = path.with_name("draft")
    draft.write_bytes(data)
    draft.replace(path)


def a_folder(path: Path) -> None:
    link = path.with_name("draft")
    link.symlink_to(path.parent)
    link.replace(path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "torn": lambda path: replaced(path, path.read_bytes()[:40]),
    "empty": lambda path: replaced(path, b""),
    "missing": lambda path: path.unlink(),
    "a folder": a_folder,
    "of other bytes": lambda path: replaced(path, b"\xff\xfe"),
    "too deep": lambda path: replaced(path, b"[" * 200_000),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_leaves_the_last_keys_in_use(
    damage: Callable[[Path], Any], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = made(path, "shop")
    sound = path.read_bytes()
    keys = reloaded(path)
    assert keys.warnings == {}
    with caplog.at_level(logging.ERROR):
        damage(path)
        assert becomes(lambda: keys.stale)
        keys._reload()  # the retries of a minute at once
        keys._reload()
    assert status_of(keys, token) == 200
    assert keys.warnings == {"keys": STALE}
    (line,) = (one for one in caplog.records if str(path) in one.getMessage())
    assert line.getMessage().startswith(f"API keys: {path} ")
    assert line.getMessage().endswith("; the keys that were read last stay in use")
    assert line.exc_info is None
    replaced(path, sound)
    assert becomes(lambda: not keys.stale)
    assert keys.warnings == {}
    assert status_of(keys, token) == 200


def test_commands_wait_for_no_lock_of_the_stack(path: Path) -> None:
    path.parent.mkdir()
    descriptor = lock_folder(path.parent)  # as a running stack holds it
    try:
        token = made(path, "shop")
        rotate_key(path, "shop", grace_s=0.0)
        revoke_key(path, "shop")
    finally:
        os.close(descriptor)
    assert token.startswith("rk_")


def test_requests_wait_for_no_lock_of_the_commands(path: Path) -> None:
    token = made(path, "shop")
    with (path.parent / LOCK_FILE).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        keys = reloaded(path)
        assert status_of(keys, token) == 200
        command = threading.Thread(target=made, args=(path, "other"))
        command.start()
        replaced(path, path.read_bytes().replace(b'"shop"', b'"renamed"'))
        assert becomes(lambda: _name(keys, token) == "renamed")
    command.join()
    assert becomes(lambda: len(keys) == 2)


def _name(keys: ReloadedKeys, token: str) -> str:
    try:
        return keys.admit(f"Bearer {token}", "recommend").name
    except HTTPError:
        return ""


def test_a_gateway_follows_its_keys_and_readyz_says_when_it_cannot(
    parts: Dependencies, during: Any, path: Path
) -> None:
    old = made(path, "old")
    keys = reloaded(path)

    async def becomes_so(true: Callable[[], bool]) -> None:
        assert await asyncio.to_thread(becomes, true)

    async def story(door: Any) -> list[Any]:
        async def status(token: str) -> int:
            answer = await door.recommend("u", {"authorization": f"Bearer {token}"})
            return int(answer.status_code)

        statuses = [await status(old)]
        new = made(path, "new")
        await becomes_so(lambda: len(keys) == 2)
        statuses.append(await status(new))
        revoke_key(path, "old")
        await becomes_so(lambda: len(keys) == 1)
        statuses.append(await status(old))
        path.unlink()
        await becomes_so(lambda: keys.stale)
        statuses.append(await status(new))
        door.gateway.readiness._reasons.clear()  # of the model server, which is not there
        ready = await door.internal("/readyz")
        return [*statuses, ready.status_code, ready.json()]

    *statuses, ready = during(replace(parts, keys=keys), story)
    assert statuses == [200, 200, 401, 200, 200]
    assert ready == {"status": "ready", "warnings": {"keys": STALE}}
