"""The users of a bundle's training data -> the store: in bulk, beneath what is known of them already, once a bundle."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from recsys.bundle import Bundle
from recsys.user_seed import USER_SEED, SeededUser, SeededUsers, read_users
from serving.state.contract import UserState
from serving.state.seen import SeenItems
from serving.state.states import States

BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeding:
    """Outcome of a put."""

    users: int
    seconds: float


def seed_name(bundle: Bundle, stored: Callable[[str], str]) -> str:
    """Differs where the users differ, or what they are called in the store."""
    return f"seed:{bundle.sha256(USER_SEED)}:{stored(USER_SEED)}"


async def seed_once(states: States, bundle: Bundle, stored: Callable[[str], str]) -> Seeding | None:
    """Seed unless that was done; None where it was, or where the bundle carries no users."""
    if not bundle.has(USER_SEED) or await states.marked(seed_name(bundle, stored)):
        return None
    return await seed(states, bundle, stored)


async def seed(states: States, bundle: Bundle, stored: Callable[[str], str]) -> Seeding:
    """stored: a user's id in the store. What live events told stays, to seed again changes nothing.

    BundleError for a bundle that carries no users, ServingError where the store does not answer.
    """
    started, users = time.perf_counter(), 0
    batches = read_users(bundle.file(USER_SEED), BATCH)
    while batch := await asyncio.to_thread(next, batches, None):
        await states.seed({stored(one.user): _state(one) for one in batch})
        users += len(batch)
    await states.mark(seed_name(bundle, stored))
    return Seeding(users=users, seconds=time.perf_counter() - started)


def seeded_states(bundle: Bundle, stored: Callable[[str], str]) -> Callable[[str], UserState | None]:
    """Stored user id -> the state that the bundle itself knows: what serves while the store does not answer."""
    if not bundle.has(USER_SEED):
        return lambda _: None
    users = SeededUsers(bundle.file(USER_SEED), stored)

    def state(user: str) -> UserState | None:
        return None if (found := users.get(user)) is None else _state(found)

    return state


def _state(user: SeededUser) -> UserState:
    seen = SeenItems(items=user.seen, last=user.last, reached=user.reached)
    return UserState(history=user.history, seen=seen, seeded=user.profile)
