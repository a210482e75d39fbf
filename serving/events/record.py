"""Records of the event log, one JSON document each, and the protocols of its writers and sinks.

    {"id": "3f…", "kind": "feedback", "user": "405", "timestamp": 893286638.0,
     "body": {"item": "50", "actions": {"rating": 5.0}, "request_id": "8a…", "position": 0}}
    {"id": "c1…", "kind": "impression", "user": "405", "timestamp": 893286630.0,
     "body": {"query": {…}, "slate": {…}, "rung": "recommend"}}
    {"id": "77…", "kind": "hide", "user": "405", "timestamp": 893286650.0, "body": {"author": ["X"]}}
    {"id": "1b…", "kind": "profile", "user": "405", "timestamp": 893286660.0, "body": {"age": 34.0}}

An impression holds the whole query and slate, so that a request can be replayed: history, context and profile are the
feature values that were used; the slate has positions, propensities, probabilities and versions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from recsys.contracts import Event, Query, Slate
from recsys.schema import schema_of

Kind = Literal["feedback", "impression", "hide", "unhide", "profile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. The same id again is the same record, resent."""

    id: str
    kind: Kind
    user: str
    timestamp: float
    """unix seconds, UTC"""
    body: Mapping[str, Any]

    @staticmethod
    def feedback(id: str, event: Event) -> "Record":
        """Record of a user event."""
        body = schema_of(Event).document(event)
        user, timestamp = body.pop("user"), body.pop("timestamp")
        return Record(id=id, kind="feedback", user=user, timestamp=timestamp, body=body)

    @staticmethod
    def impression(query: Query, slate: Slate, rung: str) -> "Record":
        """Record of the slate served for `query` by this fallback tier (`rung`)."""
        body = {"query": schema_of(Query).document(query), "slate": schema_of(Slate).document(slate), "rung": rung}
        return Record(id=impression_id(query), kind="impression", user=query.user, timestamp=query.now, body=body)

    @staticmethod
    def preference(id: str, kind: Kind, user: str, timestamp: float, body: Mapping[str, Any]) -> "Record":
        """Record of hidden values (hide, unhide: column or "item" -> list of values), or of columns of the profile."""
        return Record(id=id, kind=kind, user=user, timestamp=timestamp, body=body)

    def event(self) -> Event:
        """Event of a feedback record."""
        return Event(user=self.user, timestamp=self.timestamp, **self.body)

    def shown_items(self) -> tuple[str, ...]:
        """Items of an impression, by position."""
        return tuple(item["item"] for item in self.body["slate"]["items"])

    def to_json(self) -> bytes:
        """Canonical JSON: equal records give equal bytes."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS)

    @staticmethod
    def from_json(text: bytes) -> "Record":
        return Record(**orjson.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A record with its log sequence, which rises and never changes."""

    sequence: int
    record: Record


def impression_id(query: Query) -> str:
    """Record id of an impression, unique by request id, user and surface, since callers choose request ids."""
    return hash_parts("impression", query.request_id, query.user, query.surface)


def hash_parts(*parts: str) -> str:
    """Hash of the parts, 32 hex digits; encoded as JSON so that ("ab", "c") differs from ("a", "bc")."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class RecordWriter(Protocol):
    """Append side of the event log."""

    async def append(self, records: Sequence[Record]) -> None:
        """Return when every record is durable: in the broker, or in the local spool while the broker is down.

        ServingError when neither can take them; the caller may send the same records again.
        """
        ...


class Sink(Protocol):
    """Destination of log records, in order. Batches may be redelivered with other boundaries."""

    async def write(self, batch: Sequence[StoredRecord]) -> None:
        """Return when the batch is durable; rewriting a record is a no-op."""
        ...
