"""Parsing of request bodies. QueryError names the field; unknown fields are refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recsys.bundle import Bundle
from recsys.contracts import FUTURE_S, Event
from recsys.data.ids import normalised_id
from recsys.errors import QueryError
from recsys.features.spec import TableSpec
from recsys.stages import RANKER, read_schema, read_spec
from serving.events.record import Kind, Record, hash_parts
from serving.gateway.strict_json import describe, fields_of, integer_of, list_of, number_of, parse, text_of
from serving.state.onboarding import OnboardingAnswers

RECOMMEND_FIELDS = ("user", "k", "surface", "context", "profile", "exclude", "budget_ms", "explain")
EVENT_FIELDS = (
    "id",
    "user",
    "item",
    "timestamp",
    "actions",
    "context",
    "request_id",
    "position",
    "propensity",
    "bundle",
    "rules",
    "hide",
    "unhide",
)
HIDE_KINDS: tuple[Kind, ...] = ("hide", "unhide")
ITEM = "item"
FEEDBACK_FIELDS = frozenset(EVENT_FIELDS) - {"id", "user", "timestamp", *HIDE_KINDS}
"""feedback fields; an event without any of them is no feedback"""
MAX_VECTOR_LENGTH = 4_096
ONBOARDING_FIELDS = ("user", "items", "values")
MAX_BUDGET_MS = 60_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Size limits of one request."""

    body_bytes: int = 256 * 1024
    k: int = 100
    id_characters: int = 256
    text_characters: int = 1024
    values: int = 256
    """entries of a list in context, profile or item"""
    exclude: int = 1_000
    events: int = 500
    liked: int = 50
    """items, and values of a column, in one onboarding"""
    least_budget_ms: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendRequest:
    """Request for a slate, with the caller's raw user id."""

    user: str
    k: int
    surface: str
    context: Mapping[str, Any]
    profile: Mapping[str, Any]
    exclude: tuple[str, ...]
    budget_ms: float | None
    explain: bool = False
    """whether to return reasons: input attributions and the top history item"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemUpdate:
    """Requested change of an item."""

    columns: Mapping[str, Any]
    withdrawn: bool | None
    """True withdraws, False restores, None leaves it"""
    create: bool
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

    def recommend(self, body: bytes) -> RecommendRequest:
        """Parse the body of POST /v1/recommend."""
        fields = fields_of("the body", parse(body), RECOMMEND_FIELDS, ("user",))
        limits = self.limits
        budget = fields.get("budget_ms")
        excluded = list_of("exclude", fields.get("exclude", []), max_length=limits.exclude)
        return RecommendRequest(
            user=self._normalised_id("user", fields["user"]),
            k=integer_of("k", fields.get("k", 10), low=1, high=limits.k),
            surface=self._id("surface", fields.get("surface", "default")),
            context=self._columns("context", fields.get("context", {}), self.context),
            profile=self._columns("profile", fields.get("profile", {}), self.profile),
            exclude=tuple(self._normalised_id(f"exclude[{path}]", item) for path, item in enumerate(excluded)),
            budget_ms=None if budget is None else self._budget("budget_ms", budget),
            explain=self._explain(fields.get("explain", False)),
        )

    def _explain(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise QueryError(f"explain is {describe(value)}; send true or false")
        if value and not self.ranked:
            raise QueryError("explain: what serves here has no ranker whose reasons could be told; leave it out")
        return value

    def budget_header(self, text: str) -> float:
        """Parse x-budget-ms: digits with an optional decimal point."""
        if not (text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 20):
            raise QueryError("x-budget-ms is no number; send milliseconds")
        return self._budget("x-budget-ms", float(text))

    def _budget(self, path: str, value: Any) -> float:
        return number_of(path, value, low=self.limits.least_budget_ms, high=MAX_BUDGET_MS)

    def events(self, body: bytes, stored: Callable[[str], str]) -> list[list[Record]]:
        """Parse the body of POST /v1/events into the records of each event: feedback, hide, unhide.

        stored: maps a raw user id to that of log and state.

        The id of a record is a hash of the user and of the caller's id or, without one, of the whole event: the same
        event sent again is the same record, and no id of one user can hide a record of another or an impression.
        """
        fields = fields_of("the body", parse(body), ("events",), ("events",))
        listed = list_of("events", fields["events"], max_length=self.limits.events, min_length=1)
        return [self._records(f"events[{path}]", entry, stored) for path, entry in enumerate(listed)]

    def user_profile(self, body: bytes) -> Mapping[str, Any]:
        """Parse the body of PUT /v1/users/{id}: profile columns, null to delete one."""
        fields = fields_of("the body", parse(body), ("profile",), ("profile",))
        if not (profile := self._columns("profile", fields["profile"], self.profile)):
            raise QueryError(f"nothing changes; send a profile with any of {', '.join(self.profile) or 'no column'}")
        return profile

    def user_id(self, value: str) -> str:
        return self._normalised_id("the user id", value)

    def item(self, body: bytes) -> ItemUpdate:
        """Parse the body of PUT /v1/items/{id}: changed columns, null for an unknown value."""
        fields = fields_of("the body", parse(body), ("columns", "withdrawn", "create"))
        columns = self._columns("columns", fields.get("columns", {}), self.items)
        withdrawn = fields.get("withdrawn")
        if withdrawn is not None and not isinstance(withdrawn, bool):
            raise QueryError(f"withdrawn is {describe(withdrawn)}; send true or false")
        if not columns and withdrawn is None:
            raise QueryError(f"nothing changes; send withdrawn or columns with any of {', '.join(self.items)}")
        create = fields.get("create", True)
        if not isinstance(create, bool):
            raise QueryError(f"create is {describe(create)}; send true or false")
        return ItemUpdate(columns=columns, withdrawn=withdrawn, create=create)

    def onboarding(self, body: bytes) -> tuple[str, OnboardingAnswers]:
        """Parse the body of POST /v1/onboarding: raw user id and liked items and values."""
        fields = fields_of("the body", parse(body), ONBOARDING_FIELDS, ("user",))
        items = list_of("items", fields.get("items", []), max_length=self.limits.liked)
        values = fields_of("values", fields.get("values", {}), self.liked)
        answers = OnboardingAnswers(
            items=tuple(self._normalised_id(f"items[{path}]", item) for path, item in enumerate(items)),
            values={name: self._liked(f"values.{name}", listed) for name, listed in values.items()},
        )
        if not answers.items and not any(answers.values.values()):
            raise QueryError("nothing is liked; send items, or values of the columns of items")
        return self._normalised_id("user", fields["user"]), answers

    def _liked(self, path: str, listed: Any) -> tuple[str, ...]:
        return tuple(self._id(path, value) for value in list_of(path, listed, max_length=self.limits.liked))

    def item_id(self, value: str) -> str:
        return self._normalised_id("the item id", value)

    def k(self, text: str) -> int:
        """Parse k of a query string."""
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise QueryError(f"k is no whole number; send 1 to {self.limits.k}")
        return integer_of("k", int(text), low=1, high=self.limits.k)

    def _records(self, path: str, entry: Any, stored: Callable[[str], str]) -> list[Record]:
        fields = fields_of(path, entry, EVENT_FIELDS, ("user",))
        hidden = {kind: self._hidden(f"{path}.{kind}", fields[kind]) for kind in HIDE_KINDS if kind in fields}
        user, timestamp = (
            stored(self._normalised_id(f"{path}.user", fields["user"])),
            self._time(path, fields.get("timestamp")),
        )
        caller_id = None if fields.get("id") is None else self._id(f"{path}.id", fields["id"])
        records = [Record.preference("", kind, user, timestamp, body) for kind, body in hidden.items()]
        if FEEDBACK_FIELDS & fields.keys() or not hidden:
            event = self._event(path, {**fields, ITEM: self._item_of(path, fields, hidden.get("hide", {}))})
            records.insert(0, Record.feedback("", replace(event, user=user, timestamp=timestamp)))
        return [_with_id(record, caller_id) for record in records]

    def _item_of(self, path: str, fields: Mapping[str, Any], hide: Mapping[str, Sequence[str]]) -> Any:
        """Item of the feedback; if absent, the single item that is hidden with it."""
        if ITEM not in fields and len(hide.get(ITEM, ())) == 1:
            return hide[ITEM][0]
        return fields_of(path, fields, EVENT_FIELDS, (ITEM,))[ITEM]

    def _hidden(self, path: str, value: Any) -> Mapping[str, list[str]]:
        """Parse {"author": "X"} or {"author": ["X", "Y"]}; items by id likewise."""
        fields = fields_of(path, value, self.hideable)
        if not fields:
            raise QueryError(f"{path} names nothing; send values of any of {', '.join(self.hideable)}")
        return {name: self._values(f"{path}.{name}", values) for name, values in fields.items()}

    def _values(self, path: str, values: Any) -> list[str]:
        listed = (
            [values] if isinstance(values, str) else list_of(path, values, max_length=self.limits.values, min_length=1)
        )
        if path.endswith(f".{ITEM}"):
            return list(dict.fromkeys(self._normalised_id(path, one) for one in listed))
        return list(dict.fromkeys(text_of(path, one, max_length=self.limits.text_characters) for one in listed))

    def _event(self, path: str, fields: Mapping[str, Any]) -> Event:
        position, propensity = fields.get("position"), fields.get("propensity")
        actions = fields_of(f"{path}.actions", fields.get("actions", {}), tuple(self.actions))
        return Event(
            user=self._normalised_id(f"{path}.user", fields["user"]),
            item=self._normalised_id(f"{path}.item", fields["item"]),
            timestamp=self._time(path, fields.get("timestamp")),
            actions={name: self._action(f"{path}.actions.{name}", name, value) for name, value in actions.items()},
            context=self._columns(f"{path}.context", fields.get("context", {}), self.context),
            request_id=self._optional(path, "request_id", fields),
            position=None if position is None else integer_of(f"{path}.position", position, low=0, high=10_000),
            propensity=None if propensity is None else number_of(f"{path}.propensity", propensity, low=0.0, high=1.0),
            bundle=self._optional(path, "bundle", fields),
            rules=self._optional(path, "rules", fields),
        )

    def _action(self, path: str, name: str, value: Any) -> float | str:
        if self.actions[name] == "word":
            return text_of(path, value, max_length=self.limits.text_characters)
        return number_of(path, value)

    def _time(self, path: str, value: Any) -> float:
        """Timestamp of the event, now by default."""
        now = self.now()
        return now if value is None else number_of(f"{path}.timestamp", value, low=0.0, high=now + FUTURE_S)

    def _optional(self, path: str, name: str, fields: Mapping[str, Any]) -> str | None:
        value = fields.get(name)
        return None if value is None else self._id(f"{path}.{name}", value)

    def _id(self, path: str, value: Any) -> str:
        return text_of(path, value, max_length=self.limits.id_characters)

    def _normalised_id(self, path: str, value: Any) -> str:
        """User or item id, normalised as in the training data."""
        if not (id := normalised_id(self._id(path, value))):
            raise QueryError(f"{path} holds nothing but blanks; send an id")
        return id

    def _columns(self, path: str, value: Any, kinds: Mapping[str, str]) -> Mapping[str, Any]:
        fields = fields_of(path, value, tuple(kinds))
        return {name: self._value(f"{path}.{name}", one, kinds[name]) for name, one in fields.items()}

    def _value(self, path: str, value: Any, kind: str) -> Any:
        if value is None:
            return None
        if kind in ("number", "timestamp"):
            return number_of(path, value)
        if kind == "vector":
            return [number_of(path, one) for one in list_of(path, value, max_length=MAX_VECTOR_LENGTH)]
        if kind == "categories":
            return [self._text(path, one) for one in list_of(path, value, max_length=self.limits.values)]
        return self._text(path, value)

    def _text(self, path: str, value: Any) -> str:
        return text_of(path, value, max_length=self.limits.text_characters, min_length=0)


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
