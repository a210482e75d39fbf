"""Request log, one JSON line each: users as keyed hashes, context by allow-list, never bodies or keys."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import orjson


class RequestLog:
    """Writes lines to a stream. context: allowed context columns."""

    def __init__(self, stream: TextIO, *, context: Sequence[str]) -> None:
        self._stream, self._context = stream, tuple(context)
        self.lost = 0

    def allowed(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """Allowed part of a context."""
        return {name: context[name] for name in self._context if name in context}

    def write(self, **fields: Any) -> None:
        """Write a line without its None fields. `lost` counts failed writes: a full disk must not fail requests."""
        line = {"time": round(time.time(), 3), **{name: value for name, value in fields.items() if value is not None}}
        try:
            self._stream.write(orjson.dumps(line).decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a closed stream
            self.lost += 1
