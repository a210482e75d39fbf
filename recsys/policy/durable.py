"""Files that are whole after a crash: written beside, synchronised, renamed; or appended and synchronised."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes and threads that lock the same folder from writing; it is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Put `path` in place, complete or not at all. One writer at a time: the draft beside it has a fixed name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    _write(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), data)
    draft.replace(path)
    synchronise(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add to the end of `path`; a crash may leave a beginning of `data`, `cut` removes it."""
    _write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), data)
    synchronise(path.parent)


def cut(path: Path, num_bytes: int) -> None:
    """Keep the first bytes of `path`."""
    with path.open("rb+") as stream:
        stream.truncate(num_bytes)
        os.fsync(stream.fileno())


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def synchronise(folder: Path) -> None:
    """Make a new name in the folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
