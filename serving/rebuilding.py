"""Ask for users' states to be made anew."""

import contextlib
import json
import os
import signal
from typing import Any

from recsys.errors import ServingError
from serving.events.lock import hold
from serving.place import Place


def ask_for_rebuild(place: Place) -> str | None:
    """Leave word for the consumer, and end the one of a running stack, which its guard starts again.

    Returns where the consumer tells how far it is; None where no stack runs here. ServingError where nothing was exported
    or no event is kept as Parquet, since then nothing would be left of the states.
    """
    place.check()
    if not any(place.events.glob("*/**/*.parquet")):
        raise ServingError(
            f"{place.events} holds no event, so no state could be made from it; name the right --live folder"
        )
    running = _running(place)
    place.rebuild.touch()
    if running is None:
        return None
    with contextlib.suppress(ProcessLookupError, KeyError):  # it is not there, so it starts anyway
        os.kill(running["pids"]["consumer"], signal.SIGTERM)
    return running["addresses"]["consumer"]


def _running(place: Place) -> dict[str, Any] | None:
    """What the stack of this place says of itself; None where none runs: what one left that was killed is not believed."""
    try:
        os.close(hold(place.live))
        return None
    except ServingError:
        try:
            return json.loads(place.running.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ServingError(f"the stack at {place.live} is starting or stopping; try again in a moment") from None
