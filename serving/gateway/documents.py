"""What callers send -> what the gateway works with. QueryError names the field; whatever is not known is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recsys.bundle import Bundle
from recsys.contracts import FUTURE_S, Event
from recsys.data.ids import normalised_id
from recsys.errors import QueryError
from recsys.features.spec import TableSpec
from recsys.stages import RANKER, read_schema, read_spec
from serving.events.record import Kind, Record, hash_of
from serving.gateway.strict_json import fields_of, list_of, number_of, parse, text_of, told, whole_of
from serving.state.onboarding import Answers

ASKED = ("user", "k", "surface", "context", "profile", "exclude", "budget_ms", "explain")
EVENT = (
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
HIDDEN: tuple[Kind, ...] = ("hide", "unhide")
ITEM = "item"
FACTS = frozenset(EVENT) - {"id", "user", "timestamp", *HIDDEN}
"""fields that say what a user did; an event without any of them is no feedback"""
LONGEST_VECTOR = 4_096
ONBOARDING = ("user", "items", "values")
MAX_BUDGET_MS = 60_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one request may hold."""

    body_bytes: int = 256 * 1024
    k: int = 100
    id_characters: int = 256
    text_characters: int = 1024
    values: int = 256
    """of one list in context, profile or an item"""
    exclude: int = 1_000
    events: int = 500
    liked: int = 50
    """items, and values of a column, of one onboarding"""
    least_budget_ms: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for a slate, still with the caller's own user id."""

    user: str
    k: int
    surface: str
    context: Mapping[str, Any]
    profile: Mapping[str, Any]
    exclude: tuple[str, ...]
    budget_ms: float | None
    explain: bool = False
    """what each part of the input adds, and which event speaks for an item"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPut:
    """Change of an item, as a caller sends it."""

    columns: Mapping[str, Any]
    withdrawn: bool | None
    """True from now on, False no longer, None as it is"""
    create: bool
    """whether an item that the catalogue lacks may be made"""


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Reads bodies against one bundle: its context and profile columns, its actions, the columns of its items."""

    context: Mapping[str, str]
    """column -> kind"""
    profile: Mapping[str, str]
    items: Mapping[str, str]
    """those that may change"""
    liked: tuple[str, ...]
    """columns of the items of which a new user may say values"""
    hideable: tuple[str, ...]
    """what a user may hide values of: item, and the columns of the items that have named values"""
    actions: Mapping[str, str]
    """name -> number or word"""
    limits: Limits
    now: Callable[[], float]
    """unix seconds"""
    ranked: bool
    """the bundle has a ranker, whose reasons can be asked for"""

    @staticmethod
    def of(bundle: Bundle, *, limits: Limits, now: Callable[[], float]) -> "Documents":
        spec = read_spec(bundle)
        return Documents(
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

    def ask(self, body: bytes) -> Ask:
        """The body of POST /v1/recommend."""
        fields = fields_of("the body", parse(body), ASKED, ("user",))
        limits = self.limits
        budget = fields.get("budget_ms")
        excluded = list_of("exclude", fields.get("exclude", []), most=limits.exclude)
        return Ask(
            user=self._known_id("user", fields["user"]),
            k=whole_of("k", fields.get("k", 10), low=1, high=limits.k),
            surface=self._id("surface", fields.get("surface", "default")),
            context=self._columns("context", fields.get("context", {}), self.context),
            profile=self._columns("profile", fields.get("profile", {}), self.profile),
            exclude=tuple(self._known_id(f"exclude[{place}]", item) for place, item in enumerate(excluded)),
            budget_ms=None if budget is None else self._budget("budget_ms", budget),
            explain=self._explain(fields.get("explain", False)),
        )

    def _explain(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise QueryError(f"explain is {told(value)}; send true or false")
        if value and not self.ranked:
            raise QueryError("explain: what serves here has no ranker whose reasons could be told; leave it out")
        return value

    def budget_header(self, text: str) -> float:
        """Of x-budget-ms: digits, with a point or without."""
        if not (text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 20):
            raise QueryError("x-budget-ms is no number; send milliseconds")
        return self._budget("x-budget-ms", float(text))

    def _budget(self, place: str, value: Any) -> float:
        return number_of(place, value, low=self.limits.least_budget_ms, high=MAX_BUDGET_MS)

    def events(self, body: bytes, stored: Callable[[str], str]) -> list[list[Record]]:
        """The body of POST /v1/events as the records of each event: the feedback, what is hidden, what no longer is.

        stored: the user id as it stands in log and state.

        The id of a record is a hash of the user and of the caller's id or, without one, of the whole event: the same
        event sent again is the same record, and no id of one user can hide a record of another or an impression.
        """
        fields = fields_of("the body", parse(body), ("events",), ("events",))
        listed = list_of("events", fields["events"], most=self.limits.events, least=1)
        return [self._records(f"events[{place}]", entry, stored) for place, entry in enumerate(listed)]

    def user_profile(self, body: bytes) -> Mapping[str, Any]:
        """The body of PUT /v1/users/{id}: columns of the profile, null for one to forget."""
        fields = fields_of("the body", parse(body), ("profile",), ("profile",))
        if not (profile := self._columns("profile", fields["profile"], self.profile)):
            raise QueryError(f"nothing changes; send a profile with any of {', '.join(self.profile) or 'no column'}")
        return profile

    def user_id(self, value: str) -> str:
        return self._known_id("the user id", value)

    def item(self, body: bytes) -> ItemPut:
        """The body of PUT /v1/items/{id}: columns that change, null for a value that is not known any more."""
        fields = fields_of("the body", parse(body), ("columns", "withdrawn", "create"))
        columns = self._columns("columns", fields.get("columns", {}), self.items)
        withdrawn = fields.get("withdrawn")
        if withdrawn is not None and not isinstance(withdrawn, bool):
            raise QueryError(f"withdrawn is {told(withdrawn)}; send true or false")
        if not columns and withdrawn is None:
            raise QueryError(f"nothing changes; send withdrawn or columns with any of {', '.join(self.items)}")
        create = fields.get("create", True)
        if not isinstance(create, bool):
            raise QueryError(f"create is {told(create)}; send true or false")
        return ItemPut(columns=columns, withdrawn=withdrawn, create=create)

    def onboarding(self, body: bytes) -> tuple[str, Answers]:
        """The body of POST /v1/onboarding: the caller's own user id, and what that user says to like."""
        fields = fields_of("the body", parse(body), ONBOARDING, ("user",))
        items = list_of("items", fields.get("items", []), most=self.limits.liked)
        values = fields_of("values", fields.get("values", {}), self.liked)
        answers = Answers(
            items=tuple(self._known_id(f"items[{place}]", item) for place, item in enumerate(items)),
            values={name: self._liked(f"values.{name}", listed) for name, listed in values.items()},
        )
        if not answers.items and not any(answers.values.values()):
            raise QueryError("nothing is liked; send items, or values of the columns of items")
        return self._known_id("user", fields["user"]), answers

    def _liked(self, place: str, listed: Any) -> tuple[str, ...]:
        return tuple(self._id(place, value) for value in list_of(place, listed, most=self.limits.liked))

    def item_id(self, value: str) -> str:
        return self._known_id("the item id", value)

    def k(self, text: str) -> int:
        """Of a query string."""
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise QueryError(f"k is no whole number; send 1 to {self.limits.k}")
        return whole_of("k", int(text), low=1, high=self.limits.k)

    def _records(self, place: str, entry: Any, stored: Callable[[str], str]) -> list[Record]:
        fields = fields_of(place, entry, EVENT, ("user",))
        hidden = {kind: self._hidden(f"{place}.{kind}", fields[kind]) for kind in HIDDEN if kind in fields}
        user, timestamp = (
            stored(self._known_id(f"{place}.user", fields["user"])),
            self._time(place, fields.get("timestamp")),
        )
        given = None if fields.get("id") is None else self._id(f"{place}.id", fields["id"])
        records = [Record.preference("", kind, user, timestamp, body) for kind, body in hidden.items()]
        if FACTS & fields.keys() or not hidden:
            event = self._event(place, {**fields, ITEM: self._item_of(place, fields, hidden.get("hide", {}))})
            records.insert(0, Record.feedback("", replace(event, user=user, timestamp=timestamp)))
        return [_with_id(record, given) for record in records]

    def _item_of(self, place: str, fields: Mapping[str, Any], hide: Mapping[str, Sequence[str]]) -> Any:
        """The item that feedback is of: where none is named, the one that is hidden with it."""
        if ITEM not in fields and len(hide.get(ITEM, ())) == 1:
            return hide[ITEM][0]
        return fields_of(place, fields, EVENT, (ITEM,))[ITEM]

    def _hidden(self, place: str, value: Any) -> Mapping[str, list[str]]:
        """{"author": "X"} or {"author": ["X", "Y"]}, and the same of items by their id."""
        fields = fields_of(place, value, self.hideable)
        if not fields:
            raise QueryError(f"{place} names nothing; send values of any of {', '.join(self.hideable)}")
        return {name: self._values(f"{place}.{name}", values) for name, values in fields.items()}

    def _values(self, place: str, values: Any) -> list[str]:
        listed = [values] if isinstance(values, str) else list_of(place, values, most=self.limits.values, least=1)
        if place.endswith(f".{ITEM}"):
            return list(dict.fromkeys(self._known_id(place, one) for one in listed))
        return list(dict.fromkeys(text_of(place, one, most=self.limits.text_characters) for one in listed))

    def _event(self, place: str, fields: Mapping[str, Any]) -> Event:
        position, propensity = fields.get("position"), fields.get("propensity")
        actions = fields_of(f"{place}.actions", fields.get("actions", {}), tuple(self.actions))
        return Event(
            user=self._known_id(f"{place}.user", fields["user"]),
            item=self._known_id(f"{place}.item", fields["item"]),
            timestamp=self._time(place, fields.get("timestamp")),
            actions={name: self._action(f"{place}.actions.{name}", name, value) for name, value in actions.items()},
            context=self._columns(f"{place}.context", fields.get("context", {}), self.context),
            request_id=self._optional(place, "request_id", fields),
            position=None if position is None else whole_of(f"{place}.position", position, low=0, high=10_000),
            propensity=None if propensity is None else number_of(f"{place}.propensity", propensity, low=0.0, high=1.0),
            bundle=self._optional(place, "bundle", fields),
            rules=self._optional(place, "rules", fields),
        )

    def _action(self, place: str, name: str, value: Any) -> float | str:
        if self.actions[name] == "word":
            return text_of(place, value, most=self.limits.text_characters)
        return number_of(place, value)

    def _time(self, place: str, value: Any) -> float:
        """When it happened: now, where that was not sent."""
        now = self.now()
        return now if value is None else number_of(f"{place}.timestamp", value, low=0.0, high=now + FUTURE_S)

    def _optional(self, place: str, name: str, fields: Mapping[str, Any]) -> str | None:
        value = fields.get(name)
        return None if value is None else self._id(f"{place}.{name}", value)

    def _id(self, place: str, value: Any) -> str:
        return text_of(place, value, most=self.limits.id_characters)

    def _known_id(self, place: str, value: Any) -> str:
        """Id of a user or an item, by the rule that the training data was read by."""
        if not (known := normalised_id(self._id(place, value))):
            raise QueryError(f"{place} holds nothing but blanks; send an id")
        return known

    def _columns(self, place: str, value: Any, kinds: Mapping[str, str]) -> Mapping[str, Any]:
        fields = fields_of(place, value, tuple(kinds))
        return {name: self._value(f"{place}.{name}", one, kinds[name]) for name, one in fields.items()}

    def _value(self, place: str, value: Any, kind: str) -> Any:
        if value is None:
            return None
        if kind in ("number", "timestamp"):
            return number_of(place, value)
        if kind == "vector":
            return [number_of(place, one) for one in list_of(place, value, most=LONGEST_VECTOR)]
        if kind == "categories":
            return [self._text(place, one) for one in list_of(place, value, most=self.limits.values)]
        return self._text(place, value)

    def _text(self, place: str, value: Any) -> str:
        return text_of(place, value, most=self.limits.text_characters, least=0)


def _with_id(record: Record, given: str | None) -> Record:
    """The caller's id counts once for each kind of record that an event has."""
    feedback = record.kind == "feedback"
    if given:
        return replace(record, id=hash_of("id" if feedback else record.kind, record.user, given))
    return replace(record, id=hash_of("event" if feedback else record.kind, record.to_json().decode()))


def _hideable(kinds: Mapping[str, str]) -> tuple[str, ...]:
    return (ITEM, *(name for name, kind in kinds.items() if kind in ("category", "categories") and name != ITEM))


def _kinds(table: TableSpec) -> dict[str, str]:
    return {column.name: column.kind for column in table.columns}
