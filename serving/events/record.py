"""What stands in the event log, one JSON document a record, and who writes and reads it.

    {"id": "3f…", "kind": "feedback", "user": "405", "timestamp": 893286638.0,
     "body": {"item": "50", "actions": {"rating": 5.0}, "request_id": "8a…", "position": 0}}
    {"id": "c1…", "kind": "impression", "user": "405", "timestamp": 893286630.0,
     "body": {"query": {…}, "slate": {…}, "rung": "recommend"}}
    {"id": "77…", "kind": "hide", "user": "405", "timestamp": 893286650.0, "body": {"author": ["X"]}}
    {"id": "1b…", "kind": "profile", "user": "405", "timestamp": 893286660.0, "body": {"age": 34.0}}

An impression holds the whole query and the whole slate, so that a request can be replayed: history, context and profile
are the feature values that were used, the slate has positions, propensities, probabilities and versions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import orjson

from recsys.contracts import Event, Query, Slate

Kind = Literal["feedback", "impression", "hide", "unhide", "profile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One fact. A record of an id that the log has already is the same fact, sent again."""

    id: str
    kind: Kind
    user: str
    timestamp: float
    """unix seconds, UTC"""
    body: Mapping[str, Any]

    @staticmethod
    def feedback(id: str, event: Event) -> "Record":
        """Something that a user did."""
        body = {name: value for name, value in asdict(event).items() if value not in (None, {})}
        user, timestamp = body.pop("user"), body.pop("timestamp")
        return Record(id=id, kind="feedback", user=user, timestamp=timestamp, body=body)

    @staticmethod
    def impression(query: Query, slate: Slate, rung: str) -> "Record":
        """What a user was shown, in answer to `query`, by this rung of the ladder."""
        body = {"query": asdict(query), "slate": orjson.loads(slate.to_json()), "rung": rung}
        return Record(id=impression_id(query), kind="impression", user=query.user, timestamp=query.now, body=body)

    @staticmethod
    def preference(id: str, kind: Kind, user: str, timestamp: float, body: Mapping[str, Any]) -> "Record":
        """Record of hidden values (hide, unhide: column or "item" -> list of values), or of columns of the profile."""
        return Record(id=id, kind=kind, user=user, timestamp=timestamp, body=body)

    def event(self) -> Event:
        """The event of a feedback."""
        return Event(user=self.user, timestamp=self.timestamp, **self.body)

    def shown(self) -> tuple[str, ...]:
        """The items of an impression, first place first."""
        return tuple(item["item"] for item in self.body["slate"]["items"])

    def to_json(self) -> bytes:
        """Always the same bytes for the same record."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS)

    @staticmethod
    def from_json(text: bytes) -> "Record":
        return Record(**orjson.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A record and its place in the log: rising, the same whenever it is read again."""

    sequence: int
    record: Record


def impression_id(query: Query) -> str:
    """Callers choose ids of requests: no record of another user, another page or another kind has the same."""
    return hash_of("impression", query.request_id, query.user, query.surface)


def hash_of(*parts: str) -> str:
    """32 hex digits; the parts cannot run into each other."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Writer(Protocol):
    """The side of the log that the gateway sees."""

    async def append(self, records: Sequence[Record]) -> None:
        """Return when every record is durable: in the broker, or in the local spool while the broker is away.

        ServingError when neither can take them; the caller may send the same records again.
        """
        ...


class Sink(Protocol):
    """What the consumer hands the log to, in order. Batches may come again, also with other borders."""

    async def write(self, batch: Sequence[Stored]) -> None:
        """Return when the batch is durable here; a record that was written before changes nothing."""
        ...
