"""One process a folder."""

import fcntl
import os
from pathlib import Path

from recsys.errors import ServingError


def hold(folder: Path) -> int:
    """A descriptor that keeps other processes out of `folder` until it and its heirs in child processes are closed.

    ServingError when another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ServingError(f"{folder} is in use by another process; stop that one or name another folder") from None
    return descriptor
