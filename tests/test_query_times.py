"""Times of a query that cannot be: refused before anything reads them, by the time of the query itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import FUTURE_S, Event, Query
from recsys.errors import QueryError
from recsys.stages.stage import check_times

NOW = 1_700_000_000.0


def query(now, *times):
    return Query(user="u", now=now, history=tuple(Event(user="u", item="i", timestamp=time) for time in times))


@given(st.floats(0, 4e9), st.lists(st.floats(-1e9, FUTURE_S), max_size=4))
def test_what_happened_before_a_query_may_be_asked_again_at_any_time(now, ages):
    check_times([query(now, *(min(now + age, now + FUTURE_S) for age in ages))])


@pytest.mark.parametrize(
    ("late", "message"),
    [
        (query(NOW * 1_000), r"query.now is 1700000000000, which looks like milliseconds; send unix seconds"),
        (query(NOW, NOW, NOW * 1_000), r"query.history\[1\].timestamp is 1700000000000, more than a day after"),
        (
            query(NOW, NOW + FUTURE_S + 1),
            r"query.history\[0\].timestamp is 1700086401, more than a day after query.now",
        ),
    ],
)
def test_milliseconds_and_the_future_are_refused(late, message):
    with pytest.raises(QueryError, match=message):
        check_times([query(NOW, NOW - 5), late])
