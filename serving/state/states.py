"""User states and exposure counts over a key-value store: read, apply, compare-and-swap, retry on conflict.

An impression is counted in the same swap that marks it as new to its user. So the at-least-once delivery of the log becomes
exactly-once across crashes, as long as each writer gets the records of a user in log order.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from recsys.errors import ServingError
from recsys.features.spec import FeatureSpec
from serving.events.record import Record, StoredRecord
from serving.state.apply_events import apply_stored_records, merge_seed, new_records
from serving.state.exposure_counts import ExposureCounts
from serving.state.protocols import CompareAndSwap, KeyValueStore, UserState
from serving.state.state_codec import decode, encode

logger = logging.getLogger(__name__)

MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
USERS = b"user:"
"""prefix of the keys of user states"""
ATTEMPTS = 100
"""a conflict means that another writer was faster; so many in a row mean a defect"""


class StateStore:
    """`UserStates` and `Exposures` of one feature spec, over any key-value store."""

    def __init__(self, store: KeyValueStore, spec: FeatureSpec, exposure: ExposureCounts) -> None:
        self._store, self._spec, self._exposure = store, spec, exposure
        self.malformed = 0
        """skipped records"""
        self.damaged = 0
        """unreadable states found while writing"""

    async def get(self, user: str) -> UserState | None:
        data = await self._store.get(key_of(user))
        return None if data is None else decode(user, data, self._spec)

    async def exposure(self) -> Mapping[str, float]:
        held = await self._store.load(self._exposure.keys)
        return await asyncio.to_thread(self._exposure.shares, held)  # tens of milliseconds for a large catalogue

    async def write(self, batch: Sequence[StoredRecord]) -> None:
        by_user: dict[str, list[StoredRecord]] = defaultdict(list)
        for stored in batch:
            by_user[stored.record.user].append(stored)
        await self._write_with_retry(lambda: self._record_changes(by_user))

    async def seed(self, seeds: Mapping[str, UserState]) -> None:
        """Merge states of the training data beneath the stored ones; idempotent."""
        await self._write_with_retry(lambda: self._seed_changes(seeds))

    async def marked(self, name: str) -> bool:
        """Whether `mark(name)` was called since the last `clear`."""
        return await self._store.load([_mark_key(name)]) != [None]

    async def mark(self, name: str) -> None:
        """Set a named mark in the store."""
        (held,) = await self._store.load([_mark_key(name)])
        if held is None:
            await self._store.compare_and_swap(
                {_mark_key(name): CompareAndSwap(before=None, after=b"1", expires=False)}
            )

    async def clear(self) -> None:
        """Delete all states, exposure counts and marks."""
        await self._store.clear()

    async def check(self) -> None:
        """DamagedStore where the content of the store is lost."""
        await self._store.check()

    async def forget(self, forgotten: Callable[[str], bool]) -> int:
        """Remove the states of the users whom `forgotten` accepts, from every file of the store; return their number."""
        return await forget_states(self._store, forgotten)

    async def close(self) -> None:
        await self._store.close()

    async def _write_with_retry(self, compute_changes: Callable[[], Awaitable[dict[bytes, CompareAndSwap]]]) -> None:
        for _ in range(ATTEMPTS):
            changes = await compute_changes()
            if not changes or await self._store.compare_and_swap(changes):
                return
        raise ServingError(
            f"other writers changed the same users {ATTEMPTS} times in a row; let one consumer write at a time"
        )

    async def _seed_changes(self, seeds: Mapping[str, UserState]) -> dict[bytes, CompareAndSwap]:
        keys = {user: key_of(user) for user in seeds}
        held = await self._store.load(list(keys.values()))
        changes: dict[bytes, CompareAndSwap] = {}
        for (user, seed), before in zip(seeds.items(), held, strict=True):
            after = encode(seed, self._spec)
            if before not in (None, after):
                after = encode(merge_seed(self._read(user, before), seed, self._spec), self._spec)
            if after != before:
                changes[keys[user]] = CompareAndSwap(before=before, after=after, expires=True)
        return changes

    async def _record_changes(self, by_user: Mapping[str, Sequence[StoredRecord]]) -> dict[bytes, CompareAndSwap]:
        keys = {user: key_of(user) for user in by_user}
        held = await self._store.load(list(keys.values()))
        changes: dict[bytes, CompareAndSwap] = {}
        impressions: list[Record] = []
        for (user, batch), before in zip(by_user.items(), held, strict=True):
            state = UserState() if before is None else self._read(user, before)
            fresh, after = self._apply_valid(state, new_records(state, batch))
            if fresh:
                changes[keys[user]] = CompareAndSwap(before=before, after=encode(after, self._spec), expires=True)
                impressions += [one.record for one in fresh if one.record.kind == "impression"]
            await asyncio.sleep(0)  # lets requests on this loop run first
        return changes | await self._exposure_changes(impressions)

    def _read(self, user: str, data: bytes) -> UserState:
        """Decode a state; an unreadable one is counted and replaced by an empty one until the next rebuild."""
        try:
            return decode(user, data, self._spec)
        except ServingError as error:
            self.damaged += 1
            logger.warning("a user state is reset: %s", error)
            return UserState()

    def _apply_valid(self, state: UserState, fresh: Sequence[StoredRecord]) -> tuple[Sequence[StoredRecord], UserState]:
        """Valid records and the state after them; malformed ones, perhaps of a newer release, are counted and skipped."""
        try:
            return fresh, apply_stored_records(state, fresh, self._spec)
        except MALFORMED:
            valid = [one for one in fresh if self._is_valid(one)]
            self.malformed += len(fresh) - len(valid)
            logger.warning("%d malformed records were skipped", len(fresh) - len(valid))
            return valid, apply_stored_records(state, valid, self._spec)

    def _is_valid(self, stored: StoredRecord) -> bool:
        try:
            apply_stored_records(UserState(), (stored,), self._spec)
        except MALFORMED:
            return False
        return True

    async def _exposure_changes(self, impressions: Sequence[Record]) -> dict[bytes, CompareAndSwap]:
        steps = self._exposure.count(impressions)
        held = await self._store.load(list(steps)) if steps else []
        return {
            key: CompareAndSwap(before=before, after=step.with_earlier(before).to_bytes(), expires=False)
            for (key, step), before in zip(steps.items(), held, strict=True)
        }


async def forget_states(store: KeyValueStore, forgotten: Callable[[str], bool]) -> int:
    """Remove the states of the users whom `forgotten` accepts, whatever spec they are of; return their number."""
    return await store.remove(USERS, lambda key: forgotten(user_of(key)))


def _mark_key(name: str) -> bytes:
    return b"mark:" + name.encode()


def key_of(user: str) -> bytes:
    return USERS + user.encode("utf-8", "surrogatepass")


def user_of(key: bytes) -> str:
    return key.removeprefix(USERS).decode("utf-8", "surrogatepass")
