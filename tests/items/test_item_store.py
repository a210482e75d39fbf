"""Changes of items are kept whole, in one order, and are read alike by everybody."""

import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.items.schema import ItemSchema
from recsys.items.store import LOG, SNAPSHOT, Change, Edit, ItemStore, Position

KINDS = {"price": "number", "genre": "category", "tags": "categories", "look": "vector"}
SCHEMA = ItemSchema(kinds=KINDS, lengths={"look": 2})


@pytest.fixture
def store(tmp_path: Path) -> ItemStore:
    return ItemStore(tmp_path / "items")


def put(store: ItemStore, item: str, *, withdrawn: bool | None = None, **columns: Any) -> Change:
    return store.put(SCHEMA, [Edit(item=item, columns=columns, withdrawn=withdrawn)], who="ann")[0]


def told(changes: list[Change]) -> dict[str, tuple[dict[str, Any], bool | None]]:
    """What the changes come to, item by item in order of appearance."""
    together: dict[str, Change] = {}
    for change in changes:
        together[change.item] = change.after(together.get(change.item))
    return {item: (dict(change.columns), change.withdrawn) for item, change in together.items()}


def test_what_is_put_is_read_in_order_by_another_reader(store: ItemStore) -> None:
    assert store.stamp() is None
    assert store.read(Position()) == ([], Position())
    put(store, "a", price=3, tags=["x", "y"])
    put(store, "b", look=[1, 0.5], withdrawn=True)
    put(store, "a", price=None)
    changes, position = ItemStore(store.folder).read(Position())
    assert [(one.number, one.item, one.columns, one.withdrawn) for one in changes] == [
        (1, "a", {"price": 3, "tags": ["x", "y"]}, None),
        (2, "b", {"look": [1, 0.5]}, True),
        (3, "a", {"price": None}, None),
    ]
    assert {one.who for one in changes} == {"ann"}
    assert store.read(position)[0] == []
    put(store, "c")
    assert [one.item for one in store.read(position)[0]] == ["c"]
    assert [one.number for one in store.history("a")] == [1, 3]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"prise": 1}, "item 'a': unknown column 'prise'; did you mean 'price'?"),
        ({"price": "1"}, "item 'a': price is '1'; give a finite number, or null where it is not known"),
        ({"price": True}, "price is True; give a finite number"),
        ({"price": float("nan")}, "price is nan; give a finite number"),
        ({"price": 10**400}, "give a finite number"),
        ({"genre": ["war"]}, r"genre is \['war'\]; give a string"),
        ({"tags": "war"}, "tags is 'war'; give a list of strings"),
        ({"tags": [1]}, r"tags is \[1\]; give a list of strings"),
        ({"look": [1.0]}, r"look is \[1.0\]; give a list of 2 finite numbers"),
        ({"item": "b"}, "unknown column 'item'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_of_the_same_call_is_written(
    store: ItemStore, columns: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence.replace("?", r"\?")):
        store.put(SCHEMA, [Edit(item="b", columns={"price": 1}), Edit(item="a", columns=columns)], who="ann")
    assert not store.folder.exists()


@pytest.mark.parametrize("item", ["", " ", "a\nb", "x" * 501, "\ud800"])
def test_an_id_that_is_no_line_of_text_is_refused(store: ItemStore, item: str) -> None:
    with pytest.raises(DataError, match="the item id is"):
        put(store, item)


def test_a_line_that_was_cut_off_is_left_out_said_and_removed_by_the_next_writer(
    store: ItemStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "a", price=1)
    whole = (store.folder / LOG).read_bytes()
    (store.folder / LOG).write_bytes(whole + whole[:-9])
    with caplog.at_level(logging.WARNING):
        changes, position = store.read(Position())
    assert [one.item for one in changes] == ["a"]
    assert [one.getMessage() for one in caplog.records] == [
        f"items: the last line of {store.folder / LOG} was cut off; it is left out"
    ]
    assert put(store, "b").number == 2
    assert [one.item for one in store.read(position)[0]] == ["b"]
    assert len((store.folder / LOG).read_bytes().splitlines()) == 2


@pytest.mark.parametrize("damage", ["nonsense", "missing", "wiped", "head"])
def test_a_damaged_store_is_refused_with_a_sentence(store: ItemStore, damage: str) -> None:
    for item in "abcd":
        put(store, item)
    _, position = store.read(Position())
    log = store.folder / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    if damage == "nonsense":
        log.write_bytes(b"".join([lines[0], b"{}\n", *lines[2:]]))
        position = Position()
    elif damage == "missing":
        log.write_bytes(b"".join([lines[0], *lines[2:]]))
        position = Position()
    elif damage == "wiped":
        log.unlink()
    else:
        store.compact()
        (store.folder / SNAPSHOT).write_text("a\n")
        position = Position()
    with pytest.raises(ConfigError, match="restore the folder from a copy"):
        store.read(position)


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items").touch()
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        ItemStore(tmp_path / "items")


ITEMS = st.sampled_from("abcde")
STEPS = st.lists(
    st.one_of(st.tuples(ITEMS, st.integers(0, 9), st.sampled_from([None, True, False])), st.just("compact")), max_size=8
)


@settings(max_examples=12, deadline=None)
@given(steps=STEPS, reads=st.sets(st.integers(0, 8)))
def test_compaction_changes_nothing_for_anybody(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], reads: set[int]
) -> None:
    """A reader who followed, with or without gaps, and one who comes last are told what a plain list of changes tells."""
    store, plain, followed = ItemStore(tmp_path_factory.mktemp("items")), [], []
    position = Position()
    for number, step in enumerate(steps):
        if step == "compact":
            store.compact()
        else:
            item, price, withdrawn = step
            plain.append(put(store, item, price=price, withdrawn=withdrawn))
        if number in reads:
            changes, position = store.read(position)
            followed += changes
    followed += store.read(position)[0]
    assert told(followed) == told(store.history()) == told(plain)
    assert list(told(followed)) == list(told(plain))


def test_a_log_that_has_grown_becomes_a_snapshot(store: ItemStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.items.store.GROWN_BYTES", 2_000)
    for number in range(30):
        put(store, f"item {number % 3}", price=number)
    assert (store.folder / LOG).stat().st_size <= 2_200
    assert json.loads((store.folder / SNAPSHOT).read_bytes().splitlines()[0])["number"] > 10
    assert told(store.history()) == {f"item {n}": ({"price": 27 + n}, None) for n in range(3)}
    assert put(store, "item 3").number == 31


def write_many(folder: Path, who: str) -> None:
    store = ItemStore(folder)
    for number in range(15):
        store.put(SCHEMA, [Edit(item=f"{who}{number}", columns={"price": number})], who=who)


def test_two_processes_that_write_at_once_lose_nothing(store: ItemStore) -> None:
    """The order of each is kept, and a reader beside them sees every change once."""
    processes = [
        multiprocessing.get_context("spawn").Process(target=write_many, args=(store.folder, who)) for who in "ab"
    ]
    for process in processes:
        process.start()
    seen, position = [], Position()
    while any(process.is_alive() for process in processes):
        changes, position = store.read(position)
        seen += changes
    seen += store.read(position)[0]
    assert [process.exitcode for process in processes] == [0, 0]
    assert [one.number for one in seen] == list(range(1, 31))
    for who in "ab":
        assert [one.item for one in seen if one.who == who] == [f"{who}{number}" for number in range(15)]
