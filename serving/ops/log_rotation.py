"""Rotation of the log that all processes of a stack append to."""

import logging
import os
import shutil
import threading
from collections.abc import Sequence
from itertools import pairwise
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
    names = [log.with_name(f"{log.name}.{number}") for number in range(1, copies + 1)]
    draft = log.with_name(f".{log.name}.draft")
    try:
        _move_lines(log, draft, names)
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


def _move_lines(log: Path, draft: Path, copies: Sequence[Path]) -> None:
    with log.open("rb") as source, draft.open("wb") as target:
        os.fchmod(target.fileno(), log.stat().st_mode & 0o777)
        shutil.copyfileobj(source, target)
        target.flush()
        _shift(copies)  # only now: a full disk is tried again and again, and must not cost the older copies
        shutil.copyfileobj(source, target)  # the lines that came meanwhile
        target.flush()
        os.truncate(log, 0)
    draft.replace(copies[0])


def _shift(copies: Sequence[Path]) -> None:
    """Rename each copy to the next older one; the oldest goes."""
    copies[-1].unlink(missing_ok=True)
    for newer, older in reversed(list(pairwise(copies))):
        if newer.exists():
            newer.replace(older)
