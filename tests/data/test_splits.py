"""Splits against known answers, slow twins and the law that time only flows forward."""

import hashlib

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.data.dataset import Dataset, canonical
from recsys.data.description import Description
from recsys.data.splits import FIT, RANK, TEST, VALIDATION, GlobalTime, LeaveOneOut, Split
from recsys.errors import ConfigError, DataError

DESCRIPTION = Description(
    actions=("click",),
    context={},
    items={},
    users={},
    objectives={"click": "click"},
    target="click",
    title=None,
    order="time",
)
Row = tuple[str, str, int, int]
"""user, item, timestamp, click"""
SPREAD: list[Row] = [("d", "wxyz"[time % 4], time, 1) for time in range(30)]
"""keeps every period from being empty, so that few examples are rejected"""
rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("wxyz"), st.integers(0, 30), st.sampled_from([0, 1, 1])),
    max_size=40,
).map(lambda rows: SPREAD + rows)


def dataset_of(rows: list[Row]) -> Dataset:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Float64, "click": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return canonical(name="few", interactions=frame, items=None, users=None, description=DESCRIPTION)


def split_or_reject(splitter: GlobalTime | LeaveOneOut, dataset: Dataset) -> Split:
    try:
        return splitter.splits(dataset)[-1]
    except DataError:
        assume(False)
        raise


def test_global_time_known_answer() -> None:
    dataset = dataset_of([("a", "x", time, 1) for time in range(10)])
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1).splits(dataset)[-1]
    assert split.periods.tolist() == [FIT] * 5 + [RANK] * 2 + [VALIDATION] + [TEST] * 2
    assert split.periods.dtype == np.int8
    assert split.cuts == (5.0, 7.0, 8.0)


@settings(deadline=None)
@given(rows)
def test_global_time_never_looks_ahead_and_never_parts_a_timestamp(rows: list[Row]) -> None:
    dataset = dataset_of(rows)
    split = split_or_reject(GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1), dataset)
    times = dataset.interactions["timestamp"].to_numpy()
    assert split.cuts is not None
    for period, cut in enumerate(split.cuts, start=1):
        assert times[split.periods < period].max() < cut == times[split.periods == period].min()


@settings(deadline=None)
@given(rows, st.integers(3, 6))
def test_leave_one_out_equals_its_slow_twin(rows: list[Row], min_events: int) -> None:
    dataset = dataset_of(rows)
    split = split_or_reject(LeaveOneOut(min_events=min_events), dataset)
    assert split.periods.tolist() == slow_leave_one_out(dataset, min_events)
    assert split.cuts is None
    for user in dataset.users["user"]:
        mine = (dataset.interactions["user"] == user).to_numpy()
        assert (np.diff(split.periods[mine]) >= 0).all(), "a period of a user never returns"
        positives = dataset.positives() & mine
        held = [int((positives & (split.periods == period)).sum()) for period in (RANK, VALIDATION, TEST)]
        assert held == ([1, 1, 1] if positives.sum() >= min_events else [0, 0, 0])


def slow_leave_one_out(dataset: Dataset, min_events: int) -> list[int]:
    users, positives = dataset.interactions["user"].to_list(), dataset.positives().tolist()
    periods = []
    for row, user in enumerate(users):
        mine = [other for other in range(len(users)) if users[other] == user and positives[other]]
        ahead = sum(other >= row for other in mine)
        held = {0: TEST, 1: TEST, 2: VALIDATION, 3: RANK}.get(ahead, FIT)
        periods.append(held if len(mine) >= min_events else FIT)
    return periods


@settings(deadline=None)
@given(rows)
def test_targets_equal_their_slow_twin(rows: list[Row]) -> None:
    dataset = dataset_of(rows)
    split = split_or_reject(GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1), dataset)
    events = list(
        zip(dataset.interactions.select("user", "item").rows(), split.periods, dataset.positives(), strict=True)
    )
    met = {pair for pair, period, _ in events if period < TEST}
    wanted, asked = [], set()
    for pair, period, positive in events:
        new = bool(period == TEST and positive and pair not in met and pair not in asked)
        asked |= {pair} if new else set()
        wanted.append(new)
    assert split.targets(dataset).tolist() == wanted
    text = "".join(f"{user}\0{item}\n" for user, item in sorted(asked))
    assert split.targets_sha256(dataset) == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_of_targets_moves_with_the_targets() -> None:
    few = [("a", "x", time, 1) for time in range(8)]
    splitter = GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1)
    hashes = set()
    for last in (("a", "y", 9, 1), ("a", "z", 9, 1), ("a", "z", 9, 0), ("b", "z", 9, 1)):
        dataset = dataset_of([*few, ("a", "x", 8, 1), last])
        hashes.add(splitter.splits(dataset)[-1].targets_sha256(dataset))
    assert len(hashes) == 4


def test_an_empty_period_is_refused() -> None:
    together = dataset_of([("a", str(item), 1, 1) for item in range(10)])
    with pytest.raises(DataError, match="period FIT of the split is empty"):
        GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1).splits(together)
    few = dataset_of([("a", str(item), item, 1) for item in range(3)])
    with pytest.raises(DataError, match="period FIT of the split is empty"):
        LeaveOneOut(min_events=3).splits(few)
    with pytest.raises(DataError, match=r"period RANK.*min_events \(5\)"):
        LeaveOneOut(min_events=5).splits(few)


@pytest.mark.parametrize("key", ["rank", "validation", "test"])
@pytest.mark.parametrize("value", [0, 1, -0.1, float("nan"), "0.1", True, None])
def test_a_fraction_out_of_range_is_named(key: str, value: object) -> None:
    good = {"rank": 0.1, "validation": 0.1, "test": 0.1, "cuts": 1}
    with pytest.raises(ConfigError, match=f"^{key} is "):
        GlobalTime(**{**good, key: value})  # type: ignore[arg-type]


def test_other_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"rank \+ validation \+ test is 1"):
        GlobalTime(rank=0.5, validation=0.25, test=0.25, cuts=1)
    for value in (2, 3.0, True):
        with pytest.raises(ConfigError, match="min_events is"):
            LeaveOneOut(min_events=value)  # type: ignore[arg-type]
