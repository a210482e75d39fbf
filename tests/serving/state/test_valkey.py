"""The shared store when its server is killed, hangs, is away or comes back."""

import asyncio
import os
import signal
import socket
import time
from contextlib import contextmanager

import pytest
import redis

from recsys.contracts import Event
from recsys.errors import ConfigError, ServingError
from serving.events.record import Record, StoredRecord
from serving.processes import choose_ports
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


def opened(url, spec, **options):
    limits = {"read_timeout_s": 0.3, "write_timeout_s": 0.3, "ttl_s": None} | options
    return open_states(url, spec, exposure=ExposureCounts(values=dict, half_life_s=1.0), **limits)


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
    port = choose_ports({"port": 0})["port"]
    batch = log(20)

    async def live():
        with ValkeyServer(tmp_path, port=port) as server:
            states = opened(server.url, spec)
            await until(lambda: states.write(batch))
            os.kill(server.pid, signal.SIGKILL)
            before = [one.record.event() for one in batch]
            with pytest.raises(ServingError, match=f"the state store at 127.0.0.1:{port} does not answer"):
                await states.get("u0")
        with ValkeyServer(tmp_path, port=port):
            after = [await until(lambda user=one.record.user: states.get(user)) for one in batch]
            await states.close()
        return before, after

    before, after = asyncio.run(live())
    assert [state.history for state in after] == [(event,) for event in before]


def test_a_hanging_server_is_an_error_in_time_and_its_answers_reach_nobody_else_afterwards(valkey, spec):
    batch = log(8)

    async def live():
        states = opened(valkey.url, spec)
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
            states = opened(f"redis://user:secret@127.0.0.1:{silent.getsockname()[1]}", spec)
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(ServingError, match=r"did not answer within 0\.3 s") as raised:
                    await states.get("u")
            await states.close()
            return str(raised.value)

        assert "secret" not in asyncio.run(ask())


def test_users_are_forgotten_after_their_time_and_what_all_share_is_not(valkey):
    async def write():
        table = RedisStore(valkey.url, read_timeout_s=10.0, write_timeout_s=10.0, ttl_s=3_600.0)
        await table.compare_and_swap(
            {
                b"user:ttl": CompareAndSwap(before=None, after=b"1", expires=True),
                b"exposure:ttl": CompareAndSwap(before=None, after=b"1", expires=False),
            }
        )
        await table.close()

    asyncio.run(write())
    with redis.Redis.from_url(valkey.url) as server:
        assert 0 < server.pttl(b"recsys:user:ttl") <= 3_600_000
        assert server.pttl(b"recsys:exposure:ttl") == -1
        server.delete(b"recsys:user:ttl", b"recsys:exposure:ttl")


def test_a_server_says_why_it_does_not_start(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ServingError, match="is not free"),
        ValkeyServer(tmp_path / "one", port=taken.getsockname()[1]),
    ):
        pass
    (tmp_path / "two" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "two" / "appendonlydir" / "appendonly.aof.manifest").write_text("no manifest\n")
    with pytest.raises(ServingError, match="valkey-server did not start"), ValkeyServer(tmp_path / "two"):
        pass
    with pytest.raises(ConfigError, match="port is -1"):
        ValkeyServer(tmp_path, port=-1)


def test_a_stopped_server_has_no_address_and_may_be_stopped_twice(tmp_path):
    server = ValkeyServer(tmp_path)
    with server, pytest.raises(ServingError, match="runs already"):
        server.start()
    server.stop()
    with pytest.raises(ServingError, match="is not running"):
        server.url  # noqa: B018
