"""What comes through the door, and what is refused with a sentence that names the field."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import QueryError
from serving.gateway.request_parser import ItemUpdate, RequestLimits, RequestParser

NOW = 1_000_000.0
DOCUMENTS = RequestParser(
    context={"device": "category", "hour": "number"},
    profile={"tags": "categories", "taste": "vector"},
    items={"price": "number", "genres": "categories", "name": "category"},
    liked=("genres", "name"),
    hideable=("item", "genres", "name"),
    actions={"click": "number", "rating": "number", "kind": "word"},
    limits=RequestLimits(k=50, exclude=3, events=2, id_characters=8, values=2),
    now=lambda: NOW,
    ranked=True,
)
EVENT = {"user": "u", "item": "i", "timestamp": 5.0, "actions": {"click": 1}}


def body(document: Any) -> bytes:
    return json.dumps(document).encode()


def stored(user: str) -> str:
    return f"hash of {user}"


def test_all_of_an_ask() -> None:
    ask = DOCUMENTS.recommend(
        body(
            {
                "user": "ü",
                "k": 3,
                "surface": "home",
                "context": {"device": "tv", "hour": 4},
                "profile": {"tags": ["a"], "taste": [0.5, 1]},
                "exclude": ["x"],
                "budget_ms": 30,
                "explain": True,
            }
        )
    )
    assert (ask.user, ask.k, ask.surface, ask.exclude, ask.budget_ms) == ("ü", 3, "home", ("x",), 30.0)
    assert ask.explain
    assert ask.context == {"device": "tv", "hour": 4.0}
    assert ask.profile == {"tags": ["a"], "taste": [0.5, 1.0]}


def test_a_user_is_enough() -> None:
    ask = DOCUMENTS.recommend(b'{"user": "u"}')
    assert (ask.k, ask.surface, ask.context, ask.exclude, ask.budget_ms) == (10, "default", {}, (), None)
    assert not ask.explain


def test_reasons_are_refused_where_no_ranker_could_tell_them() -> None:
    unranked = replace(DOCUMENTS, ranked=False)
    assert not unranked.recommend(b'{"user": "u", "explain": false}').explain
    with pytest.raises(QueryError, match="explain: what serves here has no ranker"):
        unranked.recommend(b'{"user": "u", "explain": true}')
    with pytest.raises(QueryError, match="explain is 1; send true or false"):
        DOCUMENTS.recommend(b'{"user": "u", "explain": 1}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not one JSON object"),
        (b"[]", "the body is a list"),
        (b"\xff", "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'{"user": "u"} x', "not one JSON object"),
        (b'{"user": "u", "user": "v"}', "the name 'user' comes twice"),
        (b'{"user": "u", "context": {"hour": 1, "hour": 2}}', "the name 'hour' comes twice"),
        (b'{"user": "u", "context": {"hour": NaN}}', "NaN is not a finite number"),
        (b'{"user": "u", "context": {"hour": -Infinity}}', "not a finite number"),
        (b'{"user": "u", "context": {"hour": 1e999}}', "context.hour is inf"),
        (b'{"user": "u", "context": {"hour": 1' + b"0" * 400 + b"}}", "context.hour is a very large number"),
        (b'{"user": "u", "k": 1' + b"0" * 5000 + b"}", "not one JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"user": ' + b"[" * 500 + b"]" * 500 + b"}", "user is a list"),
        (b'{"user": "\\ud800"}', "half of a surrogate pair"),
        (b'{"user": "u", "\\ud800": 1}', "unknown field '.ud800'"),
        (b'{"user": 405}', "user is 405; send a string"),
        (b'{"user": ""}', "user has 0 characters; send 1 to 8"),
        (b'{"user": "123456789"}', "user has 9 characters; send 1 to 8"),
        (b"{}", "lacks the field 'user'"),
        (b'{"user": "u", "history": []}', "unknown field 'history'"),
        (b'{"user": "u", "k": true}', "k is true or false"),
        (b'{"user": "u", "k": 0}', "k is 0; send a whole number from 1 to 50"),
        (b'{"user": "u", "k": 51}', "k is 51"),
        (b'{"user": "u", "k": 2.0}', "k is 2.0"),
        (b'{"user": "u", "context": {"age": 4}}', "context has the unknown field 'age'; known are device, hour"),
        (b'{"user": "u", "context": {"hour": "4"}}', "context.hour is '4'; send a finite number"),
        (b'{"user": "u", "context": {"device": ["tv"]}}', "context.device is a list; send a string"),
        (b'{"user": "u", "profile": {"tags": "a"}}', "profile.tags is 'a'; send a list"),
        (b'{"user": "u", "profile": {"tags": ["a", "b", "c"]}}', "profile.tags has 3 entries; send 0 to 2"),
        (b'{"user": "u", "exclude": ["a", "b", "c", "d"]}', "exclude has 4 entries; send 0 to 3"),
        (b'{"user": "u", "exclude": [1]}', r"exclude\[0\] is 1; send a string"),
        (b'{"user": "u", "budget_ms": 0}', "budget_ms is 0; send a number from 1 to"),
    ],
)
def test_what_is_wrong_is_named(text: bytes, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        DOCUMENTS.recommend(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.binary() | JSON.map(body) | st.dictionaries(st.sampled_from(["user", "k", "context"]), JSON).map(body))
def test_whatever_comes_is_an_ask_or_a_sentence(text: bytes) -> None:
    for read in (DOCUMENTS.recommend, DOCUMENTS.item, lambda text: DOCUMENTS.events(text, stored)):
        try:
            read(text)
        except QueryError as error:
            str(error).encode()


@pytest.mark.parametrize("text", ["x", "-5", "1e3", "", "nan", "inf", "1.2.3", "0", "99999999", "٣"])
def test_a_budget_header_is_a_number_of_milliseconds(text: str) -> None:
    with pytest.raises(QueryError, match="x-budget-ms"):
        DOCUMENTS.budget_header(text)


def test_a_budget_header_may_have_a_fraction() -> None:
    assert DOCUMENTS.budget_header("12.5") == 12.5


def test_events_become_records_of_the_stored_user() -> None:
    full = EVENT | {
        "request_id": "r",
        "position": 0,
        "propensity": 0.5,
        "bundle": "b",
        "rules": "c",
        "context": {"hour": 3},
    }
    ((record,),) = DOCUMENTS.events(body({"events": [full]}), stored)
    assert (record.kind, record.user, record.timestamp) == ("feedback", "hash of u", 5.0)
    event = record.event()
    assert (event.item, event.actions, event.context) == ("i", {"click": 1.0}, {"hour": 3.0})
    assert (event.request_id, event.position, event.propensity, event.bundle, event.rules) == ("r", 0, 0.5, "b", "c")


def test_an_event_without_a_time_happened_when_it_came() -> None:
    for event in ({"user": "u", "item": "i"}, EVENT | {"timestamp": None}):
        ((record,),) = DOCUMENTS.events(body({"events": [event]}), stored)
        assert record.timestamp == NOW


def ids(*events: dict[str, Any]) -> list[str]:
    sent = [DOCUMENTS.events(body({"events": [event]}), stored) for event in events]
    return [record.id for ((*records,),) in sent for record in records]


def test_an_id_follows_from_what_was_sent() -> None:
    reordered = dict(reversed(EVENT.items()))
    assert len(set(ids(EVENT, reordered))) == 1
    assert len(set(ids(EVENT, EVENT | {"timestamp": 6.0}, EVENT | {"item": "j"}, EVENT | {"user": "v"}))) == 4
    assert len(set(ids(EVENT | {"id": "x"}, EVENT | {"id": "x", "timestamp": 6.0}))) == 1
    assert len(set(ids(EVENT | {"id": "x"}, EVENT | {"id": "x", "user": "v"}, EVENT | {"id": "y"}, EVENT))) == 4
    assert "x" not in ids(EVENT | {"id": "x"})  # it cannot be the id of an impression


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestamp": NOW + 86_401}, r"events\[0\].timestamp is 1086401.0; send a number from 0 to"),
        ({"timestamp": -1}, "timestamp is -1"),
        ({"actions": {"buy": 1}}, "actions has the unknown field 'buy'; known are click, rating, kind"),
        ({"actions": {"click": "1"}}, "actions.click is '1'"),
        ({"actions": {"kind": 1}}, r"events\[0\].actions.kind is 1; send a string"),
        ({"actions": {"kind": ""}}, "actions.kind has 0 characters"),
        ({"position": -1}, "position is -1"),
        ({"propensity": 1.5}, "propensity is 1.5"),
        ({"id": "123456789"}, "id has 9 characters"),
        ({"value": 3}, "unknown field 'value'"),
    ],
)
def test_events_that_are_wrong_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        DOCUMENTS.events(body({"events": [EVENT | changes]}), stored)


def test_a_word_stays_a_word() -> None:
    ((record,),) = DOCUMENTS.events(body({"events": [EVENT | {"actions": {"kind": "buy", "click": 1}}]}), stored)
    assert record.event().actions == {"kind": "buy", "click": 1.0}


def test_what_a_user_hides_is_a_record_beside_the_feedback() -> None:
    def kinds(**event: Any) -> list[tuple[str, Any]]:
        ((*records,),) = DOCUMENTS.events(body({"events": [{"user": "u", "timestamp": 5, **event}]}), stored)
        assert {(record.user, record.timestamp) for record in records} == {("hash of u", 5.0)}
        assert len({record.id for record in records}) == len(records)
        return [(record.kind, record.body) for record in records]

    assert kinds(hide={"item": "i"}) == [("hide", {"item": ["i"]})]
    assert kinds(hide={"genres": ["a", "b", "a"][:2], "name": "x"}, unhide={"item": "j"}) == [
        ("hide", {"genres": ["a", "b"], "name": ["x"]}),
        ("unhide", {"item": ["j"]}),
    ]
    disliked = {"item": "i", "actions": {"rating": 1.0}}
    assert kinds(hide={"item": "i"}, actions={"rating": 1}) == [("feedback", disliked), ("hide", {"item": ["i"]})]
    assert kinds(item="i", hide={"name": "x"})[0] == ("feedback", {"item": "i"})


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "lacks the field 'item'"),
        ({"hide": {}}, r"events\[0\].hide names nothing; send values of any of item, genres, name"),
        ({"hide": {"price": "1"}}, "hide has the unknown field 'price'; known are item, genres, name"),
        ({"hide": {"item": []}}, "hide.item has 0 entries"),
        ({"hide": {"item": 5}}, "hide.item is 5; send a string"),
        ({"hide": {"item": "123456789"}}, "hide.item has 9 characters"),
        ({"hide": "i"}, "hide is 'i'; send a JSON object"),
        ({"hide": {"name": "x"}, "actions": {"click": 1}}, "lacks the field 'item'"),
        ({"hide": {"item": ["i", "j"]}, "actions": {"click": 1}}, "lacks the field 'item'"),
    ],
)
def test_what_cannot_be_hidden_is_refused(event: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        DOCUMENTS.events(body({"events": [{"user": "u", **event}]}), stored)


def test_a_repeated_hide_with_its_time_is_the_same_record_and_another_word_is_not() -> None:
    hide, unhide = ({"user": "u", "timestamp": 5, word: {"item": "i"}} for word in ("hide", "unhide"))
    assert len(set(ids(hide, dict(reversed(hide.items()))))) == 1
    assert len(set(ids(hide, unhide, hide | {"timestamp": 6}, hide | {"id": "x"}, unhide | {"id": "x"}))) == 5


def test_a_profile_has_the_columns_of_the_users_and_null_forgets() -> None:
    assert DOCUMENTS.user_profile(body({"profile": {"tags": ["a"], "taste": None}})) == {"tags": ["a"], "taste": None}
    with pytest.raises(QueryError, match="nothing changes; send a profile with any of tags, taste"):
        DOCUMENTS.user_profile(body({"profile": {}}))
    with pytest.raises(QueryError, match="profile has the unknown field 'age'"):
        DOCUMENTS.user_profile(body({"profile": {"age": 3}}))


def test_one_wrong_event_refuses_them_all() -> None:
    with pytest.raises(QueryError, match=r"events\[1\] lacks the field 'item'"):
        DOCUMENTS.events(body({"events": [EVENT, {"user": "u", "timestamp": 1}]}), stored)
    for events in ([], [EVENT] * 3):
        with pytest.raises(QueryError, match="send 1 to 2"):
            DOCUMENTS.events(body({"events": events}), stored)


def test_a_bundle_lets_all_of_an_item_change_stock_and_vectors_too(trained: Any) -> None:
    documents = RequestParser.of(trained.bundle, limits=RequestLimits(), now=lambda: NOW)
    columns = {"stock": 0, "price": 2.5, "vector": [0.5, 1.0], "tags": ["a"]}
    assert documents.item(body({"columns": columns})).columns == columns
    with pytest.raises(QueryError, match="values has the unknown field 'stock'"):
        documents.onboarding(body({"user": "u", "values": {"stock": ["0"]}}))


def test_items_have_the_columns_of_the_catalogue() -> None:
    columns = {"price": None, "genres": ["a", "b"], "name": "x"}
    assert DOCUMENTS.item(body({"columns": columns})) == ItemUpdate(columns=columns, withdrawn=None, create=True)
    given = {"withdrawn": True, "create": False}
    assert DOCUMENTS.item(body(given)) == ItemUpdate(columns={}, withdrawn=True, create=False)
    for wrong in ({}, {"stock": 1}, {"price": "1"}, {"genres": "a"}, {"genres": [1]}, {"name": 1}):
        with pytest.raises(QueryError, match="columns"):
            DOCUMENTS.item(body({"columns": wrong}))
    with pytest.raises(QueryError, match="withdrawn is 'yes'"):
        DOCUMENTS.item(body({"withdrawn": "yes"}))
    with pytest.raises(QueryError, match="create is 0; send true or false"):
        DOCUMENTS.item(body({"withdrawn": True, "create": 0}))
