"""The one declaration of an object: what it parses, publishes and writes says the same everywhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import jsonschema
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.errors import QueryError
from recsys.schema import (
    SPARSE,
    Anything,
    Boolean,
    Integer,
    ListOf,
    MappingOf,
    Nullable,
    Number,
    Object,
    Text,
    Value,
    parse_object,
    schema_of,
)
from serving.events.parquet import ITEM_COLUMNS, SCHEMAS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcxyz"), inner, max_size=3),
    max_leaves=8,
)
DECLARED: list[Value] = [
    Text(most=4, least=1),
    Text(),
    Number(low=0.0, high=1.0),
    Integer(low=0, high=9),
    Boolean(),
    Nullable(Integer(low=1, high=3)),
    ListOf(of=Number(), most=2, least=1),
    MappingOf(Nullable(Text())),
    Object({"a": Text(), "b": ListOf(of=Boolean(), most=1)}, ("a",)),
    Object({"x": Anything(), "y": MappingOf(Number())}),
    schema_of(Event),
]


@dataclass(frozen=True, kw_only=True)
class Nested:
    name: str
    marks: tuple[float, ...] = ()
    note: str | None = field(default=None, metadata=SPARSE)


@dataclass(frozen=True, kw_only=True)
class Outer:
    nested: tuple[Nested, ...] = ()
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata=SPARSE)


def refusal(declared: Value, value: Any) -> str:
    try:
        declared.parse("it", value)
    except QueryError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("declared", DECLARED, ids=str)
@given(value=JSON)
def test_a_parser_takes_only_what_its_schema_describes(declared: Value, value: Any) -> None:
    sentence = refusal(declared, value)
    if sentence:
        assert sentence.startswith("it")
        assert "\n" not in sentence
    else:
        jsonschema.validate(value, declared.schema())


@given(
    nested=st.lists(
        st.builds(Nested, name=st.text(), marks=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple))
    ).map(tuple),
    words=st.dictionaries(st.text(), st.lists(st.text()).map(tuple)),
)
def test_a_document_is_read_back_and_fits_the_published_schema(nested: Any, words: Any) -> None:
    outer = Outer(nested=nested, words=words)
    document = json.loads(json.dumps(schema_of(Outer).document(outer)))
    jsonschema.validate(document, schema_of(Outer).schema())
    assert schema_of(Outer).parse("outer", document) == outer


def test_sparse_fields_are_written_only_where_they_say_something() -> None:
    assert schema_of(Nested).document(Nested(name="a")) == {"name": "a", "marks": ()}
    assert schema_of(Nested).document(Nested(name="a", note="")) == {"name": "a", "marks": (), "note": ""}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"nested": [{"name": "a"}, {"name": 7}]}, "outer.nested[1].name is 7; send a string"),
        ({"nested": [{}]}, "outer.nested[0] lacks the field 'name'; send it"),
        ({"nested": [{"name": "a", "marks": [0, "1"]}]}, "outer.nested[0].marks[1] is '1'; send a finite number"),
        ({"words": {"w": ["a", None]}}, "outer.words.w[1] is null; send a string"),
        ({"nested": {}}, "outer.nested is an object; send a list"),
        ({"more": 1}, "outer has the unknown field 'more'; known are nested, words"),
        (None, "outer is null; send a JSON object"),
    ],
)
def test_a_sentence_names_the_path_of_the_value(value: Any, sentence: str) -> None:
    with pytest.raises(QueryError) as refused:
        schema_of(Outer).parse("outer", value)
    assert str(refused.value) == sentence


def test_a_whole_body_has_no_path() -> None:
    with pytest.raises(QueryError, match=r"^the body lacks the field 'a'; send it$"):
        Object({"a": Text()}, ("a",)).parse("", {})
    with pytest.raises(QueryError, match=r"^a is true or false; send a string$"):
        Object({"a": Text()}).parse("", {"a": True})


def test_a_body_with_thousands_of_names_is_read_in_one_pass() -> None:
    names = ",".join(f'"{number}": 0' for number in range(200_000))
    assert len(parse_object(f"{{{names}}}".encode())) == 200_000
    with pytest.raises(QueryError, match="the name '7' comes twice"):
        parse_object(f'{{{names}, "7": 1}}'.encode())


def test_the_tables_of_the_log_have_every_field_of_what_they_hold() -> None:
    feedback = {one.name for one in fields(Event)} - {"actions"}
    assert feedback <= SCHEMAS["feedback"].keys()
    assert {one.name for one in fields(SlateItem)} - {"rules"} == set(ITEM_COLUMNS)
    assert SCHEMAS["impressions"]["sources"] == pl.List(pl.String)
    assert SCHEMAS["impressions"]["degraded"] == pl.List(pl.String)


def test_numbers_of_any_size_are_refused_in_one_short_sentence() -> None:
    for value in (10**400, -(10**400)):
        with pytest.raises(QueryError, match=r"query.now is a very large number; send a finite number"):
            schema_of(Query).parse("query", {"user": "u", "now": value})


def test_a_row_reads_only_the_fields_that_are_asked_for() -> None:
    slate = {"request_id": "r", "degraded": ["a"], "later": 1}
    assert schema_of(Slate).row(slate, ("request_id", "degraded")) == {"request_id": "r", "degraded": ("a",)}
    with pytest.raises(QueryError, match="the document lacks the field 'bundle'; send it"):
        schema_of(Slate).row(slate, ("bundle",))
