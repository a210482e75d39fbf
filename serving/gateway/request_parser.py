"""Parsing of request bodies. QueryError names the field; unknown fields are refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from recsys.bundle import Bundle
from recsys.contracts import FUTURE_S, Event
from recsys.data.ids import Id
from recsys.errors import QueryError
from recsys.features.spec import TableSpec
from recsys.schema import (
    Boolean,
    Integer,
    ListOf,
    Nullable,
    Number,
    Object,
    OneOrMore,
    Published,
    Text,
    Value,
    parse_object,
    schema_of,
)
from recsys.stages import RANKER, read_schema, read_spec
from serving.events.record import Kind, Record, hash_parts
from serving.state.onboarding import OnboardingAnswers

HIDE_KINDS: tuple[Kind, ...] = ("hide", "unhide")
ITEM = "item"
NO_FEEDBACK = frozenset({"id", "user", "timestamp", *HIDE_KINDS})
"""an event with no other field is no feedback"""
MAX_BUDGET_MS = 60_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Size limits of one request."""

    body_bytes: int = 256 * 1024
    k: int = 100
    id_characters: int = 256
    text_characters: int = 1024
    values: int = 256
    """entries of a list of categories in context, profile or item"""
    vector: int = 4_096
    """entries of a vector"""
    exclude: int = 1_000
    events: int = 500
    liked: int = 50
    """items, and values of a column, in one onboarding"""
    least_budget_ms: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendRequest:
    """Request for a slate, with the caller's raw user id."""

    user: str
    k: int = 10
    surface: str = "default"
    context: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    budget_ms: float | None = None
    explain: bool = False
    """whether to return reasons: input attributions and the top history item"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemUpdate:
    """Requested change of an item."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    withdrawn: bool | None = None
    """True withdraws, False restores, None leaves it"""
    create: bool = True
    """whether an unknown item may be created"""


