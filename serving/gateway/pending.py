"""Records that this gateway wrote to the log and the states do not know yet, so that the very next answer obeys them.

A record is the same fact however often it is folded in, so nothing is wrong with one that the state has already. The
records of a user are forgotten when the state knows the last of them, or after `keep_s`, or when there is no room.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from recsys.errors import check_ranges
from recsys.features.spec import FeatureSpec
from serving.events.record import Record
from serving.state.contract import UserState
from serving.state.folding import short_id, with_records

MOST_OF_A_USER = 1_000
"""records, of which the newest stay"""

Waiting = dict[str, tuple[float, Record]]
"""id -> when it is forgotten, and the record; in the order of the log"""


class Pending:
    """Records of at most `most` users, those longest unheard of go first. clock: seconds, rising."""

    def __init__(self, spec: FeatureSpec, *, most: int, keep_s: float, clock: Callable[[], float]) -> None:
        check_ranges("pending", most=(most, 1, 10_000_000), keep_s=(keep_s, 0.0, 1e7))
        self._spec, self._most, self._keep_s, self._clock = spec, most, keep_s, clock
        self._users: OrderedDict[str, Waiting] = OrderedDict()

    def __len__(self) -> int:
        """Users of whom something waits."""
        return len(self._users)

    def add(self, records: Sequence[Record]) -> None:
        """Records that are durable, in the order in which they were written."""
        until = self._clock() + self._keep_s
        for record in records:
            waiting = self._users.setdefault(record.user, {})
            self._users.move_to_end(record.user)
            waiting.pop(record.id, None)
            waiting[record.id] = until, record
            if len(waiting) > MOST_OF_A_USER:
                del waiting[next(iter(waiting))]
        while len(self._users) > self._most:
            self._users.popitem(last=False)

    def over(self, user: str, state: UserState) -> UserState:
        """The state of the user with what waits."""
        if user not in self._users:
            return state
        waiting = self._still_waiting(self._users[user], state)
        if not waiting:
            del self._users[user]
            return state
        self._users[user] = waiting
        return with_records(state, [record for _, record in waiting.values()], self._spec)

    def _still_waiting(self, waiting: Waiting, state: UserState) -> Waiting:
        """Those behind the last one that the state knows."""
        known, now = set(state.recent), self._clock()
        arrived = [number for number, (_, record) in enumerate(waiting.values()) if short_id(record) in known]
        behind = list(waiting.items())[arrived[-1] + 1 if arrived else 0 :]
        return {id: (until, record) for id, (until, record) in behind if until > now}
