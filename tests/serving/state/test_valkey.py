"""The shared store when its server is killed, hangs, is away or comes back."""

import asyncio
import os
import signal
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from recsys.contracts import Event
from recsys.errors import ServingError
from serving.endpoints import Server
from serving.events.record import Record, StoredRecord
from serving.ops.running import MARK, leftovers, mark_children
from serving.state.exposure_counts import ExposureCounts
from serving.state.protocols import CompareAndSwap
from serving.state.redis import RedisStore
from serving.state.store_factory import open_states
from serving.state.valkey_server import ValkeyServer

PATIENCE_S = 60.0


def log(num):
    """A record each of so many users."""
    return [
        StoredRecord(
            sequence=number + 1,
            record=Record.feedback(
                str(number), Event(user=f"u{number}", item="a", timestamp=float(number), actions={"click": 1.0})
            ),
        )
        for number in range(num)
    ]


def opened(server, spec, **options):
    limits = {"read_timeout_s": 0.3, "write_timeout_s": 0.3, "ttl_s": None} | options
    return open_states(server, spec, exposure=ExposureCounts(values=dict, half_life_s=1.0), **limits)


def test_a_server_without_a_supervisor_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv(MARK, "")  # undone at the end
    mark_children(tmp_path)
    with ValkeyServer(tmp_path / "valkey") as server:
        assert list(leftovers(tmp_path)) == [server.pid]


async def until(wanted):
    """The first answer of a coroutine function that does not fail."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await wanted()
        except ServingError:
            if time.monotonic() > deadline:
                raise


@contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_was_written_outlives_a_killed_server_and_the_client_finds_the_next_one(tmp_path, spec):
    sockets, batch = tmp_path / "sockets", log(20)

    async def live():
        with ValkeyServer(tmp_path / "data", sockets=sockets) as server:
            states = opened(server.server, spec)
            await until(lambda: states.write(batch))
            os.kill(server.pid, signal.SIGKILL)
            before = [one.record.event() for one in batch]
            with pytest.raises(ServingError, match=f"the state store at {sockets}/valkey does not answer"):
                await states.get("u0")
        with ValkeyServer(tmp_path / "data", sockets=sockets):
            after = [await until(lambda user=one.record.user: states.get(user)) for one in batch]
            await states.close()
        return before, after

    before, after = asyncio.run(live())
    assert [state.history for state in after] == [(event,) for event in before]


def test_a_hanging_server_is_an_error_in_time_and_its_answers_reach_nobody_else_afterwards(valkey, spec):
    batch = log(8)

    async def live():
        states = opened(valkey.server, spec)
        await until(lambda: states.write(batch))
        with stopped(valkey.pid):
            async with asyncio.timeout(PATIENCE_S):
                asked = (states.get(one.record.user) for one in batch)
                hung = await asyncio.gather(*asked, return_exceptions=True)
                with pytest.raises(ServingError, match=r"did not answer within 0\.3 s"):
                    await states.write(batch)
        await until(lambda: states.write(batch))
        users = [f"u{number}" for number in (*range(7, -1, -1), 99)]
        found = [await until(lambda user=user: states.get(user)) for user in users]
        await states.close()
        return hung, dict(zip(users, found, strict=True))

    hung, found = asyncio.run(live())
    assert [type(one) for one in hung] == [ServingError] * 8
    assert found.pop("u99") is None
    assert [(state.history[0].user, state.sequence) for state in found.values()] == [
        (user, int(user[1:]) + 1) for user in found
    ]


def test_a_server_that_takes_connections_and_says_nothing_is_an_error_in_time(spec):
    with socket.create_server(("127.0.0.1", 0)) as silent:

        async def ask():
            states = opened(
                Server(url=f"redis://127.0.0.1:{silent.getsockname()[1]}", user="user", password="secret"), spec
            )
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(ServingError, match=r"did not answer within 0\.3 s") as raised:
                    await states.get("u")
            await states.close()
            return str(raised.value)

        assert "secret" not in asyncio.run(ask())


def test_users_are_forgotten_after_their_time_and_what_all_share_is_not(valkey):
    async def write():
        table = RedisStore(valkey.server, read_timeout_s=10.0, write_timeout_s=10.0, ttl_s=3_600.0)
        await table.compare_and_swap(
            {
                b"user:ttl": CompareAndSwap(before=None, after=b"1", expires=True),
                b"exposure:ttl": CompareAndSwap(before=None, after=b"1", expires=False),
            }
        )
        await table.close()

    asyncio.run(write())
    with redis.Redis.from_url(valkey.server.url) as server:
        assert 0 < server.pttl(b"recsys:user:ttl") <= 3_600_000
        assert server.pttl(b"recsys:exposure:ttl") == -1
        server.delete(b"recsys:user:ttl", b"recsys:exposure:ttl")


def test_a_server_says_why_it_does_not_start(tmp_path):
    (tmp_path / "two" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "two" / "appendonlydir" / "appendonly.aof.manifest").write_text("no manifest\n")
    with pytest.raises(ServingError, match="valkey-server did not start"), ValkeyServer(tmp_path / "two"):
        pass
    with pytest.raises(ServingError, match="a Unix socket may have 107"):
        ValkeyServer(tmp_path / "three", sockets=tmp_path / ("long" * 30)).start()


def test_no_port_is_open_and_no_other_account_opens_the_socket(valkey):
    ports = [one for one in psutil.Process(valkey.pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert ports == []
    path = Path(valkey.server.url.removeprefix("unix://"))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o077 == 0
    assert {file.stat().st_mode & 0o077 for file in (valkey.folder, *valkey.folder.rglob("*"))} == {0}


def test_a_stopped_server_has_no_address_and_may_be_stopped_twice(tmp_path):
    server = ValkeyServer(tmp_path)
    with server, pytest.raises(ServingError, match="runs already"):
        server.start()
    server.stop()
    with pytest.raises(ServingError, match="is not running"):
        server.server  # noqa: B018
