"""Request ids and trace context (W3C Trace Context, level 1)."""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.errors import QueryError

MAX_STATE = 512
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_STATE = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Span of the gateway within a trace."""

    trace_id: str
    span_id: str
    flags: str
    state: str = ""

    @staticmethod
    def of(parent: str | None, state: str | None) -> "Trace":
        """Continue the caller's trace; an absent or malformed header starts a new one."""
        found = _PARENT.fullmatch(parent) if parent else None
        if found is None or not _usable(*found.groups()):
            return Trace(trace_id=secrets.token_hex(16), span_id=secrets.token_hex(8), flags="00")
        passed = state if state and len(state) <= MAX_STATE and _STATE.fullmatch(state) else ""
        return Trace(trace_id=found[2], span_id=secrets.token_hex(8), flags=found[4], state=passed)

    def headers(self) -> Sequence[tuple[str, str]]:
        """Headers that propagate the trace to the models."""
        parent = ("traceparent", f"00-{self.trace_id}-{self.span_id}-{self.flags}")
        return (parent, ("tracestate", self.state)) if self.state else (parent,)


def _usable(version: str, trace_id: str, span_id: str, flags: str, rest: str | None) -> bool:
    """Validity: version ff is forbidden, version 00 has no field behind the flags, no id is all zeros."""
    return version != "ff" and not (version == "00" and rest) and bool(int(trace_id, 16) and int(span_id, 16))


def request_id(given: str | None) -> str:
    """Caller's id, or a new time-ordered one (UUID version 7, RFC 9562). QueryError for an unusable id."""
    if given is None:
        return _uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))
    if not _REQUEST_ID.fullmatch(given):
        raise QueryError("x-request-id is not usable; send 1 to 128 letters, digits or any of _ . : -")
    return given


def _uuid7(milliseconds: int, chance: int) -> str:
    high, low = chance >> 62, chance & ((1 << 62) - 1)
    text = f"{(milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
