"""Forgetting of users in the gateway: the entry of the list, then memory and spool; the consumer does the rest."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from recsys.data.forgotten import ForgottenList, ForgottenUsers
from recsys.errors import DataError, RecsysError, ServingError
from serving.events.forgetting import PARTS, SPOOL, is_dropped, remove_part
from serving.events.record import Record
from serving.gateway.pending_records import PendingRecords
from serving.gateway.stale_cache import StaleCache

EraseSpool = Callable[[Callable[[Record], bool]], Awaitable[int]]

logger = logging.getLogger(__name__)


class Forgetting:
    """Forgets users at once, and those whom another process put on the list within `poll_s` seconds. now: unix seconds."""

    def __init__(
        self,
        forgotten: ForgottenList,
        *,
        pending: PendingRecords,
        stale_cache: StaleCache,
        erase_spool: EraseSpool,
        now: Callable[[], float],
        poll_s: float,
    ) -> None:
        self._forgotten, self._pending, self._stale_cache = forgotten, pending, stale_cache
        self._erase_spool, self._now, self._poll_s = erase_spool, now, poll_s
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def num_open(self) -> int:
        """Number of entries whose users are not removed from every part yet."""
        return len(self._forgotten.current().open)

    async def forget(self, users: Sequence[str]) -> None:
        """Return when nothing of these users (raw or stored ids) is served or accepted any more; what the files of the consumer
        hold follows. ServingError when the list or the spool cannot be written; the caller may send the same again.
        """
        try:
            await asyncio.to_thread(self._forgotten.add, users, self._now(), PARTS)
        except DataError as error:
            raise ServingError(f"{error}; nobody is forgotten") from None
        except OSError as error:
            raise ServingError(
                f"{self._forgotten.file} cannot be written ({error.strerror}); nobody is forgotten"
            ) from None
        await self.remove()

    async def remove(self) -> None:
        """Remove the users of the list from memory and spool, where that is not done."""
        async with self._lock:
            await remove_part(SPOOL, self._forgotten, self._remove)

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _remove(self, todo: ForgottenUsers) -> None:
        users = {*self._pending.users, *self._stale_cache.users}
        gone = await asyncio.to_thread(_among, users, todo)
        self._pending.forget(gone)
        self._stale_cache.forget(gone)
        await self._erase_spool(lambda record: is_dropped(record, todo))

    async def _follow(self) -> None:
        while True:
            try:
                await self.remove()
            except (RecsysError, OSError) as error:
                logger.warning("forgotten users are not removed from the spool yet: %s", error)
            await asyncio.sleep(self._poll_s)


def _among(users: Collection[str], todo: ForgottenUsers) -> dict[str, float]:
    """User -> time of the forgetting, of those who are forgotten."""
    return {user: time for user in users if (time := todo.time_of(user)) is not None}
