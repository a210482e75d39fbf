"""Personal data in text: what is found, what is not, masked without a rest, in time that is linear in the text."""

import itertools
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.personal_data import CHECKED, MAX_CHECKS, PERSONAL_KINDS, Finder
from recsys.data.sources.tables import Tables

FOUND = [
    ("write to Jane.Doe+shop@mail.example.co.uk today", "email", "Jane.Doe+shop@mail.example.co.uk"),
    ("<jürgen@müller.de>", "email", "jürgen@müller.de"),
    ("mailto:a@b.org.", "email", "a@b.org"),
    ("call +49 30 901820 now", "phone", "+49 30 901820"),
    ("0044 20 7946 0958", None, ""),
    ("tel. 0044 (20) 7031 3000", "phone", "0044 (20) 7031 3000"),
    ("+1-415-555-2671", "phone", "+1-415-555-2671"),
    ("card 4111 1111 1111 1111 exp", "card", "4111 1111 1111 1111"),
    ("5555555555554444", "card", "5555555555554444"),
    ("378282246310005", "card", "378282246310005"),
    ("pay DE89 3704 0044 0532 0130 00 or else", "iban", "DE89 3704 0044 0532 0130 00"),
    ("GB29NWBK60161331926819", "iban", "GB29NWBK60161331926819"),
    ("nl91abna0417164300", "iban", "nl91abna0417164300"),
    ("DE89370400440532013000 COBADEFFXXX", "iban", "DE89370400440532013000"),
]
NOT_FOUND = [
    "",
    "a@b",
    "user@localhost",
    "2 @ 3.50",
    "@handle and #tag",
    "4111 1111 1111 1112",
    "1234567890123",
    "1700000000000",
    "9780306406157",
    "4111111111111111.5",
    "1.4111111111111111",
    "DE89370400440532013001",
    "XX89370400440532013000",
    "+999 123 456 789",
    "C++ 2023",
    "007 James",
    "2026-11-30 10:20:30",
    "192.168.178.100:8080",
    "3f0e8c1a-7d52-4b8e-9a51-0242ac130002",
]


@pytest.mark.parametrize(("text", "kind", "span"), [one for one in FOUND if one[1]], ids=lambda value: str(value)[:20])
def test_what_is_found(text: str, kind: str, span: str) -> None:
    assert [(one.kind, text[one.start : one.end]) for one in Finder().find(text)] == [(kind, span)]
    assert Finder().mask(text) == text.replace(span, f"[{kind}]")


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_it(text: str) -> None:
    assert Finder().find(text) == []


def test_several_in_one_text() -> None:
    text = "a@b.org, +1-415-555-2671; GB29NWBK60161331926819 4111-1111-1111-1111"
    assert Finder().mask(text) == "[email], [phone]; [iban] [card]"


SAMPLES = [span for _, kind, span in FOUND if kind]


@given(st.lists(st.sampled_from([*SAMPLES, *NOT_FOUND]) | st.text(max_size=20), max_size=8).map(" | ".join))
def test_a_masked_text_has_nothing_left_and_spans_are_apart(text: str) -> None:
    found = Finder().find(text)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))
    assert {one.kind for one in found} <= set(PERSONAL_KINDS)
    masked = Finder().mask(text)
    assert Finder().find(masked) == []
    for sample in SAMPLES:
        assert f" {sample} " not in f" {masked} "


@given(st.text(alphabet=string.digits + "@+.-() aA|", max_size=300))
def test_any_text_is_read(text: str) -> None:
    Finder().mask(text)


def test_further_numbers_than_are_looked_up_count_as_found() -> None:
    finder = Finder()
    numbers = ["+999 123 456 789"] * (MAX_CHECKS + 3)
    assert sum(bool(finder.find(number)) for number in numbers) == 3


def steps(parsed: Any) -> int:
    """Most steps that a pattern may take from one beginning: products of bounded repetitions, sums of their parts."""
    total = 1
    for operation, value in parsed:
        match str(operation):
            case "MAX_REPEAT":
                _, most, inner = value
                assert most < 100, "an unbounded repetition"
                total += most * steps(inner)
            case "BRANCH":
                total += sum(steps(one) for one in value[1])
            case "SUBPATTERN":
                total += steps(value[-1])
            case "ASSERT" | "ASSERT_NOT":
                total += steps(value[1])
            case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY" | "AT":
                total += 1
            case _:
                raise AssertionError(f"{operation} is not judged")
    return total


@pytest.mark.parametrize(
    "pattern", [pattern for _, pattern, _ in CHECKED], ids=PERSONAL_KINDS[:1] + ("iban", "card", "phone")
)
def test_a_pattern_has_no_unbounded_repetition(pattern: Any) -> None:
    assert steps(re._parser.parse(pattern.pattern)) < 2_000  # type: ignore[attr-defined]


HOSTILE = [
    "a",
    "a.",
    "@",
    "a@",
    "a@a.",
    "1",
    "1 ",
    "4 1",
    "00",
    "+",
    "+1",
    "+1 (",
    "DE",
    "DE89",
    "de89 a",
    "4111-",
    "\u0661",
]


@pytest.mark.parametrize("part", HOSTILE)
def test_a_hostile_text_ends(part: str) -> None:
    """A quadratic pattern would take hours here."""
    text = (part * 1_000_000)[:1_000_000]
    assert len(Finder().mask(text)) <= len(text)


def test_a_training_counts_by_column_and_names_no_value(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(
        "interactions: {file: e.csv, user: u, item: i, timestamp: t, actions: {note: word}, context: {asked: text}}\n"
        "items: {file: i.csv, item: i, columns: {title: text, tags: categories, price: number}}\n"
        'objectives: {watch: "1"}\ntarget: watch\n'
    )
    (tmp_path / "e.csv").write_text(
        "u,i,t,note,asked\n"
        "susan@example.org,a,1,call +1-415-555-2671,red shoes\n"
        "v,b,2,call +1-415-555-2671,write to x@example.org\n"
        "v,a,3,nothing,4111 1111 1111 1111 or y@example.org\n"
    )
    (tmp_path / "i.csv").write_text(
        "i,title,tags,price\na,Shoes,GB29NWBK60161331926819|x,1\nb,Hats,x,4111111111111111\n"
    )
    notes = Tables(description=str(tmp_path / "shop.yaml")).load().notes
    personal = [note for note in notes if "personal data" in note]
    assert personal == [
        "interactions, column 'note': rows with what looks like personal data: phone 2",
        "interactions, column 'asked': rows with what looks like personal data: email 2, card 1",
        "items, column 'tags': rows with what looks like personal data: iban 1",
        "users, column 'user': rows with what looks like personal data: email 1",
    ]
    assert not any(value in str(notes) for value in ("susan", "555", "4111"))
