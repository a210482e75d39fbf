"""The log as Parquet: every record in one file, once, whatever the borders of the batches."""

import asyncio
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.errors import ServingError
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

DAY = 86_400.0
QUERY = Query(user="u", now=1.5 * DAY, context={"device": "tv"}, request_id="q", k=2)
SHOWN = (
    SlateItem(
        item="a", utility=0.5, sources=("towers", "popular"), probabilities={"like": 0.25}, propensity=0.5, rank=0
    ),
    SlateItem(item="b", utility=0.4, sources=(), probabilities={}, rank=1, explored=True),
)
SLATE = Slate(user="u", request_id="q", items=SHOWN, degraded=("stranger",), bundle="B", rules="R")


def written(folder, *batches):
    sink = ParquetSink(folder)
    try:
        for batch in batches:
            asyncio.run(sink.write(batch))
    finally:
        sink.close()
    return sink


def table(folder, kind):
    files = sorted(folder.glob(f"{kind}/**/*.parquet"))
    return pl.concat([pl.read_parquet(file, glob=False) for file in files], how="diagonal").sort("sequence")


def stored(sequence, record):
    return StoredRecord(sequence=sequence, record=record)


def test_what_users_hide_and_their_profiles_have_a_table_of_their_own(tmp_path):
    hide = Record.preference("h", "hide", "u", DAY + 1, {"author": ["X"]})
    profile = Record.preference("p", "profile", "u", DAY + 2, {"age": None})
    written(tmp_path, [stored(1, hide), stored(2, profile), stored(3, Record.preference("n", "new", "u", 1.0, {}))])
    rows = table(tmp_path, "preferences").select("sequence", "kind", "body").rows()
    assert rows == [(1, "hide", '{"author":["X"]}'), (2, "profile", '{"age":null}')]
    assert not list(tmp_path.glob("feedback/*")), "what is trained on has no row of them"
    assert table(tmp_path, "malformed")["id"].to_list() == ["n"]


def test_feedback_has_a_column_an_action(tmp_path):
    event = Event(
        user="u",
        item="a",
        timestamp=DAY + 1,
        actions={"rating": 4, "position": 1},
        context={"device": "tv"},
        request_id="q",
        position=3,
        propensity=0.25,
        bundle="B",
        rules="R",
    )
    plain = Event(user="v", item="b", timestamp=DAY + 2)
    written(tmp_path, [stored(7, Record.feedback("x", event)), stored(8, Record.feedback("y", plain))])
    (file,) = tmp_path.glob("feedback/day=1970-01-02/*.parquet")
    assert file.name == "7-8.parquet"
    first, second = table(tmp_path, "feedback").to_dicts()
    assert first == {
        "sequence": 7,
        "id": "x",
        "user": "u",
        "timestamp": DAY + 1,
        "item": "a",
        "request_id": "q",
        "position": 3,
        "propensity": 0.25,
        "bundle": "B",
        "rules": "R",
        "context": '{"device":"tv"}',
        "action_rating": 4.0,
        "action_position": 1.0,
    }
    assert {name for name, value in second.items() if value is not None} == {
        "sequence",
        "id",
        "user",
        "timestamp",
        "item",
        "context",
    }


def test_an_impression_has_a_row_an_item_and_its_query_once(tmp_path):
    written(tmp_path, [stored(3, Record.impression(QUERY, SLATE, "recommend"))])
    first, second = table(tmp_path, "impressions").to_dicts()
    assert (first["item"], first["position"], first["propensity"], first["utility"]) == ("a", 0, 0.5, 0.5)
    assert (second["item"], second["position"], second["explored"], second["rank"]) == ("b", 1, True, 1)
    assert json.loads(first["probabilities"]) == {"like": 0.25}
    assert first["sources"] == ["towers", "popular"]
    assert Query.from_json(first["query"]) == QUERY
    assert second["query"] is None
    for row in (first, second):
        assert (row["request_id"], row["bundle"], row["rules"], row["rung"]) == ("q", "B", "R", "recommend")
        assert row["degraded"] == ["stranger"]


