"""Personal data in text: e-mail addresses, phone numbers, card numbers (Luhn), IBANs (checksum).

Every pattern is bounded and begins at a border, so that the time is linear in the text. Phone numbers count in their
international form; national ones cannot be told from other numbers without a country.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import phonenumbers
import polars as pl
from stdnum import iban, luhn

from recsys.data.dataset import Dataset
from recsys.data.description import USER

PersonalKind = Literal["email", "phone", "card", "iban"]
PERSONAL_KINDS: tuple[PersonalKind, ...] = get_args(PersonalKind)
EMAIL = re.compile(r"(?<![^\s<>()\[\],;:\"'])[^\s@<>()\[\],;:\"']{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
PHONE = re.compile(r"(?<![\w+])(?:\+|00)[1-9](?:[ ./()-]{0,2}\d){6,14}(?!\d)")
CARD = re.compile(r"(?<![\w.,])(?:3[0-9]|4\d|5[1-5]|6[0245]|2[2-7])(?:[ -]?\d){12,17}(?![\d.,]\d|\d)")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}", re.IGNORECASE)
PREFILTER = r"@|(?:\+|00)[1-9]|\d(?:[ -]?\d){13}|[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11}"
"""a text without it holds nothing of the kind"""
SHORTEST_IBAN, LONGEST_IBAN = 15, 34
MAX_CHECKS = 32
"""numbers of one text or request that are looked up in tables of countries, which is slow; further ones count as found"""
BLANK = "\0"
"""belongs to no pattern, so that none reads across what another one found"""
SCANNED = ("text", "category", "categories", "word")


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalDataSpan:
    """Span of a text that looks like personal data."""

    kind: PersonalKind
    start: int
    end: int


class Finder:
    """Finds personal data in the texts of one request; together they may cost MAX_CHECKS slow checks."""

    def __init__(self) -> None:
        self._checks_left = MAX_CHECKS

    def find(self, text: str) -> list[PersonalDataSpan]:
        """Return the spans in the order of the text, without overlaps."""
        found: list[PersonalDataSpan] = []
        for kind, pattern, check in CHECKED:
            here = [
                PersonalDataSpan(kind=kind, start=one.start(), end=one.start() + length)
                for one in pattern.finditer(text)
                if (length := self._checked(check, one.group()))
            ]
            text = _replaced(text, [(one, BLANK * (one.end - one.start)) for one in here])
            found += here
        return sorted(found, key=lambda one: one.start)

    def mask(self, text: str) -> str:
        """Return the text with the name of its kind in the place of each span: "write to [email]"."""
        return _replaced(text, [(one, f"[{one.kind}]") for one in self.find(text)])

    def _checked(self, check: Callable[[str], int], text: str) -> int:
        """Characters of the number at the beginning of a candidate, 0 for none."""
        if check is len or self._checks_left <= 0:
            return len(text)
        self._checks_left -= 1
        return check(text)


def _replaced(text: str, replacements: Sequence[tuple[PersonalDataSpan, str]]) -> str:
    """Replace spans, which are in the order of the text."""
    parts, end = [], 0
    for one, word in replacements:
        parts += [text[end : one.start], word]
        end = one.end
    return "".join([*parts, text[end:]])


def _phone(text: str) -> int:
    try:
        number = phonenumbers.parse("+" + text.removeprefix("00").removeprefix("+"))
    except phonenumbers.NumberParseException:
        return 0
    return len(text) if phonenumbers.is_valid_number(number) else 0


def _card(text: str) -> int:
    return len(text) if luhn.is_valid(re.sub(r"[ -]", "", text)) else 0


def _iban(text: str) -> int:
    """The pattern may take the beginning of the next word along, so every length is tried."""
    ends = [place + 1 for place, character in enumerate(text) if character != " "]
    for end in ends[SHORTEST_IBAN - 1 : LONGEST_IBAN]:
        if iban.is_valid(text[:end]):
            return end
    return 0


CHECKED: tuple[tuple[PersonalKind, re.Pattern[str], Callable[[str], int]], ...] = (
    ("email", EMAIL, len),
    ("iban", IBAN, _iban),
    ("card", CARD, _card),
    ("phone", PHONE, _phone),
)


def personal_notes(dataset: Dataset) -> tuple[str, ...]:
    """Return a note for each column of text, words or context that holds personal data: counts of values, never a value."""
    described = dataset.description
    tables = (
        ("interactions", dataset.interactions, {**described.actions, **described.context}),
        ("items", dataset.items, described.items),
        ("users", dataset.users, described.users | {USER: "category"}),
    )
    return tuple(
        f"{table}, column {column!r}: rows with what looks like personal data: {_counted(counts)}"
        for table, frame, kinds in tables
        for column, kind in kinds.items()
        if kind in SCANNED and (counts := _counts(frame[column]))
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {counts[kind]:,}" for kind in PERSONAL_KINDS if counts.get(kind))


def _counts(column: pl.Series) -> Counter[str]:
    """Kind -> rows, counted by distinct values; most are ruled out by one linear pass of polars."""
    texts = column.list.join(" , ", ignore_nulls=True) if column.dtype == pl.List else column
    values = texts.drop_nulls().value_counts()
    suspects = values.filter(values[texts.name].str.contains(PREFILTER))
    counts: Counter[str] = Counter()
    for text, rows in suspects.iter_rows():
        for kind in {one.kind for one in Finder().find(text)}:
            counts[kind] += rows
    return counts
