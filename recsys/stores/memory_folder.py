"""Folders in memory that the processes of an account share: for secret files that libraries read by their path.

    /dev/shm/recsys-<uid>/<name>/        filled by the first process that wants it
    /dev/shm/recsys-<uid>/<name>.lock    held shared by every process that uses it, and so let go also by one that is killed

The last process that uses a folder removes it as it exits; what killed processes left goes with the next call.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from recsys.errors import ConfigError
from recsys.stores.atomic_files import locked

MEMORY = Path("/dev/shm")  # nosec B108: the folder below it is made for our account alone
MODE = 0o700
FILL_S = 600.0
"""longest wait for another process that fills a folder, in seconds"""
LOCK = ".lock"

_held: dict[Path, int] = {}
"""folder -> descriptor of its lock, in this process"""


def memory_folder(name: str, num_bytes: int, fill: Callable[[Path], None]) -> Path:
    """Return the folder of this name, which stays until this process ends; `fill` is called with a new one.

    ConfigError where there is no memory for so many bytes, or none that is closed to others.
    """
    base = _base()
    folder = base / name
    if folder in _held:
        return folder
    with locked(base, timeout_s=FILL_S):
        _remove_unused(base)
        if not folder.exists():
            _check_room(num_bytes, folder)
            _fill(folder, fill)
        _hold(folder)
    return folder


def _base() -> Path:
    if not any(line.split()[1:3] == [str(MEMORY), "tmpfs"] for line in _mounts()):
        raise ConfigError(f"{MEMORY} is no memory (tmpfs) here, which secret files need; mount one there")
    base = MEMORY / f"recsys-{os.getuid()}"
    base.mkdir(mode=MODE, exist_ok=True)
    found = base.lstat()
    if base.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{base} is not closed to other accounts; remove it")
    return base


def _mounts() -> list[str]:
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _check_room(num_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    if num_bytes > free:
        raise ConfigError(f"{folder} needs {num_bytes:,} bytes of {MEMORY}, which has {free:,}; make it larger")


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=MODE)
    try:
        fill(draft)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _hold(folder: Path) -> None:
    descriptor = os.open(folder.with_name(folder.name + LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _held:
        atexit.register(_release)
    _held[folder] = descriptor


def _remove_unused(base: Path) -> None:
    """Remove the folders that no process uses; needs the lock of `base`."""
    for lock in base.glob(f"?*{LOCK}"):
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_name(lock.name.removesuffix(LOCK)), ignore_errors=True)
            lock.unlink()
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _release() -> None:
    """Let all folders go and remove those that nobody else uses; another process that is slow does it in our place."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()
    with contextlib.suppress(OSError, ConfigError):
        base = _base()
        with locked(base):
            _remove_unused(base)
