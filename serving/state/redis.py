"""The shared table: Redis or Valkey, one server (the script reaches keys of several slots, so no cluster).

Every call has a time limit and fails with ServingError beyond it; the next call tries anew, so that a server that comes back
is used at once.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from recsys.errors import ConfigError, ServingError
from serving.state.contract import Change

PREFIX = b"recsys:"
"""of every key, beside other users of the server"""
CONNECTIONS = 64
CLEARED = 1_000
SWAP = """
for place, key in ipairs(KEYS) do
    local held = redis.call('GET', key)
    if (held and redis.sha1hex(held) or '') ~= ARGV[3 * place - 2] then return 0 end
end
for place, key in ipairs(KEYS) do
    local lifetime = tonumber(ARGV[3 * place])
    if lifetime > 0 then redis.call('SET', key, ARGV[3 * place - 1], 'PX', lifetime)
    else redis.call('SET', key, ARGV[3 * place - 1]) end
end
return 1
"""
"""[key], [sha1 of what it holds, new value, lifetime in milliseconds or 0] -> 1, or 0 where a key holds something else"""


class RedisTable:
    """`Table` at `redis://[user:password@]host:port[/database]`. It connects with the first call.

    read_timeout_s, write_timeout_s: for one call, connecting and waiting for a connection included, in seconds. ttl_s: a
    user who was not written for so long is forgotten, in seconds; None keeps everybody. ConfigError for a URL or a number
    that cannot be used.
    """

    def __init__(self, url: str, *, read_timeout_s: float, write_timeout_s: float, ttl_s: float | None) -> None:
        self._where, self._pool = _pool(url)
        self._read_timeout_s, self._write_timeout_s = read_timeout_s, write_timeout_s
        self._lifetime_ms = 0 if ttl_s is None else max(1, round(1e3 * ttl_s))
        self._client = Redis(connection_pool=self._pool)
        self._swap = self._client.register_script(SWAP)

    async def get(self, key: bytes) -> bytes | None:
        async with self._limited(self._read_timeout_s):
            return await self._client.get(PREFIX + key)

    async def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        async with self._limited(self._write_timeout_s):
            return await self._client.mget([PREFIX + key for key in keys])

    async def swap(self, changes: Mapping[bytes, Change]) -> bool:
        keys = [PREFIX + key for key in changes]
        arguments = [argument for change in changes.values() for argument in self._arguments(change)]
        async with self._limited(self._write_timeout_s):
            return bool(await self._swap(keys, arguments))

    async def clear(self) -> None:
        """A few keys a call, so that others who use the server do not wait."""
        cursor = -1
        while cursor:
            async with self._limited(self._write_timeout_s):
                cursor, keys = await self._client.scan(max(cursor, 0), match=PREFIX + b"*", count=CLEARED)
                if keys:
                    await self._client.unlink(*keys)

    async def close(self) -> None:
        await self._client.aclose()
        await self._pool.disconnect()

    def _arguments(self, change: Change) -> tuple[str, bytes, int]:
        held = "" if change.before is None else hashlib.sha1(change.before).hexdigest()
        return held, change.after, self._lifetime_ms if change.expires else 0

    @asynccontextmanager
    async def _limited(self, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            raise ServingError(
                f"{self._where} did not answer within {timeout_s:g} s; check that it is not overloaded"
            ) from None
        except (RedisError, OSError) as error:
            raise ServingError(f"{self._where} does not answer ({error}); check that it runs there") from None


def _pool(url: str) -> tuple[str, BlockingConnectionPool]:
    """How messages call the server, without a password, and its connections; one that broke is made anew once."""
    try:
        parts = urlsplit(url)
        where = f"the state store at {parts.hostname}:{parts.port or 6379}"
        options: dict[str, Any] = {"max_connections": CONNECTIONS, "timeout": None, "decode_responses": False}
        options |= {"retry": Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))}
        return where, BlockingConnectionPool.from_url(url, **options)
    except ValueError as error:
        raise ConfigError(f"the URL of the state store cannot be used ({error}); give redis://host:port") from None
