"""Locks are waited for with a timeout, and never by an event loop."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ServingError
from recsys.items.store import ItemStore
from recsys.stages import read_catalogue, read_schema
from recsys.stores import atomic_files
from recsys.stores.atomic_files import locked
from serving.events.folder_lock import lock_folder
from serving.gateway.item_writer import ItemStoreWriter


def test_a_lock_that_another_one_keeps_is_an_error_after_the_timeout(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(TimeoutError, match=r"has kept the lock of this folder for 0\.05 s"):  # noqa: SIM117
        with locked(tmp_path, timeout_s=0.05):
            pass
    with locked(tmp_path, timeout_s=0.0):
        pass


def test_a_lock_is_had_when_the_other_one_lets_go(tmp_path: Path) -> None:
    released, order = threading.Event(), []

    def hold() -> None:
        with locked(tmp_path):
            released.wait(30)
            order.append("released")

    holder = threading.Thread(target=hold)
    holder.start()
    threading.Timer(0.05, released.set).start()
    with locked(tmp_path, timeout_s=30.0):
        order.append("had")
    holder.join()
    assert sorted(order, reverse=True) == order or order == ["had", "released"]


def test_an_edit_of_an_item_waits_in_a_thread_and_is_refused_after_the_timeout(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "LOCK_POLL_S", 0.001)
    bundle = trained.bundle
    writer = ItemStoreWriter(ItemStore(tmp_path / "items"), read_schema(bundle), read_catalogue(bundle)["item"])
    item = read_catalogue(bundle)["item"][0]

    async def edit() -> int:
        turns, putting = 0, asyncio.ensure_future(writer.put(item, {}, withdrawn=True, create=False))
        while not putting.done():
            turns += 1
            await asyncio.sleep(0)
        with pytest.raises(ServingError, match=r"cannot be written .*another process has kept the lock"):
            putting.result()
        return turns

    descriptor = lock_folder(tmp_path / "items")
    try:
        assert asyncio.run(edit()) > 100
    finally:
        os.close(descriptor)
    assert asyncio.run(writer.put(item, {}, withdrawn=True, create=False)) is False
