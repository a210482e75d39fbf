"""Seed the state store with the users of a bundle's training data: in bulk, beneath live states, once a bundle."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from recsys.bundle import Bundle
from recsys.data.forgotten import NOBODY, ForgottenUsers
from recsys.user_seed import USER_SEED, SeededUser, SeededUsers, read_users
from serving.state.protocols import UserState
from serving.state.seen import SeenItems
from serving.state.states import StateStore

SEED_BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """Number of seeded users and elapsed time."""

    users: int
    seconds: float


def seed_mark(bundle: Bundle, stored: Callable[[str], str]) -> str:
    """Name of the mark for seeded data; depends on the users and on their ids in the store."""
    return f"seed:{bundle.sha256(USER_SEED)}:{stored(USER_SEED)}"


async def seed_once(
    states: StateStore, bundle: Bundle, stored: Callable[[str], str], forgotten: ForgottenUsers = NOBODY
) -> SeedResult | None:
    """Seed unless already done; None if it was, or if the bundle carries no users."""
    if not bundle.has(USER_SEED) or await states.marked(seed_mark(bundle, stored)):
        return None
    return await seed(states, bundle, stored, forgotten)


async def seed(
    states: StateStore, bundle: Bundle, stored: Callable[[str], str], forgotten: ForgottenUsers = NOBODY
) -> SeedResult:
    """Seed the store; `stored` maps a user to the id in the store. Live events are kept; seeding is idempotent.

    A forgotten user is left out, unless the training data has only events of after the forgetting.

    BundleError for a bundle that carries no users, ServingError where the store does not answer.
    """
    started, users = time.perf_counter(), 0
    batches = read_users(bundle.file(USER_SEED), SEED_BATCH)
    while batch := await asyncio.to_thread(next, batches, None):
        known = [one for one in batch if not is_forgotten(one, forgotten)]
        await states.seed({stored(one.user): _state(one) for one in known})
        users += len(known)
    await states.mark(seed_mark(bundle, stored))
    return SeedResult(users=users, seconds=time.perf_counter() - started)


def seeded_states(
    bundle: Bundle, stored: Callable[[str], str], forgotten: Callable[[], ForgottenUsers] = lambda: NOBODY
) -> Callable[[str], UserState | None]:
    """Stored user id -> state from the bundle's seed data, served while the store does not answer."""
    if not bundle.has(USER_SEED):
        return lambda _: None
    users = SeededUsers(bundle.file(USER_SEED), stored)

    def state(user: str) -> UserState | None:
        found = users.get(user)
        return None if found is None or is_forgotten(found, forgotten()) else _state(found)

    return state


def is_forgotten(user: SeededUser, forgotten: ForgottenUsers) -> bool:
    """Whether the training data of a user holds anything that is to be forgotten; a profile alone has no time."""
    time = forgotten.time_of(user.user)
    return time is not None and (not len(user.last) or bool(user.last.min() <= time))


def _state(user: SeededUser) -> UserState:
    seen = SeenItems(items=user.seen, last=user.last, reached=user.reached)
    return UserState(history=user.history, memory=user.memory, seen=seen, seeded=user.profile)
