"""Request a rebuild of the user states."""

import contextlib
import os
import signal
from typing import Any

from recsys.errors import ServingError
from serving.layout import DeploymentLayout
from serving.ops.running import read_running, supervised


def request_rebuild(layout: DeploymentLayout) -> str | None:
    """Leave the rebuild marker and end the consumer of a running stack, which its guard restarts.

    Return the metrics address of the consumer; None if no stack runs here. ServingError without an exported bundle or
    without events as Parquet, since an empty log would erase the states.
    """
    layout.check()
    if not layout.has_events:
        raise ServingError(f"{layout.events} holds no events to rebuild states from; name the right --live folder")
    running = _running(layout)
    layout.rebuild.touch()
    if running is None:
        return None
    with contextlib.suppress(
        ProcessLookupError, KeyError
    ):  # without a running consumer the next start reads the marker
        os.kill(running["pids"]["consumer"], signal.SIGTERM)
    return running["addresses"]["consumer"]


def _running(layout: DeploymentLayout) -> dict[str, Any] | None:
    """running.json of the running stack, None if none runs; the lock decides, since a killed stack leaves its file."""
    if not supervised(layout.live):
        return None
    if (running := read_running(layout.running)) is None:
        raise ServingError(f"the stack at {layout.live} is starting or stopping; try again in a moment")
    return running