def test_an_empty_slate_is_a_row_without_an_item(tmp_path):
    empty = Slate(user="u", request_id="q", items=(), degraded=(), bundle="B", rules="R")
    written(tmp_path, [stored(3, Record.impression(QUERY, empty, "popular"))])
    (row,) = table(tmp_path, "impressions").to_dicts()
    assert row["item"] is None
    assert row["query"] is not None


@pytest.mark.parametrize(
    "record",
    [
        Record(id="x", kind="feedback", user="u", timestamp=1.0, body={"actions": {"a": 1}}),
        Record(id="x", kind="feedback", user="u", timestamp=1.0, body={"item": 3}),
        Record(id="x", kind="feedback", user="u", timestamp=1.0, body={"item": "i", "actions": {"a": ["much"]}}),
        Record(id="x", kind="feedback", user="u", timestamp=1.0, body={"item": "i", "actions": {"a": float("inf")}}),
        Record(id="x", kind="feedback", user="u", timestamp=1e300, body={"item": "i"}),
        Record(id="x", kind="feedback", user="u", timestamp=1.0, body={"item": "i", "position": 2**70}),
        Record(id="x", kind="impression", user="u", timestamp=1.0, body={"slate": {}}),
        Record(id="x", kind="impression", user="u", timestamp=1.0, body={"slate": []}),
    ],
    ids=[
        "no item",
        "a number for an item",
        "a list for a number",
        "no finite number",
        "no such day",
        "too large",
        "no slate",
        "a list",
    ],
)
def test_what_does_not_fit_is_kept_as_text_and_stops_nobody(tmp_path, feedback, record):
    sink = written(tmp_path, [stored(1, feedback(0)), stored(2, record), stored(3, feedback(1))])
    assert table(tmp_path, "feedback")["id"].to_list() == ["r0", "r1"]
    (row,) = table(tmp_path, "malformed").to_dicts()
    assert Record(**json.loads(row["record"])) == record
    assert row["reason"]
    assert (sink.rows, sink.malformed) == (3, 1)


@settings(deadline=None, max_examples=40)
@given(
    days=st.lists(st.integers(0, 2), min_size=1, max_size=24),
    steps=st.lists(st.tuples(st.integers(0, 24), st.integers(1, 24), st.booleans()), max_size=12),
)
def test_a_record_is_in_one_file_whatever_the_borders_and_however_often_it_comes(tmp_path_factory, days, steps):
    """A consumer that goes back, takes other batches, and is killed between a file and the next."""
    folder = tmp_path_factory.mktemp("partitions")
    log = [stored(10 + place, mixed(place, day)) for place, day in enumerate(days)]
    done = 0
    for back, size, killed in [*steps, (24, 24, False), (24, 24, False)]:
        start = max(0, done - back)
        batch = log[start : start + size]
        before = set(folder.glob("**/*.parquet"))
        written(folder, batch)
        if killed:
            for file in sorted(set(folder.glob("**/*.parquet")) - before)[1:]:
                file.unlink()
        else:
            done = max(done, start + len(batch))
    feedback = table(folder, "feedback") if any(place % 3 for place in range(len(days))) else pl.DataFrame({"id": []})
    impressions = table(folder, "impressions")
    assert feedback["id"].to_list() == [f"f{place}" for place in range(len(days)) if place % 3]
    wanted = [(f"q{place}", item) for place in range(0, len(days), 3) for item in ("a", "b")]
    assert sorted(impressions.select("request_id", "item").rows()) == sorted(wanted)


def mixed(place, day):
    if place % 3:
        return Record.feedback(f"f{place}", Event(user="u", item="i", timestamp=day * DAY + place))
    slate = {"user": "u", "request_id": f"q{place}", "degraded": (), "bundle": "B", "rules": "R"}
    query = Query(user="u", now=day * DAY + place, request_id=f"q{place}")
    return Record.impression(query, Slate(items=SHOWN, **slate), "recommend")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, feedback):
    (tmp_path / "feedback").write_text("in the way")
    with pytest.raises(ServingError, match=f"{tmp_path} cannot be written"):
        written(tmp_path, [stored(1, feedback(0))])


def test_a_folder_has_one_process(tmp_path: Path):
    sink = ParquetSink(tmp_path)
    with pytest.raises(ServingError, match="in use by another process"):
        ParquetSink(tmp_path)
    sink.close()
    ParquetSink(tmp_path).close()
