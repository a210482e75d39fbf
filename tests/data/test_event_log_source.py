"""What comes back from the log's partitions is what users did, once, whatever the order in which it came."""

import asyncio
import json
from dataclasses import replace
from functools import partial

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.pseudonyms import pseudonym
from recsys.data.sources.event_log import EventLogSource
from recsys.data.sources.synthetic import Synthetic
from recsys.data.sources.tables import Tables
from recsys.errors import DataError
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

TABLES = """\
interactions: {file: events.csv, user: user, item: item, timestamp: at, actions: {rating: number, bought: number},
               context: {device: category, hour: number}}
items: {file: items.csv, item: item, columns: {title: text}}
users: {file: users.csv, user: user, columns: {age: number}}
objectives: {watch: "1", like: "rating >= 4"}
target: watch
"""
OLD = "user,item,at,rating,bought,device,hour\nu,a,100,5,,tv,3\nv,b,200,1,1,,\n"


@pytest.fixture(scope="module")
def description(tmp_path_factory):
    """description.yaml of the data folder that a run leaves."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "shop.yaml").write_text(TABLES)
    (folder / "events.csv").write_text(OLD)
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{item},{item}!\n" for item in "abcde"))
    (folder / "users.csv").write_text("user,age\nu,30\nv,40\n")
    Tables(description=str(folder / "shop.yaml")).load().save(folder / "data")
    return str(folder / "data" / DESCRIPTION_FILE)


def written(folder, *batches):
    sink, sequence = ParquetSink(folder), 0
    for batch in batches:
        numbered = [StoredRecord(sequence=sequence + place, record=record) for place, record in enumerate(batch)]
        asyncio.run(sink.write(numbered))
        sequence += len(batch)
    sink.close()
    return str(folder)


def clicked(id, user="u", item="a", at=1_000.0, **fields):
    return Record.feedback(id, Event(user=user, item=item, timestamp=at, **fields))


def loaded(folder, description, history=True):
    return EventLogSource(folder=str(folder), description=description, history=history, wait_s=0.0).load()


def test_the_log_stands_behind_the_history(tmp_path, description):
    late = clicked("1", at=150.0, actions={"rating": 4.0}, context={"device": "phone", "hour": 7, "other": 1})
    new = clicked("2", user="new", item="c", at=300.0)
    written(tmp_path, [new], [late])
    whole = loaded(tmp_path, description).interactions
    assert whole.rows() == [
        ("u", "a", 100.0, 5.0, None, "tv", 3.0),
        ("u", "a", 150.0, 4.0, None, "phone", 7.0),
        ("v", "b", 200.0, 1.0, 1.0, None, None),
        ("new", "c", 300.0, None, None, None, None),
    ]
    alone = loaded(tmp_path, description, history=False)
    assert alone.interactions.rows() == [whole.row(1), whole.row(3)]
    assert dict(alone.users.rows()) == {"u": 30.0, "v": 40.0, "new": None}
    assert alone.num_items == 5


def test_a_record_counts_once(tmp_path, description):
    click = clicked("1", item="b")
    written(tmp_path, [click, clicked("2", item="c")], [click])
    dataset = loaded(tmp_path, description)
    assert dataset.num_events == 4
    assert "events from the log: 2" in dataset.notes
    assert "copies of records that were left out: 1" in dataset.notes


def test_what_the_history_has_already_is_not_counted_twice(tmp_path, description):
    again = clicked("1", at=100.0, actions={"rating": 5.0}, context={"device": "tv", "hour": 3})
    written(tmp_path, [again])
    assert loaded(tmp_path, description).num_events == 2


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_every_order_of_arrival_gives_the_same_data(tmp_path_factory, description, data):
    records = [
        clicked("1", user="u", item="a", at=500.0, actions={"rating": 1.0}),
        clicked("1", user="u", item="b", at=500.0, actions={"rating": 2.0}),  # the same id, not the same fact
        clicked("2", user="v", item="c", at=500.0),
        clicked("3", user="w", item="d", at=86_400.0 * 3, actions={"bought": 1.0}),
        clicked("4", user="w", item="d", at=400.0, context={"device": "tv"}),
    ]
    arrived = data.draw(st.permutations(records + data.draw(st.lists(st.sampled_from(records), max_size=3))))
    border = data.draw(st.integers(0, len(arrived)))
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    in_order = loaded(written(first, records), description)
    shuffled = loaded(written(second, arrived[:border], arrived[border:]), description)
    assert shuffled.interactions.equals(in_order.interactions)
    assert shuffled.users.equals(in_order.users)
    assert shuffled.hash() == in_order.hash()


def test_a_world_that_went_through_the_log_is_the_same_world(tmp_path):
    world = Synthetic(users=30, items=20, events=500, seed=0).load()
    kept = world.interactions.head(300)
    replace(world, interactions=kept).save(tmp_path / "data")
    described = world.description
    records = [
        clicked(
            f"r{number}",
            user=row["user"],
            item=row["item"],
            at=row["timestamp"],
            actions={name: row[name] for name in described.actions if row[name] is not None},
            context={name: row[name] for name in described.context if row[name] is not None},
        )
        for number, row in enumerate(world.interactions.tail(200).to_dicts())
    ]
    written(tmp_path / "log", records[100:], records[:100])
    again = loaded(tmp_path / "log", str(tmp_path / "data" / DESCRIPTION_FILE))
    assert again.interactions.equals(world.interactions)
    assert again.items.equals(world.items)
    assert again.hash() == world.hash()


def test_an_action_that_is_not_described_is_said(tmp_path, description):
    written(tmp_path, [clicked("1", actions={"shared": 1.0})])
    assert "actions in the log that are not described: shared" in loaded(tmp_path, description).notes


def test_words_come_back_and_answers_are_counted(tmp_path):
    (tmp_path / "shop.yaml").write_text(
        "interactions: {file: e.csv, user: user, item: item, timestamp: at, actions: {kind: word}}\n"
        "objectives: {views: {count: \"kind == 'view'\", steps: [1, 2]}, buy: \"kind == 'buy'\"}\ntarget: views\n"
    )
    (tmp_path / "e.csv").write_text("user,item,at,kind\nu,a,100,view\nv,b,200, buy \n")
    shown = (SlateItem(item=item, utility=0.5, sources=("t",), probabilities={}) for item in "ab")
    slate = Slate(user="u", request_id="q", items=tuple(shown), degraded=(), bundle="B", rules="R")
    records = [Record.impression(Query(user="u", now=1_000.0, request_id="q"), slate, "recommend")]
    actions = [{"kind": "view"}, {"kind": "view"}, {"kind": "buy"}, {"kind": 3.0}]
    for number, (item, done) in enumerate(zip("aabb", actions, strict=True)):
        records.append(clicked(f"{number}", item=item, at=1_001.0 + number, actions=done, request_id="q"))
    log = written(tmp_path / "log", records[:3], records[3:])
    dataset = EventLogSource(folder=log, description=str(tmp_path / "shop.yaml"), history=True, wait_s=5.0).load()
    assert dataset.interactions["kind"].to_list() == ["view", "buy", "view", "view", "buy", None]
    assert dataset.impressions is None or dataset.impressions.height == 0
    later = clicked("late", item="b", at=2_000.0, actions={"kind": "view"})
    log = written(tmp_path / "more", [*records, later, Record.impression(Query(user="u", now=3_000.0), slate, "r")])
    dataset = EventLogSource(folder=log, description=str(tmp_path / "shop.yaml"), history=True, wait_s=5.0).load()
    assert dataset.impressions["labels"].to_list() == [[1, 1, 0], [0, 0, 1]]


def shown_to(user, at, request, *items):
    chosen = tuple(SlateItem(item=item, utility=0.5, sources=("t",), probabilities={}) for item in items)
    slate = Slate(user=user, request_id=request, items=chosen, degraded=(), bundle="B", rules="R")
    return Record.impression(Query(user=user, now=at, request_id=request), slate, "recommend")


def test_feedback_of_another_user_is_no_answer_to_a_request(tmp_path, description):
    """Whoever sends events may name any request of its tenant."""
    records = [
        shown_to("u", 1_000.0, "q", "a", "b"),
        clicked("own", user="u", item="a", at=1_001.0, actions={"rating": 5.0}, request_id="q"),
        clicked("foreign", user="v", item="b", at=1_001.0, actions={"rating": 5.0}, request_id="q"),
        shown_to("v", 3_000.0, "later", "c"),
    ]
    log = written(tmp_path, records)
    dataset = EventLogSource(folder=log, description=description, history=True, wait_s=5.0).load()
    assert dataset.impressions.select("user", "item", "labels").rows() == [("u", "a", [1, 1]), ("u", "b", [0, 0])]
    assert dataset.num_events == 4, "the event itself counts"


@pytest.mark.parametrize("history", [True, False])
def test_a_user_of_the_tables_and_its_pseudonym_in_the_log_are_one(tmp_path, description, history):
    key, live = b"k" * 32, tmp_path / "live"
    hashed = partial(pseudonym, key)
    stranger = hashed("stranger")
    records = [
        shown_to(hashed("v"), 900.0, "unanswered", "b"),
        shown_to(hashed("u"), 1_000.0, "q", "a"),
        clicked("1", user=hashed("u"), item="a", at=1_001.0, actions={"rating": 5.0}, request_id="q"),
        clicked("2", user=stranger, item="c", at=1_002.0),
        shown_to(stranger, 3_000.0, "later", "c"),
    ]
    log = written(live / "events", records)

    def load():
        return EventLogSource(folder=log, description=description, history=history, wait_s=5.0).load()

    with pytest.raises(DataError, match=r"names users by pseudonyms .* and .*identity.key is missing"):
        load()
    (live / "identity.key").write_text(key.hex())
    (live / "identity.key").chmod(0o600)
    dataset = load()
    assert dict(dataset.users.rows()) == {"u": 30.0, "v": 40.0, stranger: None}
    own = dataset.interactions.filter(pl.col("user") == "u")["timestamp"].to_list()
    assert own == ([100.0, 1_001.0] if history else [1_001.0])
    assert dataset.impressions.select("user", "item", "labels").rows() == [("v", "b", [0, 0]), ("u", "a", [1, 1])]
    dataset.save(live / "data")
    description = str(live / "data" / DESCRIPTION_FILE)
    assert load().users.equals(dataset.users), "also after a training on them"


def test_a_key_changes_nothing_where_the_log_has_the_ids_themselves(tmp_path, description):
    log = written(tmp_path / "live" / "events", [clicked("1", user="u"), clicked("2", user="new")])
    before = loaded(log, description)
    (tmp_path / "live" / "identity.key").write_text((b"k" * 32).hex())
    (tmp_path / "live" / "identity.key").chmod(0o600)
    assert loaded(log, description).hash() == before.hash()


def test_numbers_in_a_category_are_text(tmp_path, description):
    written(tmp_path, [clicked("1", context={"device": 7})])
    assert loaded(tmp_path, description, history=False).interactions["device"].to_list() == ["7"]


def test_errors_name_the_folder_and_what_was_found(tmp_path, description):
    with pytest.raises(DataError, match=f"{tmp_path}: there is no feedback/day="):
        loaded(tmp_path, description)
    written(tmp_path, [clicked("1", item="a"), clicked("2", item="b", context={"hour": "noon"})])
    with pytest.raises(DataError, match="context 'hour': 'noon' is not of the kind 'number'"):
        loaded(tmp_path, description)


def test_a_log_of_another_catalogue_is_refused(tmp_path, description):
    written(tmp_path, [clicked(str(number), item=f"x{number}") for number in range(9)])
    with pytest.raises(DataError, match="items"):
        loaded(tmp_path, description)


def test_a_log_needs_a_history_with_time(tmp_path, description):
    (tmp_path / "shop.yaml").write_text(TABLES.replace("timestamp: at", "order: file"))
    for name in ("events", "items", "users"):
        (tmp_path / f"{name}.csv").write_text(
            {"events": OLD, "items": "item,title\na,a\nb,b\n"}.get(name, "user,age\nu,1\n")
        )
    written(tmp_path, [clicked("1")])
    with pytest.raises(DataError, match="there is no time"):
        loaded(tmp_path, str(tmp_path / "shop.yaml"))


def test_a_file_of_somebody_else_is_refused(tmp_path, description):
    written(tmp_path, [clicked("1")])
    (stranger := tmp_path / "feedback" / "day=1970-01-02").mkdir()
    (stranger / "7-9.parquet").write_text(json.dumps({"no": "table"}))
    with pytest.raises(DataError, match="cannot be read"):
        loaded(tmp_path, description)
    pl.DataFrame({"id": [1]}).write_parquet(stranger / "7-9.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        loaded(tmp_path, description)


@pytest.mark.parametrize("column", ["id", "user", "timestamp", "item", "context", "request_id"])
def test_feedback_without_a_column_of_ours_is_refused(tmp_path, description, column):
    written(tmp_path, [clicked("a")])
    (file,) = tmp_path.glob("feedback/*/*.parquet")
    pl.read_parquet(file, glob=False).drop(column).write_parquet(file)
    with pytest.raises(DataError, match=f"no file of the feedback has a column '{column}'"):
        loaded(tmp_path, description)


@pytest.mark.parametrize("text", ["{", "[1]", None, ""])
def test_a_context_that_is_none_is_refused(tmp_path, description, text):
    written(tmp_path, [clicked("a")])
    (file,) = tmp_path.glob("feedback/*/*.parquet")
    pl.read_parquet(file, glob=False).with_columns(context=pl.lit(text, pl.String)).write_parquet(file)
    with pytest.raises(DataError, match=r"the context of the record 'a' is .*, no JSON object; keep nothing but"):
        loaded(tmp_path, description)
