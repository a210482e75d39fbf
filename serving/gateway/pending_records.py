"""Records written to the log by this gateway but not yet in the user states: read-your-writes for the next request.

Applying a record is idempotent, so one that the state has already does no harm. The records of a user are dropped when the
state has the last of them, after `keep_s`, or when the users exceed the limit.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from recsys.data.forgotten import NOBODY, ForgottenUsers
from recsys.errors import check_ranges
from recsys.features.spec import FeatureSpec
from serving.events.forgetting import is_dropped
from serving.events.record import Record
from serving.state.apply_events import apply_records, short_id
from serving.state.protocols import UserState

MAX_RECORDS_PER_USER = 1_000
"""older ones are dropped"""

Waiting = dict[str, tuple[float, Record]]
"""id -> expiry and record, in log order"""


class PendingRecords:
    """Pending records of at most `max_users` users, least recently active dropped first. clock: monotonic, in seconds."""

    def __init__(
        self,
        spec: FeatureSpec,
        *,
        max_users: int,
        keep_s: float,
        clock: Callable[[], float],
        forgotten: Callable[[], ForgottenUsers] = lambda: NOBODY,
    ) -> None:
        check_ranges("pending", max_users=(max_users, 1, 10_000_000), keep_s=(keep_s, 0.0, 1e7))
        self._spec, self._max_users, self._keep_s, self._clock = spec, max_users, keep_s, clock
        self._forgotten = forgotten
        self._users: OrderedDict[str, Waiting] = OrderedDict()

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
            waiting.pop(record.id, None)
            waiting[record.id] = until, record
            if len(waiting) > MAX_RECORDS_PER_USER:
                del waiting[next(iter(waiting))]
        while len(self._users) > self._max_users:
            self._users.popitem(last=False)

    @property
    def users(self) -> set[str]:
        """Users with pending records."""
        return set(self._users)

    def forget(self, times: Mapping[str, float]) -> None:
        """Drop the records of these users up to these times (unix seconds)."""
        for user, time in times.items():
            waiting = self._users.get(user, {})
            left = {id: (until, record) for id, (until, record) in waiting.items() if record.timestamp > time}
            if left:
                self._users[user] = left
            elif waiting:
                del self._users[user]

    def overlay(self, user: str, state: UserState) -> UserState:
        """State with the pending records of the user applied."""
        if user not in self._users:
            return state
        waiting = self._not_applied(self._users[user], state)
        if not waiting:
            del self._users[user]
            return state
        self._users[user] = waiting
        return apply_records(state, [record for _, record in waiting.values()], self._spec)

    def _not_applied(self, waiting: Waiting, state: UserState) -> Waiting:
        """Unexpired records after the last one that the state has."""
        applied, now = set(state.recent), self._clock()
        arrived = [number for number, (_, record) in enumerate(waiting.values()) if short_id(record) in applied]
        behind = list(waiting.items())[arrived[-1] + 1 if arrived else 0 :]
        return {id: (until, record) for id, (until, record) in behind if until > now}
