"""User states and exposure over a table of bytes by key: read, fold, swap if nobody was faster, else once more.

A record counts for the exposure if and only if it is new to its user, in the same swap. So the at-least-once delivery of the
log becomes exactly once, whoever crashes where, as long as each writer gets the records of a user in the order of the log.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from recsys.errors import ServingError
from recsys.features.spec import FeatureSpec
from serving.events.record import Record, Stored
from serving.state.codec import decode, encode
from serving.state.contract import Change, Table, UserState
from serving.state.exposure import Amortised
from serving.state.folding import folded, seeded, unseen

logger = logging.getLogger(__name__)

MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
ATTEMPTS = 100
"""a lost race means that another writer got ahead; so many in a row mean that something is wrong"""


class States:
    """`UserStates` and `Exposures` of one feature spec, over any table."""

    def __init__(self, table: Table, spec: FeatureSpec, exposure: Amortised) -> None:
        self._table, self._spec, self._exposure = table, spec, exposure
        self.malformed = 0
        """records that were passed over"""
        self.damaged = 0
        """states that could not be read when a record came"""

    async def get(self, user: str) -> UserState | None:
        data = await self._table.get(key_of(user))
        return None if data is None else decode(user, data, self._spec)

    async def exposure(self) -> Mapping[str, float]:
        held = await self._table.load(self._exposure.keys)
        return await asyncio.to_thread(self._exposure.shares, held)  # tens of milliseconds for a large catalogue

    async def write(self, batch: Sequence[Stored]) -> None:
        by_user: dict[str, list[Stored]] = defaultdict(list)
        for stored in batch:
            by_user[stored.record.user].append(stored)
        await self._swapped(lambda: self._changes(by_user))

    async def seed(self, seeds: Mapping[str, UserState]) -> None:
        """Put what the training data knows of users beneath what is there; to do it again changes nothing."""
        await self._swapped(lambda: self._seeded(seeds))

    async def marked(self, name: str) -> bool:
        """Whether this was noted since everything was forgotten last."""
        return await self._table.load([_mark(name)]) != [None]

    async def mark(self, name: str) -> None:
        """Note that something was done, in the store itself."""
        (held,) = await self._table.load([_mark(name)])
        if held is None:
            await self._table.swap({_mark(name): Change(before=None, after=b"1", expires=False)})

    async def clear(self) -> None:
        """Forget everybody, and all that was shown."""
        await self._table.clear()

    async def close(self) -> None:
        await self._table.close()

    async def _swapped(self, changes_now: Callable[[], Awaitable[dict[bytes, Change]]]) -> None:
        for _ in range(ATTEMPTS):
            changes = await changes_now()
            if not changes or await self._table.swap(changes):
                return
        raise ServingError(
            f"other writers changed the same users {ATTEMPTS} times in a row; let one consumer write at a time"
        )

    async def _seeded(self, seeds: Mapping[str, UserState]) -> dict[bytes, Change]:
        keys = {user: key_of(user) for user in seeds}
        held = await self._table.load(list(keys.values()))
        changes: dict[bytes, Change] = {}
        for (user, seed), before in zip(seeds.items(), held, strict=True):
            after = encode(seed, self._spec)
            if before not in (None, after):
                after = encode(seeded(self._read(user, before), seed, self._spec), self._spec)
            if after != before:
                changes[keys[user]] = Change(before=before, after=after, expires=True)
        return changes

    async def _changes(self, by_user: Mapping[str, Sequence[Stored]]) -> dict[bytes, Change]:
        keys = {user: key_of(user) for user in by_user}
        held = await self._table.load(list(keys.values()))
        changes: dict[bytes, Change] = {}
        impressions: list[Record] = []
        for (user, batch), before in zip(by_user.items(), held, strict=True):
            state = UserState() if before is None else self._read(user, before)
            fresh, after = self._folded(state, unseen(state, batch))
            if fresh:
                changes[keys[user]] = Change(before=before, after=encode(after, self._spec), expires=True)
                impressions += [one.record for one in fresh if one.record.kind == "impression"]
            await asyncio.sleep(0)  # a request that waits on this loop comes first
        return changes | await self._exposed(impressions)

    def _read(self, user: str, data: bytes) -> UserState:
        """One state that cannot be read holds up nobody: the user begins anew, is counted, and comes back with a rebuild."""
        try:
            return decode(user, data, self._spec)
        except ServingError as error:
            self.damaged += 1
            logger.warning("a user begins anew: %s", error)
            return UserState()

    def _folded(self, state: UserState, fresh: Sequence[Stored]) -> tuple[Sequence[Stored], UserState]:
        """What can be folded, and the state then; other records, of a newer release perhaps, are passed over and counted."""
        try:
            return fresh, folded(state, fresh, self._spec)
        except MALFORMED:
            facts = [one for one in fresh if self._is_fact(one)]
            self.malformed += len(fresh) - len(facts)
            logger.warning("%d records are no facts and change no state", len(fresh) - len(facts))
            return facts, folded(state, facts, self._spec)

    def _is_fact(self, stored: Stored) -> bool:
        try:
            folded(UserState(), (stored,), self._spec)
        except MALFORMED:
            return False
        return True

    async def _exposed(self, impressions: Sequence[Record]) -> dict[bytes, Change]:
        steps = self._exposure.counted(impressions)
        held = await self._table.load(list(steps)) if steps else []
        return {
            key: Change(before=before, after=step.with_earlier(before).to_bytes(), expires=False)
            for (key, step), before in zip(steps.items(), held, strict=True)
        }


def _mark(name: str) -> bytes:
    return b"mark:" + name.encode()


def key_of(user: str) -> bytes:
    return b"user:" + user.encode("utf-8", "surrogatepass")
