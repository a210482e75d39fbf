"""Footprints grow with what they are made of; what is beyond the limits is refused in a sentence with the estimate."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.training.footprint import GIB, LogSize, TrainingSize, estimate, machine_gib
from recsys.training.limits import TrainingLimits

LARGE = LogSize(events=1_000_000, users=100_000, items=50_000, longest=1_000)


@given(
    st.sampled_from(["events", "users", "items"]), st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 9_000)
)
def test_more_of_anything_takes_no_less(what, events, users, items):
    log = LogSize(events=events, users=users, items=items, longest=1)
    less, more = estimate(log), estimate(replace(log, **{what: getattr(log, what) + 1}))
    assert (more.peak_bytes, more.seconds) >= (less.peak_bytes, less.seconds)


def test_examples_of_the_ranker_are_bounded_by_their_key():
    small, large = (estimate(LARGE, TrainingSize(examples_gib=gib)).parts[-1].bytes for gib in (0.5, 1.0))
    assert small == pytest.approx(2.5 * GIB, rel=0.01)
    assert large == pytest.approx(2 * small, rel=0.01)


@pytest.mark.parametrize(
    ("events", "users", "items", "longest", "peak_gib"),
    [
        (37_872, 20_000, 40, 20, 1.79),
        (20_000, 1_881, 999, 136, 2.23),
        (100_000, 9_456, 4_987, 192, 5.43),
        (100_000, 9_456, 29_819, 192, 6.07),
        (1_000_000, 94_565, 49_870, 702, 6.84),
    ],
)
def test_the_estimate_is_near_what_was_measured(events, users, items, longest, peak_gib):
    log = LogSize(events=events, users=users, items=items, longest=longest, objectives=2)
    assert 0.9 * peak_gib <= estimate(log).peak_bytes / GIB <= 1.25 * peak_gib


def test_a_training_without_a_ranker_takes_less():
    assert estimate(LARGE, TrainingSize(ranked=False)).seconds < estimate(LARGE).seconds


def test_what_fits_passes():
    TrainingLimits(memory_gib=64.0, hours=1e5).check(estimate(LARGE), LARGE, timed=True)


def test_too_little_memory_is_said_with_the_estimate_and_what_to_do():
    with pytest.raises(
        DataError, match=r"1,000,000 events, .* would take about .* GiB and .* hours, there are 1.0 GiB"
    ):
        TrainingLimits(memory_gib=1.0, hours=1e5).check(estimate(LARGE), LARGE, timed=True)


def test_too_much_time_is_said_where_it_is_known():
    limits = TrainingLimits(memory_gib=64.0, hours=0.01)
    with pytest.raises(DataError, match=r"wanted at most 0.01 hours \(limits.hours\)"):
        limits.check(estimate(LARGE), LARGE, timed=True)
    limits.check(estimate(LARGE), LARGE, timed=False)


def test_this_machine_has_memory():
    assert 0.1 < machine_gib() < 1e5
