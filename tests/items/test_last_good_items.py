"""What a start takes whose item store is missing or damaged: the copy of the changes that served last, or nothing."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from recsys.items.live_state import LiveState
from recsys.items.store import LOG, SNAPSHOT, Change, ItemStore, Position
from recsys.stores.atomic_files import append


@dataclass(frozen=True)
class Items:
    """Newest columns of each item, in order of appearance."""

    columns: tuple[tuple[str, Any], ...] = ()

    def after(self, changes: Sequence[Change]) -> "Items":
        known = dict(self.columns)
        for change in changes:
            known[change.item] = {**known.get(change.item, {}), **change.columns}
        return replace(self, columns=tuple(known.items()))


@pytest.fixture
def store(tmp_path: Path) -> ItemStore:
    return ItemStore(tmp_path / "items")


@pytest.fixture
def copy(tmp_path: Path) -> ItemStore:
    return ItemStore(tmp_path / "last_good")


@pytest.fixture
def start(store: ItemStore, copy: ItemStore) -> Callable[..., LiveState[Items]]:
    def start(*, copies: bool = True) -> LiveState[Items]:
        state = LiveState(ItemStore(store.folder), Items(), ItemStore(copy.folder), copies=copies)
        state.follow()
        return state

    return start


@pytest.fixture
def put(store: ItemStore) -> Callable[..., None]:
    """Appends changes of items as the store does, without a schema."""

    def put(*items: str, **columns: Any) -> None:
        store.folder.mkdir(exist_ok=True)
        number = store.read(Position())[1].number
        for offset, item in enumerate(items, 1):
            change = Change(number=number + offset, item=item, columns=columns, withdrawn=None, when="now", who="ann")
            append(store.folder / LOG, change.line)

    return put


def remove(store: ItemStore) -> None:
    shutil.rmtree(store.folder)


def empty(store: ItemStore) -> None:
    (store.folder / LOG).write_bytes(b"")


def garble(store: ItemStore) -> None:
    (store.folder / LOG).write_bytes(b"\x00nothing\n" * 3)


def cut(store: ItemStore) -> None:
    log = store.folder / LOG
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])


DAMAGES = [remove, empty, garble, cut]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("copies", [True, False])
def test_a_start_without_the_store_takes_what_served_last(
    store: ItemStore, start: Any, put: Any, damage: Callable[[ItemStore], None], copies: bool
) -> None:
    put("a", "b", price=1)
    put("a", price=2)
    expected = start().state
    assert expected.columns == (("a", {"price": 2}), ("b", {"price": 1}))
    damage(store)
    state = start(copies=copies)
    assert (state.state, state.stale, state.lost) == (expected, True, False)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_running_process_goes_on_and_reads_what_is_restored(
    store: ItemStore, start: Any, put: Any, damage: Callable[[ItemStore], None], tmp_path: Path
) -> None:
    put("a", "b", price=1)
    state = start()
    whole = shutil.copytree(store.folder, tmp_path / "whole")
    damage(store)
    if damage is not garble and damage is not cut:  # lines that were read are not read again
        assert (state.follow(), state.stale, state.lost) == (state.state, True, False)
    shutil.rmtree(store.folder, ignore_errors=True)
    shutil.copytree(whole, store.folder)
    put("c", price=3)
    assert [item for item, _ in state.follow().columns] == ["a", "b", "c"]
    assert (state.stale, state.lost) == (False, False)


@pytest.mark.parametrize("damage", [garble])
def test_without_a_copy_a_damaged_store_leaves_nothing_that_may_serve(
    store: ItemStore, copy: ItemStore, start: Any, put: Any, damage: Callable[[ItemStore], None]
) -> None:
    put("a", price=1)
    whole = (store.folder / LOG).read_bytes()
    damage(store)
    state = start()
    assert (state.state, state.stale, state.lost) == (Items(), True, True)
    (store.folder / LOG).write_bytes(whole)
    state.follow()
    assert (state.stale, state.lost) == (False, False)
    assert copy.read(Position())[1].number == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_written_anew_and_never_trusted(
    store: ItemStore, copy: ItemStore, start: Any, put: Any, damage: Callable[[ItemStore], None]
) -> None:
    put("a", "b", price=1)
    expected = start().state
    garble(copy)
    assert start().state == expected
    remove(store)
    assert start().state == expected
    for destroy in (garble, empty):
        destroy(copy)
        (copy.folder / SNAPSHOT).unlink(missing_ok=True)
        state = start()
        assert (state.state, state.lost) == (Items(), True)


def test_the_copy_follows_a_store_that_puts_its_changes_together(
    store: ItemStore, copy: ItemStore, start: Any, put: Any
) -> None:
    put("a", "b", price=1)
    state = start()
    put("b", "c", price=2)
    store.compact()
    put("a", stock=0)
    expected = state.follow()
    remove(store)
    assert start().state == expected
    assert copy.read(Position())[1].number == 5


def test_copies_of_two_processes_are_one(store: ItemStore, copy: ItemStore, start: Any, put: Any) -> None:
    first, second = start(), start()
    for number in range(6):
        put(f"i{number}", price=number)
        (first if number % 2 else second).follow()
    first.follow()
    second.follow()
    assert [change.number for change in copy.history()] == [1, 2, 3, 4, 5, 6]


def test_a_copy_that_fell_behind_is_completed(store: ItemStore, copy: ItemStore, start: Any, put: Any) -> None:
    put("a", "b", price=1)
    state = start()
    remove(copy)
    put("c", price=2)
    expected = state.follow()
    remove(store)
    assert start().state == expected


def test_a_fresh_deployment_is_neither_stale_nor_lost(start: Any, copy: ItemStore) -> None:
    state = start()
    assert (state.stale, state.lost) == (False, False)
    assert not (copy.folder / SNAPSHOT).exists()
