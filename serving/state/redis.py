"""Shared key-value store: Redis or Valkey, a single server (the script touches keys of several slots, so no cluster).

Every call has a time limit, ServingError beyond it; the next call reconnects, so that a recovered server is used at once.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from recsys.errors import ConfigError, ServingError
from serving.endpoints import Server
from serving.state.protocols import CompareAndSwap

PREFIX = b"recsys:"
"""namespace of all keys"""
CONNECTIONS = 64
SCAN_COUNT = 1_000
REWRITE_S, REWRITE_POLL_S = 600.0, 0.05
"""longest time of a rewrite of the append-only file, and between two looks at it"""
REWRITING = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
COMPARE_AND_SWAP = """
for i, key in ipairs(KEYS) do
    local held = redis.call('GET', key)
    if (held and redis.sha1hex(held) or '') ~= ARGV[3 * i - 2] then return 0 end
end
for i, key in ipairs(KEYS) do
    local lifetime = tonumber(ARGV[3 * i])
    if lifetime > 0 then redis.call('SET', key, ARGV[3 * i - 1], 'PX', lifetime)
    else redis.call('SET', key, ARGV[3 * i - 1]) end
end
return 1
"""
"""KEYS; ARGV [sha1 of the expected value, new value, lifetime in ms or 0] a key -> 1, or 0 if a key holds another value"""


class RedisStore:
    """`KeyValueStore` at `redis://host:port[/database]`, `rediss://` over TLS, or `unix://path`. Connects with the first call.

    read_timeout_s, write_timeout_s: of one call, connecting and waiting for a connection included, in seconds. ttl_s: time
    to live of a key after its last write, in seconds; None keeps all. ConfigError for an unusable URL or number.
    """

    def __init__(self, server: Server, *, read_timeout_s: float, write_timeout_s: float, ttl_s: float | None) -> None:
        self._description, self._pool = _pool(server)
        self._read_timeout_s, self._write_timeout_s = read_timeout_s, write_timeout_s
        self._lifetime_ms = 0 if ttl_s is None else max(1, round(1e3 * ttl_s))
        self._client = Redis(connection_pool=self._pool)
        self._compare_and_swap = self._client.register_script(COMPARE_AND_SWAP)

    async def get(self, key: bytes) -> bytes | None:
        async with self._time_limit(self._read_timeout_s):
            return await self._client.get(PREFIX + key)

    async def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        async with self._time_limit(self._write_timeout_s):
            return await self._client.mget([PREFIX + key for key in keys])

    async def compare_and_swap(self, changes: Mapping[bytes, CompareAndSwap]) -> bool:
        keys = [PREFIX + key for key in changes]
        arguments = [argument for change in changes.values() for argument in self._arguments(change)]
        async with self._time_limit(self._write_timeout_s):
            return bool(await self._compare_and_swap(keys, arguments))

    async def clear(self) -> None:
        """Delete SCAN_COUNT keys a call, so that other clients of the server do not wait."""
        cursor = -1
        while cursor:
            async with self._time_limit(self._write_timeout_s):
                cursor, keys = await self._client.scan(max(cursor, 0), match=PREFIX + b"*", count=SCAN_COUNT)
                if keys:
                    await self._client.unlink(*keys)

    async def check(self) -> None:
        """Nothing to check: a server refuses to start on damaged data."""

    async def remove(self, prefix: bytes, chosen: Callable[[bytes], bool]) -> int:
        """A server that keeps an append-only file rewrites it, since the file holds every write of before."""
        cursor, number = -1, 0
        while cursor:
            async with self._time_limit(self._write_timeout_s):
                cursor, keys = await self._client.scan(max(cursor, 0), match=PREFIX + prefix + b"*", count=SCAN_COUNT)
                if found := [key for key in keys if chosen(key.removeprefix(PREFIX))]:
                    number += await self._client.unlink(*found)
        await self._rewrite_file()
        return number

    async def _rewrite_file(self) -> None:
        """Have the append-only file rewritten and wait for it; a running rewrite may have begun before the deletion."""
        async with self._time_limit(self._write_timeout_s):
            if not (await self._persistence())["aof_enabled"]:
                return
        async with self._time_limit(REWRITE_S):
            await self._until_rewritten()
            await self._client.bgrewriteaof()
            await self._until_rewritten()
        async with self._time_limit(self._write_timeout_s):
            if (await self._persistence())["aof_last_bgrewrite_status"] != "ok":
                raise RedisError("its append-only file could not be rewritten")

    async def _until_rewritten(self) -> None:
        while await self._rewriting():
            await asyncio.sleep(REWRITE_POLL_S)

    async def _rewriting(self) -> bool:
        found = await self._persistence()
        return any(found[name] for name in REWRITING)

    async def _persistence(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._client.info("persistence")
        return found

    async def close(self) -> None:
        await self._client.aclose()
        await self._pool.disconnect()

    def _arguments(self, change: CompareAndSwap) -> tuple[str, bytes, int]:
        held = "" if change.before is None else hashlib.sha1(change.before, usedforsecurity=False).hexdigest()
        return held, change.after, self._lifetime_ms if change.expires else 0

    @asynccontextmanager
    async def _time_limit(self, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            raise ServingError(
                f"{self._description} did not answer within {timeout_s:g} s; check that it is not overloaded"
            ) from None
        except (RedisError, OSError) as error:
            raise ServingError(f"{self._description} does not answer ({error}); check that it runs there") from None


def _pool(server: Server) -> tuple[str, BlockingConnectionPool]:
    """Description for messages, and the connection pool, with one retry for a broken connection."""
    try:
        parts = urlsplit(server.url)
        host = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
        description = f"the state store at {host}"
        options: dict[str, Any] = {"max_connections": CONNECTIONS, "timeout": None, "decode_responses": False}
        options |= {"retry": Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))}
        options |= {"username": server.user or None, "password": server.password} if server.password else {}
        options |= {"ssl_ca_certs": server.ca} if server.ca else {}
        return description, BlockingConnectionPool.from_url(server.url, **options)
    except ValueError as error:
        raise ConfigError(f"the URL of the state store cannot be used ({error}); give redis://host:port") from None
