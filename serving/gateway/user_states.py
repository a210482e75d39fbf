"""The user's state within a slice of the request's time; a store that is away leaves what the bundle knows, and a flag."""

import asyncio
import logging
from collections.abc import Callable

from serving.gateway.breaker import Breaker
from serving.gateway.pending import Pending
from serving.state.contract import UserState, UserStates

AWAY = "state:away"
SLOW = "state:slow"
NOTHING = UserState()

logger = logging.getLogger(__name__)


class StateReader:
    """Reads a store through a breaker, in at most `slice_s` seconds, and lays over it what the store does not know yet."""

    def __init__(
        self,
        states: UserStates,
        *,
        seeded: Callable[[str], UserState | None],
        breaker: Breaker,
        slice_s: float,
        pending: Pending,
    ) -> None:
        """seeded: the state of a user as of the training, so that nobody known is a stranger while the store is away"""
        self._states, self._seeded, self._breaker = states, seeded, breaker
        self._slice_s, self._pending = slice_s, pending

    async def read(self, user: str) -> tuple[UserState, tuple[str, ...]]:
        """The state, and what was wrong on the way to it. A stranger has an empty state and nothing was wrong."""
        state, flags = await self._read(user)
        if flags:
            state = self._seeded(user) or NOTHING
        return self._pending.over(user, state), flags

    async def _read(self, user: str) -> tuple[UserState, tuple[str, ...]]:
        if (call := self._breaker.allow()) is None:
            return NOTHING, (AWAY,)
        try:
            async with asyncio.timeout(self._slice_s):
                state = await self._states.get(user)
        except TimeoutError:
            call.failed()
            return NOTHING, (SLOW,)
        except Exception as error:
            call.failed()
            logger.warning("the state store failed with %s", type(error).__name__)
            return NOTHING, (AWAY,)
        except BaseException:
            call.withdrawn()
            raise
        call.succeeded()
        return state or NOTHING, ()
