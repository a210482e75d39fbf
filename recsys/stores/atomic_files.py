"""Crash-safe writes: draft, fsync and rename, or append and fsync; and the stamp by which a change of a file is seen."""

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
LOCK_MODE = 0o660
LOCK_S, LOCK_POLL_S = 10.0, 0.01


@contextmanager
def locked(folder: Path, *, timeout_s: float = LOCK_S) -> Iterator[None]:
    """Hold an exclusive lock on a folder across processes and threads; the folder is created if absent.

    It waits in this thread, so an event loop calls it in another one. TimeoutError, an OSError, when another process keeps the
    lock for longer than `timeout_s`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # closed to accounts outside of the group: who may open a file may hold its lock for ever
    descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CREAT, LOCK_MODE)
    try:
        _close_to_others(descriptor)
        wait_for_lock(descriptor, folder, timeout_s)
        yield
    finally:
        os.close(descriptor)


def _close_to_others(lock: int) -> None:
    """Remove the rights of others from a lock file of an earlier version; that of another account stays as it is."""
    found = os.fstat(lock)
    if found.st_uid == os.getuid() and found.st_mode & 0o007:
        os.fchmod(lock, LOCK_MODE & found.st_mode)


def wait_for_lock(descriptor: int, folder: Path, timeout_s: float) -> None:
    """Lock the open file of a folder; TimeoutError when another process keeps the lock for longer than `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                text = f"another process has kept the lock of this folder for {timeout_s:g} s; end it, or try again"
                raise TimeoutError(errno.ETIMEDOUT, text, str(folder)) from None
        time.sleep(LOCK_POLL_S)


Stamp = tuple[int, int, int]
"""inode, modification time and size of a file"""


def file_stamp(path: Path) -> Stamp | None:
    """Return a value that differs after every atomic write or append; None without a file. Costs one stat."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a draft beside `path` for a library to write; it is renamed on success and removed otherwise.

    Not fsynced: for files that can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace `path` atomically. One writer at a time: the draft beside it has a fixed name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    _write(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), data)
    draft.replace(path)
    sync_folder(path.parent)


def create(path: Path, data: bytes, mode: int) -> None:
    """Write a new file; OSError where there is one."""
    _write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), data)


def append(path: Path, data: bytes) -> None:
    """Append to `path`; a crash may leave a prefix of `data`, which `truncate` removes."""
    _write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), data)
    sync_folder(path.parent)


def truncate(path: Path, num_bytes: int) -> None:
    """Truncate `path` to its first bytes."""
    with path.open("rb+") as stream:
        stream.truncate(num_bytes)
        os.fsync(stream.fileno())


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Fsync a folder: a rename or a new file survives a crash only after that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
