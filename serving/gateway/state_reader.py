"""User state within a slice of the request's budget; if the store is down, the seed state of the bundle and a flag."""

import asyncio
import logging
from collections.abc import Callable

from recsys.data.forgotten import ForgottenUsers
from serving.events.forgetting import STATES
from serving.gateway.breaker import Breaker
from serving.gateway.pending_records import PendingRecords
from serving.state.protocols import UserState, UserStates

STATE_AWAY = "state:away"
STATE_SLOW = "state:slow"
EMPTY = UserState()

logger = logging.getLogger(__name__)


class StateReader:
    """Reads a store through a breaker with a timeout and overlays the pending records."""

    def __init__(
        self,
        states: UserStates,
        *,
        seed_state: Callable[[str], UserState | None],
        breaker: Breaker,
        timeout_s: float,
        pending: PendingRecords,
        forgotten: Callable[[], ForgottenUsers],
    ) -> None:
        """
        seed_state: state of a user as of the training, used while the store is down
        forgotten: users whose stored states do not count until the consumer has removed them
        """
        self._states, self._seed_state, self._breaker = states, seed_state, breaker
        self._timeout_s, self._pending, self._forgotten = timeout_s, pending, forgotten

    async def read(self, user: str) -> tuple[UserState, tuple[str, ...]]:
        """Return the state and the flags of its failures. An unknown user has an empty state and no flags."""
        state, flags = await self._read(user)
        if flags:
            state = self._seed_state(user) or EMPTY
        elif self._forgotten().is_open(user, STATES):
            state = EMPTY
        return self._pending.overlay(user, state), flags

    async def _read(self, user: str) -> tuple[UserState, tuple[str, ...]]:
        if (call := self._breaker.allow()) is None:
            return EMPTY, (STATE_AWAY,)
        try:
            async with asyncio.timeout(self._timeout_s):
                state = await self._states.get(user)
        except TimeoutError:
            call.failed()
            return EMPTY, (STATE_SLOW,)
        except Exception as error:
            call.failed()
            logger.warning("the state store failed with %s", type(error).__name__)
            return EMPTY, (STATE_AWAY,)
        except BaseException:
            call.cancelled()
            raise
        call.succeeded()
        return state or EMPTY, ()
