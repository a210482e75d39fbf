"""Records written to the log by this gateway but not yet in the user states: read-your-writes for the next request.

Applying a record is idempotent, so one that the state has already does no harm. The records of a user are dropped when the
state has the last of them, after `keep_s`, or when users or bytes exceed their limit.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recsys.data.forgotten import NOBODY, ForgottenUsers
from recsys.errors import check_ranges
from recsys.features.spec import FeatureSpec
from serving.events.forgetting import is_dropped
from serving.events.record import Record
from serving.state.apply_events import apply_records, short_id
from serving.state.protocols import UserState

MAX_RECORDS_PER_USER = 1_000
"""older ones are dropped"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRecord:
    """A record that waits for the user states."""

    record: Record
    until: float
    """expiry by the clock"""
    num_bytes: int
    """as JSON"""


Waiting = dict[str, PendingRecord]
"""id -> record, in log order"""


class PendingRecords:
    """Pending records of at most `max_users` users and `max_bytes` as JSON; the oldest of the least recently active user are
    dropped first. clock: monotonic, in seconds.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        *,
        max_users: int,
        max_bytes: int,
        keep_s: float,
        clock: Callable[[], float],
        forgotten: Callable[[], ForgottenUsers] = lambda: NOBODY,
    ) -> None:
        check_ranges("pending", max_users=(max_users, 1, 10_000_000), keep_s=(keep_s, 0.0, 1e7))
        check_ranges("pending", max_bytes=(max_bytes, 1, 1 << 40))
        self._spec, self._max_users, self._keep_s, self._clock = spec, max_users, keep_s, clock
        self._max_bytes, self._forgotten = max_bytes, forgotten
        self._users: OrderedDict[str, Waiting] = OrderedDict()
        self.num_bytes = 0
        """of all records as JSON"""

    def __len__(self) -> int:
        """Number of users with pending records."""
        return len(self._users)

    def add(self, records: Sequence[Record]) -> None:
        """Add durable records in the order written, but those of before the forgetting of their user."""
        until, forgotten = self._clock() + self._keep_s, self._forgotten()
        for record in records:
            if is_dropped(record, forgotten):
                continue
            waiting = self._users.setdefault(record.user, {})
            self._users.move_to_end(record.user)
            self._drop(waiting, record.id)
            waiting[record.id] = pending = PendingRecord(record=record, until=until, num_bytes=len(record.to_json()))
            self.num_bytes += pending.num_bytes
            if len(waiting) > MAX_RECORDS_PER_USER:
                self._drop(waiting, next(iter(waiting)))
        while len(self._users) > self._max_users or self.num_bytes > self._max_bytes:
            self._drop_oldest()

    @property
    def users(self) -> set[str]:
        """Users with pending records."""
        return set(self._users)

    def forget(self, times: Mapping[str, float]) -> None:
        """Drop the records of these users up to these times (unix seconds)."""
        for user, time in times.items():
            waiting = self._users.get(user, {})
            self._replace(user, {id: one for id, one in waiting.items() if one.record.timestamp > time})

    def overlay(self, user: str, state: UserState) -> UserState:
        """State with the pending records of the user applied."""
        if user not in self._users:
            return state
        waiting = self._not_applied(self._users[user], state)
        self._replace(user, waiting)
        return apply_records(state, [one.record for one in waiting.values()], self._spec)

    def _not_applied(self, waiting: Waiting, state: UserState) -> Waiting:
        """Unexpired records after the last one that the state has."""
        applied, now = set(state.recent), self._clock()
        arrived = [number for number, one in enumerate(waiting.values()) if short_id(one.record) in applied]
        behind = list(waiting.items())[arrived[-1] + 1 if arrived else 0 :]
        return {id: one for id, one in behind if one.until > now}

    def _replace(self, user: str, left: Waiting) -> None:
        """Keep only these of the records of a user."""
        before = self._users.get(user, {})
        self.num_bytes -= sum(one.num_bytes for id, one in before.items() if id not in left)
        if left:
            self._users[user] = left
        else:
            self._users.pop(user, None)

    def _drop_oldest(self) -> None:
        """Drop the oldest record of the least recently active user."""
        user, waiting = next(iter(self._users.items()))
        self._drop(waiting, next(iter(waiting)))
        if not waiting:
            del self._users[user]

    def _drop(self, waiting: Waiting, id: str) -> None:
        if (gone := waiting.pop(id, None)) is not None:
            self.num_bytes -= gone.num_bytes
