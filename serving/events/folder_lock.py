"""Exclusive lock of a folder by one process."""

import errno
import os
from pathlib import Path

from recsys.errors import ServingError
from recsys.stores.atomic_files import LOCK, wait_for_lock

LOCK_S = 1.0
"""a process that looks whether the folder is locked holds the lock for a moment"""


def lock_folder(folder: Path) -> int:
    """Lock `folder` and return the descriptor; held until the descriptor and its copies in child processes are closed.

    ServingError when another process holds the lock for longer than LOCK_S.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        wait_for_lock(descriptor, folder, LOCK_S)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.ETIMEDOUT:
            raise
        raise ServingError(f"{folder} is in use by another process; stop that one or name another folder") from None
    return descriptor
