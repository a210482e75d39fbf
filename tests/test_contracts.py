"""What may pass between the stages, and what is refused in one sentence that names the field."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import MAX_K, Event, Query, Slate, SlateItem, query_from_dict
from recsys.errors import ConfigError, DataError, QueryError, check_ranges, exit_on_error, sentence_of

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.booleans() | NUMBERS | st.text() | st.lists(st.text(), max_size=3)
EVENTS = st.builds(
    Event,
    user=st.just("u"),
    item=st.text(),
    timestamp=NUMBERS,
    actions=st.dictionaries(st.text(), NUMBERS, max_size=2),
    context=st.dictionaries(st.text(), VALUES, max_size=2),
    position=st.none() | st.integers(0, 9),
    propensity=st.none() | st.floats(0, 1),
)
QUERIES = st.builds(
    Query,
    user=st.text(),
    now=NUMBERS,
    k=st.integers(1, MAX_K),
    context=st.dictionaries(st.text(), VALUES, max_size=2),
    profile=st.dictionaries(st.text(), VALUES, max_size=2),
    history=st.lists(EVENTS, max_size=3).map(tuple),
    surface=st.text(),
    exclude=st.lists(st.text(), max_size=2).map(tuple),
    request_id=st.text(),
    impressions=st.dictionaries(st.text(), NUMBERS, max_size=2),
    exposure=st.dictionaries(st.text(), NUMBERS, max_size=2),
    hidden=st.dictionaries(st.text(), st.lists(st.text(), max_size=2).map(tuple), max_size=2),
)
SLATE = Slate(
    user="u",
    request_id="r",
    items=(
        SlateItem(
            item="a", utility=0.5, sources=("two_tower",), probabilities={"like": 0.25}, rules={"pin": "place 1"}
        ),
    ),
    degraded=("rank",),
    bundle="b",
    rules="h",
)
GOOD = {"user": "u", "now": 1.0}


@given(QUERIES)
def test_a_query_survives_json(query):
    assert Query.from_json(query.to_json()) == query


def test_a_query_that_hides_nothing_is_written_as_before_there_was_hiding():
    assert "hidden" not in Query(user="u", now=1.0).to_json()


def test_a_slate_survives_json():
    assert Slate.from_json(SLATE.to_json()) == SLATE
    assert Slate.from_json(SLATE.to_json().encode()) == SLATE


def test_the_least_query_and_its_defaults():
    query = Query.from_json(b'{"user": "u", "now": 5}')
    assert query == Query(user="u", now=5.0, k=10, surface="default", request_id="")
    assert isinstance(query.now, float)


def test_an_event_of_the_history_belongs_to_the_asking_user():
    query = query_from_dict({**GOOD, "history": [{"item": "a", "timestamp": 3}]})
    assert query.history == (Event(user="u", item="a", timestamp=3.0),)


def test_actions_are_numbers_or_words():
    document = {
        "user": "u",
        "now": 5,
        "history": [{"item": "a", "timestamp": 3, "actions": {"kind": "buy", "price": 2}}],
    }
    (event,) = query_from_dict(document).history
    assert event.actions == {"kind": "buy", "price": 2.0}
    assert Query.from_json(query_from_dict(document).to_json()) == query_from_dict(document)


def test_nouns_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SLATE.user = "another"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user": 7}, "query.user"),
        ({"user": None}, "query.user"),
        ({"now": "noon"}, "query.now"),
        ({"now": True}, "query.now"),
        ({"now": 10**400}, "query.now"),
        ({"history": [{"item": "a", "timestamp": 1, "actions": {"kind": ["buy"]}}]}, r"history\[0\].actions.kind"),
        ({"k": 0}, "query.k"),
        ({"k": MAX_K + 1}, "query.k"),
        ({"k": 2.0}, "query.k"),
        ({"k": True}, "query.k"),
        ({"context": []}, "query.context"),
        ({"profile": "x"}, "query.profile"),
        ({"surface": 1}, "query.surface"),
        ({"exclude": "abc"}, "query.exclude"),
        ({"exclude": ["a", 1]}, r"query.exclude\[1\]"),
        ({"request_id": 1}, "query.request_id"),
        ({"hidden": ["a"]}, "query.hidden"),
        ({"hidden": {"item": "a"}}, "query.hidden.item"),
        ({"hidden": {"brand": [1]}}, r"query.hidden.brand\[0\]"),
        ({"exposure": {"a": "x"}}, "query.exposure.a"),
        ({"history": {}}, "query.history"),
        ({"history": "x"}, "query.history"),
        ({"history": [1]}, r"query.history\[0\]"),
        ({"history": [{"item": "a", "timestamp": 1}, {"timestamp": 1}]}, r"history\[1\] lacks the field .item."),
        ({"history": [{"item": "a"}]}, r"history\[0\] lacks the field .timestamp."),
        ({"history": [{"item": "a", "timestamp": 1, "actions": {"like": None}}]}, r"history\[0\].actions.like"),
        ({"history": [{"item": "a", "timestamp": 1, "actoins": {}}]}, "actoins"),
        ({"kk": 3}, "unknown field 'kk'"),
    ],
)
def test_a_wrong_field_is_refused_by_name(change, field):
    with pytest.raises(QueryError, match=field) as refused:
        Query.from_json(json.dumps({**GOOD, **change}))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", '{"user": "u", "now": NaN}', '{"user": "u", "now": Infinity}', "\ud800", "[" * 100_000]
)
def test_what_is_no_json_document_is_refused(text):
    with pytest.raises(QueryError):
        Query.from_json(text)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(QueryError):
        Query.from_json(b"\xff\xfe\x00")


@pytest.mark.parametrize("document", [[], "x", 1, None])
def test_a_document_that_is_no_object_is_refused(document):
    with pytest.raises(QueryError, match="send a JSON object"):
        query_from_dict(document)


def test_check_ranges_names_the_first_key_outside():
    check_ranges("group", low=(0, 0, 1), high=(1.0, 0.0, 1.0), whole=(1, 0.0, 1.0))
    for value in (1.5, -1, True, "1", None, float("nan")):
        with pytest.raises(ConfigError, match=r"group\.key is .*; choose a number from 0 to 1"):
            check_ranges("group", fine=(1, 0, 1), key=(value, 0.0, 1.0))


def test_whole_bounds_ask_for_a_whole_number():
    with pytest.raises(ConfigError, match=r"group\.key is 1\.0; choose a whole number from 0 to 1"):
        check_ranges("group", key=(1.0, 0, 1))


def raised(error, cause=None):
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_the_sentence_of_a_wrapped_error_is_found_and_a_defect_has_none():
    assert sentence_of(raised(ValueError("wrapped"), DataError("the column is missing"))) == "the column is missing"
    assert sentence_of(ValueError("a defect")) is None
    assert sentence_of(None) is None


@pytest.mark.parametrize(("error", "code"), [(ConfigError("a.key is 2"), 2), (KeyboardInterrupt(), 130)])
def test_an_entry_point_exits_with_one_sentence(capsys, error, code):
    with pytest.raises(SystemExit) as left, exit_on_error():
        raise error
    assert left.value.code == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert code != 2 or said == "error: a.key is 2\n"


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_error():
        raise ZeroDivisionError


def test_a_query_of_before_sends_impressions_and_shares_in_one_field():
    before = query_from_dict({"user": "u", "now": 1.0, "exposure": {"50": 3, "genre=War": 0.4}})
    assert before.impressions == before.exposure == {"50": 3.0, "genre=War": 0.4}
    now = query_from_dict({"user": "u", "now": 1.0, "exposure": {"50": 3}, "impressions": {}})
    assert (now.impressions, now.exposure) == ({}, {"50": 3.0})
