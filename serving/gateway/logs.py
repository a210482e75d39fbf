"""One JSON line a request. A user appears as a keyed hash, the context by allow-list, a body or a key never."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import orjson


class RequestLog:
    """Lines to a stream. context: columns of the context that may stand in them."""

    def __init__(self, stream: TextIO, *, context: Sequence[str]) -> None:
        self._stream, self._context = stream, tuple(context)
        self.lost = 0

    def allowed(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of a context that may be logged."""
        return {name: context[name] for name in self._context if name in context}

    def write(self, **fields: Any) -> None:
        """Fields that are None are left out. `lost` counts lines that the stream did not take: nobody fails for want of one."""
        line = {"time": round(time.time(), 3), **{name: value for name, value in fields.items() if value is not None}}
        try:
            self._stream.write(orjson.dumps(line).decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a closed stream
            self.lost += 1
