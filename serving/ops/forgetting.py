"""Forgetting of users in a deployment, running or stopped: `python -m serving forget`."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from recsys.data.forgotten import ForgottenList, ForgottenUsers
from recsys.errors import ServingError
from serving.endpoints import Endpoints, Server
from serving.events.folder_lock import lock_folder
from serving.events.forgetting import (
    LOG,
    PARQUET,
    PARTS,
    SPOOL,
    STATES,
    ForgettingSink,
    LogEraser,
    erase_from_log,
    is_dropped,
    remove_part,
)
from serving.events.log_factory import erasure_text, open_eraser
from serving.events.nats_server import NatsServer
from serving.events.parquet import ParquetSink
from serving.events.parquet_rows import remove_rows
from serving.events.spool import Spool
from serving.gateway.pseudonyms import UserPseudonyms
from serving.layout import DeploymentLayout
from serving.ops.mending import remove_moved_aside
from serving.processes import until
from serving.state.states import StateStore, forget_states
from serving.state.store_factory import open_store
from serving.state.valkey_server import ValkeyServer

STORE_TIMEOUT_S = 60.0
OWNERS = {SPOOL: "gateway", STATES: "consumer", PARQUET: "consumer", LOG: "consumer"}


def forgetting_sinks(
    layout: DeploymentLayout,
    states: StateStore,
    parquet: ParquetSink,
    forgotten: ForgottenList,
    eraser: LogEraser | None,
) -> Mapping[str, ForgettingSink]:
    """Sinks of the consumer in front of states and Parquet."""

    async def remove_states(todo: ForgottenUsers) -> int:
        remove_moved_aside(layout)
        return await states.forget(_chosen(todo))

    async def remove_parquet(todo: ForgottenUsers) -> int:
        return await asyncio.to_thread(remove_rows, parquet.folder, _chosen(todo))

    return {
        STATES: ForgettingSink(states, part=STATES, forgotten=forgotten, remove=remove_states, eraser=eraser),
        PARQUET: ForgettingSink(parquet, part=PARQUET, forgotten=forgotten, remove=remove_parquet, eraser=eraser),
    }


def is_forgotten(layout: DeploymentLayout, user: str) -> bool:
    """Whether the user is on the list of this deployment."""
    key = UserPseudonyms.from_file(layout.identity, store_raw=True).key
    return ForgottenList(layout.forgotten, key).current().time_of(user) is not None


def forget(
    layout: DeploymentLayout,
    users: Sequence[str],
    *,
    endpoints: Endpoints | None,
    report: Callable[[str], None],
    wait_s: float,
) -> None:
    """Put users (raw or stored ids) on the list and return when every part has removed them.

    Running processes remove them from their own files; the files of those that do not run are opened here. endpoints: broker
    and state store where they are not those of the live folder. ServingError when there is no such folder, or when something
    is left after `wait_s` seconds: the running or the next processes go on with it.
    """
    if not layout.live.is_dir():
        raise ServingError(f"{layout.live} does not exist; name the right --live folder")
    layout.check_encryption()
    now = time.time()
    forgotten = ForgottenList(layout.forgotten, UserPseudonyms.from_file(layout.identity, store_raw=True).key)
    forgotten.add(users, now, PARTS)
    hashes = {one for user in users for one in forgotten.current().hashes(user)}
    with _unlocked(layout.live) as stopped:
        if stopped:
            asyncio.run(_remove_stopped(layout, forgotten, endpoints, report))

    def done() -> bool:
        return not hashes & forgotten.current().open.keys()

    if not done():
        report("the running processes remove the rest")
    if not until(done, wait_s):
        left = sorted({OWNERS[part] for parts in forgotten.current().open.values() for part in parts})
        raise ServingError(
            f"nothing of before is used any more, but the files of {' and '.join(left)} still hold it after {wait_s:g} s; "
            "they go on with it, their log says why it takes so long"
        )
    if endpoints is not None and (kept := erasure_text(endpoints.broker, now)) is not None:
        report(kept)


async def _remove_stopped(
    layout: DeploymentLayout,
    forgotten: ForgottenList,
    endpoints: Endpoints | None,
    report: Callable[[str], None],
) -> None:
    """Remove users from the files whose process does not run; those of a running one are left to it."""

    async def counted(part: str, unit: str, remove: Callable[[ForgottenUsers], Awaitable[int]]) -> None:
        async def run(todo: ForgottenUsers) -> None:
            report(f"{part:<9}{await remove(todo):,} {unit}")

        await remove_part(part, forgotten, run)

    if (spool := _open_spool(layout.spool)) is not None:
        await counted(SPOOL, "records", lambda todo: spool.erase(lambda record: is_dropped(record, todo)))
        await spool.close()
    with _unlocked(layout.events) as consumer_stopped:
        if consumer_stopped:
            await counted(STATES, "states", lambda todo: _remove_states(layout, endpoints, todo))
            await counted(PARQUET, "rows", lambda todo: asyncio.to_thread(remove_rows, layout.events, _chosen(todo)))
            await counted(LOG, "records", lambda todo: _remove_logged(layout, endpoints, todo))


def _open_spool(folder: Path) -> Spool | None:
    """None where a gateway has it."""
    try:
        return Spool(folder)
    except ServingError:
        return None


async def _remove_states(layout: DeploymentLayout, endpoints: Endpoints | None, todo: ForgottenUsers) -> int:
    """From the named store, else from those in the live folder."""
    if endpoints is not None:
        return await _remove_from_store(endpoints.state, todo)
    remove_moved_aside(layout)
    number = 0
    if layout.valkey.is_dir():
        with ValkeyServer(layout.valkey, log=layout.log) as valkey:
            number += await _remove_from_store(valkey.server, todo)
    if layout.states.exists():
        number += await _remove_from_store(Server(url=layout.sqlite), todo)
    return number


async def _remove_from_store(server: Server, todo: ForgottenUsers) -> int:
    store = open_store(server, STORE_TIMEOUT_S, STORE_TIMEOUT_S, None)
    try:
        return await forget_states(store, _chosen(todo))
    finally:
        await store.close()


async def _remove_logged(layout: DeploymentLayout, endpoints: Endpoints | None, todo: ForgottenUsers) -> int:
    if endpoints is not None:
        return await _erase(endpoints.broker, todo)
    if not layout.broker.is_dir():
        return 0
    with NatsServer(layout.broker, log=layout.log) as broker:
        return await _erase(broker.server, todo)


async def _erase(broker: Server, todo: ForgottenUsers) -> int:
    eraser = open_eraser(broker)
    try:
        return await erase_from_log(eraser, todo)
    finally:
        if eraser is not None:
            await eraser.close()


def _chosen(todo: ForgottenUsers) -> Callable[[str], bool]:
    return lambda user: todo.time_of(user) is not None


@contextmanager
def _unlocked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; False where another process holds it."""
    try:
        descriptor = lock_folder(folder)
    except ServingError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)
