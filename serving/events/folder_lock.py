"""Exclusive lock of a folder by one process."""

import fcntl
import os
from pathlib import Path

from recsys.errors import ServingError


def lock_folder(folder: Path) -> int:
    """Lock `folder` and return the descriptor; held until the descriptor and its copies in child processes are closed.

    ServingError when another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ServingError(f"{folder} is in use by another process; stop that one or name another folder") from None
    return descriptor
