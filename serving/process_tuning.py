"""Garbage collection, CPU priority and open files of serving processes."""

import contextlib
import gc
import os
import resource
import sys
from pathlib import Path

SWITCH_INTERVAL_S = 0.001
"""after which a thread that computes gives way to the event loop"""
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


def favour_event_loop() -> None:
    """Let the event loop wait less for the interpreter while other threads compute."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def lower_priority() -> None:
    """Lower the CPU priority. Linux may schedule sessions instead of processes (sched(7), autogroup), so the session is lowered
    too, if this process leads it.
    """
    os.nice(NICENESS)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(NICENESS))


def raise_file_limit() -> int:
    """Raise the limit of open files to what the process may have; return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
