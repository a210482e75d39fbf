"""Personal data in the free text and context of requests: counted, masked or refused before anything is logged or stored."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from recsys.data.personal_data import Finder, PersonalKind
from recsys.errors import QueryError
from serving.events.record import Record
from serving.gateway.request_parser import ItemUpdate, RecommendRequest, RequestParser

NAMES: dict[PersonalKind, str] = {
    "email": "an e-mail address",
    "phone": "a phone number",
    "card": "a card number",
    "iban": "an IBAN",
}
Count = Callable[[str, str, int], None]
"""field, kind, number"""


class PersonalDataMode(StrEnum):
    """Treatment of personal data in a request."""

    warn = "warn"
    mask = "mask"
    refuse = "refuse"


@dataclass(frozen=True, kw_only=True)
class PersonalDataGuard:
    """Scans the values of columns. count: called with a column as "context.note", which no caller chooses."""

    mode: PersonalDataMode
    count: Count

    def clean(self, path: str, section: str, values: Mapping[str, Any], finder: Finder) -> Mapping[str, Any]:
        """Return the values as they may be stored. QueryError names a refused field, at `path`, and never its value."""
        cleaned = {
            name: self._cleaned(f"{section}.{name}", f"{path}.{name}", value, finder) for name, value in values.items()
        }
        return cleaned if self.mode is PersonalDataMode.mask else values

    def _cleaned(self, field: str, path: str, value: Any, finder: Finder) -> Any:
        texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
        found = Counter(one.kind for text in texts if isinstance(text, str) for one in finder.find(text))
        for kind, number in found.items():
            self.count(field, kind, number)
        if found and self.mode is PersonalDataMode.refuse:
            what = " and ".join(NAMES[kind] for kind in sorted(found))
            raise QueryError(f"{path} holds what looks like {what}; leave personal data out of this field")
        if not found or self.mode is not PersonalDataMode.mask:
            return value
        masked = [finder.mask(text) if isinstance(text, str) else text for text in texts]
        return masked[0] if isinstance(value, str) else masked


@dataclass(frozen=True, kw_only=True)
class GuardedParser(RequestParser):
    """A `RequestParser` whose results have passed the guard: context, profiles, words of actions, columns of items."""

    guard: PersonalDataGuard

    @staticmethod
    def over(parser: RequestParser, guard: PersonalDataGuard) -> "GuardedParser":
        own = {field.name: getattr(parser, field.name) for field in fields(RequestParser)}
        return GuardedParser(**own, guard=guard)

    def recommend(self, body: bytes) -> RecommendRequest:
        parsed, finder = super().recommend(body), Finder()
        return replace(
            parsed,
            context=self.guard.clean("context", "context", parsed.context, finder),
            profile=self.guard.clean("profile", "profile", parsed.profile, finder),
        )

    def events(
        self, body: bytes, stored: Callable[[str], str], scoped: Callable[[str], str] = str
    ) -> list[list[Record]]:
        finder = Finder()
        return [
            [replace(record, body=dict(self._body(f"events[{index}]", record, finder))) for record in records]
            for index, records in enumerate(super().events(body, stored, scoped))
        ]

    def user_profile(self, body: bytes) -> Mapping[str, Any]:
        return self.guard.clean("profile", "profile", super().user_profile(body), Finder())

    def item(self, body: bytes) -> ItemUpdate:
        update = super().item(body)
        return replace(update, columns=self.guard.clean("columns", "columns", update.columns, Finder()))

    def _body(self, path: str, record: Record, finder: Finder) -> Iterator[tuple[str, Any]]:
        """Fields of a record; hidden values are left as they are, since a masked one would hide nothing."""
        for name, value in record.body.items():
            scanned = record.kind == "feedback" and name in ("context", "actions")
            yield name, self.guard.clean(f"{path}.{name}", name, value, finder) if scanned else value
