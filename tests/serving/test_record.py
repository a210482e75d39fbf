"""What is written to the event log is read back as it was."""

import json
from dataclasses import replace

from recsys.contracts import Event, Query, Slate, SlateItem
from serving.events.record import Record, impression_id

CLICK = Event(user="u", item="50", timestamp=8.9e8, actions={"rating": 5.0}, request_id="r", position=0)
QUERY = Query(user="u", now=8.9e8, history=(CLICK,), context={"device": "tv"}, request_id="r")
SHOWN = SlateItem(item="50", utility=0.5, sources=("towers",), probabilities={"like": 0.25})
SLATE = Slate(user="u", request_id="r", items=(SHOWN,), degraded=(), bundle="b", rules="c")


def test_no_impression_has_the_id_of_another_page_or_user() -> None:
    shown = [
        Record.impression(query, SLATE, "recommend")
        for query in (
            QUERY,
            QUERY,
            replace(QUERY, surface="similar"),
            replace(QUERY, user="v"),
            replace(QUERY, request_id="other"),
        )
    ]
    assert shown[0].id == shown[1].id
    assert len({one.id for one in shown}) == 4
    assert QUERY.request_id not in {one.id for one in shown}


def test_feedback_is_the_event():
    record = Record.feedback("e1", CLICK)
    assert record.event() == CLICK
    assert (record.id, record.kind, record.user, record.timestamp) == ("e1", "feedback", "u", 8.9e8)
    assert "propensity" not in record.body


def test_an_impression_can_be_replayed():
    record = Record.from_json(Record.impression(QUERY, SLATE, "recommend").to_json())
    assert record.id == impression_id(QUERY)
    assert record.shown_items() == ("50",)
    assert Query.from_json(json.dumps(record.body["query"])) == QUERY
    assert Slate.from_json(json.dumps(record.body["slate"])) == SLATE


def test_the_bytes_of_a_record_do_not_depend_on_the_order_of_its_fields():
    record = Record(id="1", kind="feedback", user="u", timestamp=1.0, body={"item": "a", "actions": {"x": 1, "b": 2}})
    other = Record(id="1", kind="feedback", user="u", timestamp=1.0, body={"actions": {"b": 2, "x": 1}, "item": "a"})
    assert record.to_json() == other.to_json()
    assert Record.from_json(record.to_json()) == record
