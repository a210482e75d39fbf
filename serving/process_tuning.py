"""Garbage collection and CPU priority of serving processes."""

import contextlib
import gc
import os
from pathlib import Path

GC_THRESHOLD = 100_000
"""allocations between collections: requests and batches leave no reference cycles"""
NICENESS = 10
"""of 19"""
AUTOGROUP = Path("/proc/self/autogroup")


def freeze_heap() -> None:
    """Exclude all live objects from garbage collection: they stay for the lifetime of the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def lower_priority() -> None:
    """Lower the CPU priority. Linux may schedule sessions instead of processes (sched(7), autogroup), so the session is lowered
    too, if this process leads it.
    """
    os.nice(NICENESS)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(NICENESS))
