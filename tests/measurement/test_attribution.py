"""Attribution: by hand for each rule of credit, and against a slow twin on random logs."""

from collections import defaultdict

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.measurement.attribution import CLOCK_SKEW_S, credits_of
from recsys.measurement.settings import CREDITS, Outcome

SHOWN = {"number": pl.UInt32, "user": pl.String, "item": pl.String, "request_id": pl.String, "shown_at": pl.Float64}
EVENT = {"user": pl.String, "item": pl.String, "request_id": pl.String, "at": pl.Float64, "value": pl.Float64}


def credited(shown, events, credit="last", window_s=100.0):
    """Credits by number of the impression; rows are tuples in the order of the columns, impressions without their number."""
    impressions = pl.DataFrame([(number, *row) for number, row in enumerate(shown)], schema=SHOWN, orient="row")
    outcome = Outcome(value="x", window_s=window_s, credit=credit)
    found = credits_of(impressions, pl.DataFrame(events, schema=EVENT, orient="row"), outcome)
    return dict(found.iter_rows())


FOUR = [("u", "i", f"r{number}", 10.0 * number) for number in range(4)]


@pytest.mark.parametrize(
    ("credit", "weights"),
    [
        ("last", {3: 5.0}),
        ("linear", dict.fromkeys(range(4), 1.25)),
        ("position", {0: 2.0, 1: 0.5, 2: 0.5, 3: 2.0}),
    ],
)
def test_an_event_without_a_request_credits_earlier_impressions_of_its_item(credit, weights):
    assert credited(FOUR, [("u", "i", None, 40.0, 5.0)], credit) == pytest.approx(weights)


@pytest.mark.parametrize(("touches", "weights"), [(1, {0: 5.0}), (2, {0: 2.5, 1: 2.5}), (3, {0: 2.0, 1: 1.0, 2: 2.0})])
def test_position_based_credit_of_few_touches(touches, weights):
    assert credited(FOUR[:touches], [("u", "i", None, 40.0, 5.0)], "position") == pytest.approx(weights)


@pytest.mark.parametrize("credit", CREDITS)
def test_an_event_that_names_its_request_credits_that_one_alone(credit):
    assert credited(FOUR, [("u", "i", "r1", 40.0, 5.0)], credit) == {1: 5.0}


def test_nothing_is_credited_beyond_the_window_to_others_or_backwards():
    events = [
        ("u", "i", "r1", 110.1, 1.0),  # too late for its request
        ("u", "i", "unknown", 20.0, 1.0),  # a request that the log lacks is not replaced by another one
        ("v", "i", "r1", 20.0, 1.0),  # the request of somebody else
        ("u", "j", "r1", 20.0, 1.0),  # an item that was not in it
        ("u", "i", None, -1.0, 1.0),  # before all impressions
        ("u", "i", None, 131.0, 1.0),  # after all windows
        ("u", "i", "r3", 30.0 - CLOCK_SKEW_S - 1, 1.0),  # no clock is that far behind
        ("u", "i", None, 15.0, 0.0),  # not this outcome
    ]
    assert credited(FOUR, events) == {}


TIMES = st.integers(0, 60).map(float)
IMPRESSIONS = st.lists(
    st.tuples(st.sampled_from("uv"), st.sampled_from("ij"), st.sampled_from(["r", "s"]), TIMES), max_size=12
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from("uv"),
        st.sampled_from("ij"),
        st.sampled_from(["r", "s", None]),
        TIMES,
        st.integers(-2, 3).map(float),
    ),
    max_size=8,
)


@settings(max_examples=40)
@given(shown=IMPRESSIONS, events=EVENTS, credit=st.sampled_from(CREDITS))
def test_credits_are_those_of_the_definition_and_each_event_counts_once(shown, events, credit):
    found = credited(shown, events, credit, window_s=20.0)
    wanted = slow_credits(shown, events, credit, window_s=20.0)
    assert found == pytest.approx(wanted)
    assert abs(sum(found.values())) <= sum(abs(value) for *_, value in events) + 1e-9


def slow_credits(shown, events, credit, window_s):
    found = defaultdict(float)
    for user, item, request, at, value in events:
        pairs = [
            (when, number)
            for number, (who, what, of, when) in enumerate(shown)
            if (who, what) == (user, item) and request in (None, of)
            and (0 if request is None else -CLOCK_SKEW_S) <= at - when <= window_s
        ]  # fmt: skip
        if not pairs or not value:
            continue
        rule = "last" if request is not None else credit
        for (_, number), weight in zip(sorted(pairs), weights(rule, len(pairs)), strict=True):
            if weight:
                found[number] += weight * value
    return dict(found)


def weights(rule, count):
    if rule == "last":
        return [0.0] * (count - 1) + [1.0]
    if rule == "linear" or count < 3:
        return [1 / count] * count
    return [0.4, *[0.2 / (count - 2)] * (count - 2), 0.4]
