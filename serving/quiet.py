"""What a process of ours does so that nobody waits for it: the collector rests, and who is not waited for stands back."""

import contextlib
import gc
import os
from pathlib import Path

ALLOCATIONS = 100_000
"""between two looks of the collector: of a request or of a batch nothing is left that refers to itself"""
BEHIND = 10
"""of 19, how far a process stands back"""
AUTOGROUP = Path("/proc/self/autogroup")


def settle() -> None:
    """All that lives now lives as long as the process; the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS)


def stand_back() -> None:
    """Leave the cores to others that want them. Linux may weigh sessions in the place of processes (sched(7), autogroup); one
    that is not ours alone stays as it is.
    """
    os.nice(BEHIND)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(BEHIND))
