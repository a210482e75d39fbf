"""Rotation of the log that all processes of a stack append to."""

import logging
import os
import shutil
import threading
from pathlib import Path

logger = logging.getLogger(__name__)

PERIOD_S = 5.0
COPIES = 3
"""older files, beside the current one: stack.log.1 is the newest"""


def rotate(log: Path, max_bytes: int, copies: int = COPIES) -> bool:
    """Copy a log above `max_bytes` to `<log>.1`, shift the older copies and empty the log; return whether that was due.

    The writers keep their descriptors, which append: so the file is emptied and not renamed. Lines that are written between
    the end of the copy and the emptying, some microseconds, are lost. OSError where the disk refuses; then nothing is emptied.
    """
    if not log.exists() or log.stat().st_size <= max_bytes:
        return False
    names = [log, *(log.with_name(f"{log.name}.{number}") for number in range(1, copies + 1))]
    names[-1].unlink(missing_ok=True)
    for older, newer in zip(reversed(names[2:]), reversed(names[1:-1]), strict=True):
        if newer.exists():
            newer.replace(older)
    draft = log.with_name(f".{log.name}.draft")
    try:
        _move_lines(log, draft, names[1])
    finally:
        draft.unlink(missing_ok=True)
    return True


def rotate_until(stopped: threading.Event, log: Path, max_bytes: int) -> None:
    """Rotate whenever it is due, until `stopped` is set; a disk that refuses is tried again."""
    while not stopped.wait(PERIOD_S):
        try:
            rotate(log, max_bytes)
        except OSError as error:
            logger.warning("%s cannot be rotated: %s", log, error.strerror)


def _move_lines(log: Path, draft: Path, copy: Path) -> None:
    with log.open("rb") as source, draft.open("wb") as target:
        os.fchmod(target.fileno(), log.stat().st_mode & 0o777)
        shutil.copyfileobj(source, target)
        target.flush()
        shutil.copyfileobj(source, target)  # the lines that came meanwhile
        target.flush()
        os.truncate(log, 0)
    draft.replace(copy)
