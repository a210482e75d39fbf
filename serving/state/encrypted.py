"""Encryption of user states and exposure counts, in front of any key-value store.

Both halves of a row are encrypted by AES-SIV (recsys.encryption): the key behind its first colon, so that users can be looked
up, and found by their prefix; the value under its whole key, so that no row can take the place of another one.
"""

from collections.abc import Callable, Mapping, Sequence

from recsys.encryption import EncryptionKey
from serving.state.protocols import CompareAndSwap, KeyValueStore

SEPARATOR = b":"


class Unreadable(bytes):
    """A stored value that is not one of ours; whoever decodes it fails, and may replace it."""


class EncryptedStore:
    """`KeyValueStore` that keeps the rows of another one encrypted."""

    def __init__(self, store: KeyValueStore, key: EncryptionKey) -> None:
        self._store, self._cipher = store, key.rows("states")

    async def get(self, key: bytes) -> bytes | None:
        return self._value(key, await self._store.get(self._encrypted_key(key)))

    async def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        held = await self._store.load([self._encrypted_key(key) for key in keys])
        return [self._value(key, data) for key, data in zip(keys, held, strict=True)]

    async def compare_and_swap(self, changes: Mapping[bytes, CompareAndSwap]) -> bool:
        return await self._store.compare_and_swap(
            {self._encrypted_key(key): self._encrypted_change(key, change) for key, change in changes.items()}
        )

    async def clear(self) -> None:
        await self._store.clear()

    async def check(self) -> None:
        await self._store.check()

    async def remove(self, prefix: bytes, chosen: Callable[[bytes], bool]) -> int:
        def is_chosen(encrypted: bytes) -> bool:
            key = self._cipher.decrypt(encrypted.removeprefix(prefix), prefix)
            return key is not None and chosen(prefix + key)

        return await self._store.remove(prefix, is_chosen)

    async def close(self) -> None:
        await self._store.close()

    def _encrypted_key(self, key: bytes) -> bytes:
        prefix, separator, rest = key.partition(SEPARATOR)
        return prefix + separator + self._cipher.encrypt(rest, prefix + separator)

    def _encrypted_change(self, key: bytes, change: CompareAndSwap) -> CompareAndSwap:
        after = self._cipher.encrypt(change.after, key)
        return CompareAndSwap(before=self._stored(key, change.before), after=after, expires=change.expires)

    def _stored(self, key: bytes, value: bytes | None) -> bytes | None:
        """Equal values give equal bytes, so a comparison works; an unreadable one is compared as it was found."""
        if value is None or isinstance(value, Unreadable):
            return value
        return self._cipher.encrypt(value, key)

    def _value(self, key: bytes, data: bytes | None) -> bytes | None:
        if data is None:
            return None
        value = self._cipher.decrypt(data, key)
        return Unreadable(data) if value is None else value