@dataclass(frozen=True, kw_only=True)
class RequestParser:
    """Parses bodies against the columns and actions of one bundle."""

    context: Mapping[str, str]
    """column -> kind"""
    profile: Mapping[str, str]
    items: Mapping[str, str]
    """changeable columns -> kind"""
    liked: tuple[str, ...]
    """item columns whose values can be liked"""
    hideable: tuple[str, ...]
    """columns whose values can be hidden: item, and categorical item columns"""
    actions: Mapping[str, str]
    """name -> number or word"""
    limits: RequestLimits
    now: Callable[[], float]
    """unix seconds"""
    ranked: bool
    """whether the bundle has a ranker, which gives reasons"""

    @staticmethod
    def of(bundle: Bundle, *, limits: RequestLimits, now: Callable[[], float]) -> "RequestParser":
        spec = read_spec(bundle)
        return RequestParser(
            context=_kinds(spec.context),
            profile=_kinds(spec.profile),
            items=read_schema(bundle).kinds,
            liked=tuple(bundle.document("catalogue.json")),
            hideable=_hideable(bundle.document("catalogue.json")),
            actions=spec.actions,
            limits=limits,
            now=now,
            ranked=bundle.has(RANKER),
        )

    @cached_property
    def recommend_body(self) -> Object:
        """Body of POST /v1/recommend."""
        limits, budget = self.limits, "for the slate, where less than the service allows"
        reasons = "fill `adds` and `because_of` of every item; takes longer"
        return Object(
            {
                "user": self._id,
                "k": Published(Integer(low=1, high=limits.k), {"default": 10}),
                "surface": Published(self._name, {"default": "default"}),
                "context": self._columns(self.context),
                "profile": self._columns(self.profile),
                "exclude": ListOf(of=self._id, most=limits.exclude),
                "budget_ms": Published(Nullable(self.budget), {"description": budget}),
                "explain": Published(Boolean(), {"default": False, "description": reasons}),
            },
            ("user",),
        )

    def recommend(self, body: bytes) -> RecommendRequest:
        """Parse the body of POST /v1/recommend."""
        fields = self.recommend_body.parse("", parse_object(body))
        if fields.get("explain") and not self.ranked:
            raise QueryError("explain: what serves here has no ranker whose reasons could be told; leave it out")
        return RecommendRequest(**{**fields, "exclude": tuple(fields.get("exclude", ()))})

    def budget_header(self, text: str) -> float:
        """Parse x-budget-ms: digits with an optional decimal point."""
        if not (text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 20):
            raise QueryError("x-budget-ms is no number; send milliseconds")
        return self.budget.parse("x-budget-ms", float(text))

    @property
    def budget(self) -> Number:
        """Milliseconds that a caller allows."""
        return Number(low=self.limits.least_budget_ms, high=MAX_BUDGET_MS)

    @cached_property
    def events_body(self) -> Object:
        """Body of POST /v1/events."""
        return Object({"events": ListOf(of=self._event_schema, most=self.limits.events, least=1)}, ("events",))

    @cached_property
    def _event_schema(self) -> Published:
        time = "unix seconds, UTC, at most a day ahead; without it, when the event came in"
        kinds: dict[str, Value] = {"number": Number(), "word": Text(most=self.limits.text_characters, least=1)}
        logged = {name: self._limited(value) for name, value in schema_of(Event).object.fields.items()}
        hidden = Object({name: self._hidden(name) for name in self.hideable})
        event = Object(
            {
                "id": Nullable(self._name),
                **logged,
                "user": self._id,
                "item": self._id,
                "timestamp": Published(
                    Nullable(Number(low=0.0, high=lambda: self.now() + FUTURE_S)), {"description": time}
                ),
                "actions": Object({name: kinds[kind] for name, kind in self.actions.items()}),
                "context": self._columns(self.context),
                "hide": Published(
                    hidden,
                    {"minProperties": 1, "description": "what the user does not want to see, from the answer on"},
                ),
                "unhide": Published(hidden, {"minProperties": 1, "description": "what may be shown again"}),
            },
            ("user",),
        )
        return Published(event, {"anyOf": [{"required": [name]} for name in (ITEM, *HIDE_KINDS)]})

    def _hidden(self, name: str) -> OneOrMore:
        value = self._id if name == ITEM else Text(most=self.limits.text_characters, least=1)
        return OneOrMore(ListOf(of=value, most=self.limits.values, least=1))

    def events(
        self, body: bytes, stored: Callable[[str], str], scoped: Callable[[str], str] = str
    ) -> list[list[Record]]:
        """Parse the body of POST /v1/events into the records of each event: feedback, hide, unhide.

        stored: maps a raw user id to that of log and state. scoped: maps the id of the request that an event answers.

        The id of a record is a hash of the user and of the caller's id or, without one, of the whole event: the same
        event sent again is the same record, and no id of one user can hide a record of another or an impression.
        """
        events = self.events_body.parse("", parse_object(body))["events"]
        return [
            self._records(f"events[{index}]", _with_request(event, scoped), stored)
            for index, event in enumerate(events)
        ]

    @cached_property
    def user_body(self) -> Object:
        """Body of PUT /v1/users/{id}."""
        return Object({"profile": self._columns(self.profile)}, ("profile",))

    def user_profile(self, body: bytes) -> Mapping[str, Any]:
        """Parse the body of PUT /v1/users/{id}: profile columns, null to delete one."""
        profile: Mapping[str, Any] = self.user_body.parse("", parse_object(body))["profile"]
        if not profile:
            raise QueryError(f"nothing changes; send a profile with any of {', '.join(self.profile) or 'no column'}")
        return profile

    def user_id(self, value: str) -> str:
        return self._id.parse("the user id", value)

    @cached_property
    def item_body(self) -> Object:
        """Body of PUT /v1/items/{id}."""
        create = {"default": True, "description": "false: an item that the catalogue lacks is a 404"}
        return Object(
            {
                "columns": self._columns(self.items),
                "withdrawn": Nullable(Boolean()),
                "create": Published(Boolean(), create),
            }
        )

    def item(self, body: bytes) -> ItemUpdate:
        """Parse the body of PUT /v1/items/{id}: changed columns, null for an unknown value."""
        update = ItemUpdate(**self.item_body.parse("", parse_object(body)))
        if not update.columns and update.withdrawn is None:
            raise QueryError(f"nothing changes; send withdrawn or columns with any of {', '.join(self.items)}")
        return update

    @cached_property
    def onboarding_body(self) -> Object:
        """Body of POST /v1/onboarding."""
        liked = self.limits.liked
        values = Object({name: ListOf(of=self._name, most=liked) for name in self.liked})
        return Object({"user": self._id, "items": ListOf(of=self._id, most=liked), "values": values}, ("user",))

    def onboarding(self, body: bytes) -> tuple[str, OnboardingAnswers]:
        """Parse the body of POST /v1/onboarding: raw user id and liked items and values."""
        fields = self.onboarding_body.parse("", parse_object(body))
        answers = OnboardingAnswers(
            items=tuple(fields.get("items", ())),
            values={name: tuple(listed) for name, listed in fields.get("values", {}).items()},
        )
        if not answers.items and not any(answers.values.values()):
            raise QueryError("nothing is liked; send items, or values of the columns of items")
        return fields["user"], answers

    def item_id(self, value: str) -> str:
        return self._id.parse("the item id", value)

    def k(self, text: str) -> int:
        """Parse k of a query string."""
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise QueryError(f"k is no whole number; send 1 to {self.limits.k}")
        return Integer(low=1, high=self.limits.k).parse("k", int(text))

    def _records(self, path: str, event: Mapping[str, Any], stored: Callable[[str], str]) -> list[Record]:
        user, timestamp = stored(event["user"]), self.now() if event.get("timestamp") is None else event["timestamp"]
        hidden = {kind: event[kind] for kind in HIDE_KINDS if kind in event}
        if empty := [kind for kind, values in hidden.items() if not values]:
            raise QueryError(f"{path}.{empty[0]} names nothing; send values of any of {', '.join(self.hideable)}")
        records = [Record.preference("", kind, user, timestamp, values) for kind, values in hidden.items()]
        if event.keys() - NO_FEEDBACK or not hidden:
            kept = {name: value for name, value in event.items() if name not in ("id", *HIDE_KINDS)}
            item = self._item_of(path, event, hidden.get("hide", {}))
            records.insert(
                0, Record.feedback("", Event(**{**kept, "user": user, "item": item, "timestamp": timestamp}))
            )
        return [_with_id(record, event.get("id")) for record in records]

    def _item_of(self, path: str, event: Mapping[str, Any], hide: Mapping[str, Sequence[str]]) -> str:
        """Item of the feedback; if absent, the single item that is hidden with it."""
        if ITEM not in event and len(hide.get(ITEM, ())) == 1:
            return hide[ITEM][0]
        if ITEM not in event:
            raise QueryError(f"{path} lacks the field {ITEM!r}; send it")
        item: str = event[ITEM]
        return item

    @property
    def _id(self) -> Id:
        return Id(most=self.limits.id_characters)

    @property
    def _name(self) -> Text:
        return Text(most=self.limits.id_characters, least=1)

    def _limited(self, value: Value) -> Value:
        """Return the value with the limit of names where it is a text."""
        return Nullable(self._name) if value.column == "text" else value

    def _columns(self, kinds: Mapping[str, str]) -> Object:
        """Values of columns, null where unknown."""
        return Object({name: Nullable(self._column(kind)) for name, kind in kinds.items()})

    def _column(self, kind: str) -> Value:
        text = Text(most=self.limits.text_characters)
        lists: dict[str, Value] = {
            "vector": ListOf(of=Number(), most=self.limits.vector),
            "categories": ListOf(of=text, most=self.limits.values),
        }
        return Number() if kind in ("number", "timestamp") else lists.get(kind, text)


def _with_request(event: Mapping[str, Any], scoped: Callable[[str], str]) -> Mapping[str, Any]:
    """Event with the id under which the request that it answers was logged."""
    return {**event, "request_id": scoped(event["request_id"])} if event.get("request_id") else event


def _with_id(record: Record, caller_id: str | None) -> Record:
    """Record with its id: the caller's id is unique for each kind of record."""
    feedback = record.kind == "feedback"
    if caller_id:
        return replace(record, id=hash_parts("id" if feedback else record.kind, record.user, caller_id))
    return replace(record, id=hash_parts("event" if feedback else record.kind, record.to_json().decode()))


def _hideable(kinds: Mapping[str, str]) -> tuple[str, ...]:
    return (ITEM, *(name for name, kind in kinds.items() if kind in ("category", "categories") and name != ITEM))


def _kinds(table: TableSpec) -> dict[str, str]:
    return {column.name: column.kind for column in table.columns}
