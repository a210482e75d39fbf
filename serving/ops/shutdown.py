"""Shutdown of a stack from another process."""

import contextlib
import os
import signal

from recsys.errors import ServingError
from serving.layout import DeploymentLayout
from serving.ops.running import end_leftovers, read_running, supervised
from serving.processes import until

DOWN_S = 120.0
"""the gateway finishes its requests first, then each process ends"""


def stop_stack(layout: DeploymentLayout, timeout_s: float = DOWN_S) -> str:
    """Stop the stack whose files are in `layout.live`, also one whose supervisor is gone; return one sentence.

    ServingError when it does not end in time.
    """
    if not supervised(layout.live):
        ended = end_leftovers(layout)
        return f"{ended} processes without a supervisor were ended" if ended else f"nothing runs at {layout.live}"
    if (running := read_running(layout.running)) is None:
        raise ServingError(f"the stack at {layout.live} is starting or stopping; try again in a moment")
    with contextlib.suppress(ProcessLookupError):
        os.kill(running["supervisor"], signal.SIGTERM)
    if not until(lambda: not supervised(layout.live), timeout_s):
        raise ServingError(f"the stack at {layout.live} did not stop within {timeout_s:g} s; see {layout.log}")
    return "stopped"
