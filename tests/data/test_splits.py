"""Splits against known answers, slow twins and the law that time only flows forward."""

import dataclasses
import hashlib

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.data.dataset import Dataset, canonical
from recsys.data.description import Description
from recsys.data.splits import (
    FIT,
    LATER,
    RANK,
    TEST,
    VALIDATION,
    GlobalTime,
    LeaveOneOut,
    NextBasket,
    NextInSession,
    Random,
    Split,
    Splitter,
    whole,
)
from recsys.errors import ConfigError, DataError
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.replay import Replay

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
PAIRS: list[Row] = [(f"e{time}", "w", time, 1) for time in range(30)]
"""and for a split by pairs"""
rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("wxyz"), st.integers(0, 30), st.sampled_from([0, 1, 1])),
    max_size=40,
).map(lambda rows: SPREAD + rows)


def dataset_of(rows: list[Row]) -> Dataset:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Float64, "click": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return canonical(name="few", interactions=frame, items=None, users=None, description=DESCRIPTION)


def splits_or_reject(splitter: Splitter, dataset: Dataset) -> tuple[Split, ...]:
    try:
        return splitter.splits(dataset)
    except DataError:
        assume(False)
        raise


def split_or_reject(splitter: Splitter, dataset: Dataset) -> Split:
    (split,) = splits_or_reject(splitter, dataset)
    return split


SPLITTERS: dict[str, Splitter] = {
    "global time": GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None),
    "windows": GlobalTime(rank=0.1, validation=0.1, test=0.3, cuts=3, later=0.0, horizon_days=None),
    "leave one out": LeaveOneOut(min_events=4),
    "random": Random(rank=0.2, validation=0.2, test=0.2, seed=1),
}


def test_global_time_known_answer() -> None:
    dataset = dataset_of([("a", "x", time, 1) for time in range(10)])
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    assert split.periods.tolist() == [FIT] * 5 + [RANK] * 2 + [VALIDATION] + [TEST] * 2
    assert split.periods.dtype == np.int8
    assert split.cuts == (5.0, 7.0, 8.0)


def test_the_next_basket_is_asked_about_alone() -> None:
    baskets = [(user, item, time, 1) for time in range(10) for user, item in (("a", f"x{time}"), ("a", "y"))]
    dataset = dataset_of([*baskets, ("b", "z", 9, 1), ("b", "y", 9, 0)])
    (split,) = NextBasket(rank=0.2, validation=0.1, test=0.3).splits(dataset)
    asked = dataset.interactions.filter(pl.Series(split.targets(dataset, TEST, np.ones(dataset.num_events, bool))))
    assert split.cuts is not None
    assert sorted(asked.select("user", "item").rows()) == [("a", f"x{split.cuts[2]:.0f}"), ("a", "y"), ("b", "z")]
    assert split.cuts[2] < 9, "user a has later baskets in the period, which are no targets"
    assert 0 < split.horizon < 1
    assert split.observed(dataset.interactions["timestamp"].to_numpy(), TEST).any()


def test_the_last_event_of_the_last_session_is_asked_about_alone() -> None:
    minutes = {"a": (0, 60, 61, 62, 200), "b": (70, 71, 72), "c": (90, 150)}
    spread = [("d", f"d{time}", 60 * time, 1) for time in range(-900, 200, 100)]
    visits = [(user, f"{user}{time}", 60 * time, 1) for user, times in minutes.items() for time in times]
    dataset = dataset_of([*spread, *visits, ("b", "b70", 60 * 72 + 1, 1)])
    (split,) = NextInSession(rank=0.1, validation=0.1, test=0.6, gap_minutes=30.0).splits(dataset)
    replay = Replay(dataset, split)

    def asked(showable: np.ndarray | None) -> list[tuple[str, str]]:
        rows = dataset.interactions.filter(pl.Series(split.targets(dataset, TEST, showable)))
        return sorted(rows.select("user", "item").rows())

    assert asked(np.ones(dataset.num_events, bool)) == [("a", "a62"), ("b", "b70")]
    assert asked(None) == [("a", "a62")], "user b sees an item again, which may not be shown"
    queries = EvaluationQueries.of(dataset, split, replay, TEST)
    (query,) = queries.queries
    assert [event.item for event in query.history] == ["a0", "a60", "a61"]
    assert split.horizon == 60 * 30


@settings(deadline=None)
@given(rows)
def test_global_time_never_looks_ahead_and_never_parts_a_timestamp(rows: list[Row]) -> None:
    dataset = dataset_of(rows)
    split = split_or_reject(
        GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None), dataset
    )
    times = dataset.interactions["timestamp"].to_numpy()
    assert split.cuts is not None
    for period, cut in enumerate(split.cuts, start=1):
        assert times[split.periods < period].max() < cut == times[split.periods == period].min()


def test_windows_known_answer() -> None:
    dataset = dataset_of([("a", "x", time, 1) for time in range(12)])
    splits = GlobalTime(rank=0.25, validation=1 / 12, test=0.5, cuts=3, later=0.0, horizon_days=None).splits(dataset)
    held = [RANK] * 3 + [VALIDATION] + [TEST] * 2
    assert [split.periods.tolist() for split in splits] == [
        [FIT] * 2 + held + [LATER] * 4,
        [FIT] * 4 + held + [LATER] * 2,
        [FIT] * 6 + held,
    ]
    assert [split.cuts for split in splits] == [(2.0, 5.0, 6.0, 8.0), (4.0, 7.0, 8.0, 10.0), (6.0, 9.0, 10.0)]
    assert splits[1].name == "global time split (window 2 of 3)"
    assert len({split.targets_sha256(dataset) for split in splits}) == 1, "the pair was met before, each time"


def test_a_share_that_is_later_is_as_if_the_log_had_ended() -> None:
    events = [("a", f"i{time}", time, 1) for time in range(12)]
    (earlier,) = GlobalTime(rank=1 / 6, validation=1 / 12, test=1 / 12, cuts=1, later=1 / 3, horizon_days=None).splits(
        dataset_of(events)
    )
    (ended,) = GlobalTime(rank=0.25, validation=0.125, test=0.125, cuts=1, later=0.0, horizon_days=None).splits(
        dataset_of(events[:8])
    )
    assert earlier.name == "global time split before the last 33%"
    assert earlier.periods.tolist() == [*ended.periods.tolist(), *[LATER] * 4]


@settings(deadline=None)
@given(rows, st.integers(1, 4))
def test_windows_share_out_what_one_cut_tests(rows: list[Row], cuts: int) -> None:
    dataset = dataset_of(rows)
    (single,) = splits_or_reject(
        GlobalTime(rank=0.1, validation=0.1, test=0.4, cuts=1, later=0.0, horizon_days=None), dataset
    )
    splits = splits_or_reject(
        GlobalTime(rank=0.1, validation=0.1, test=0.4, cuts=cuts, later=0.0, horizon_days=None), dataset
    )
    tested = np.stack([split.periods == TEST for split in splits])
    assert (tested.sum(axis=0) == (single.periods == TEST)).all(), "every event once, and no other"
    assert all((np.diff(split.periods) >= 0).all() for split in splits)
    assert not (splits[-1].periods == LATER).any()


@settings(deadline=None)
@given(rows)
def test_one_cut_is_what_it_always_was(rows: list[Row]) -> None:
    dataset = dataset_of(rows)
    split = split_or_reject(
        GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None), dataset
    )
    times = sorted(time for _, _, time in dataset.interactions.select("user", "item", "timestamp").rows())
    starts = [round((1 - share) * len(times)) for share in (0.2 + 0.1 + 0.2, 0.1 + 0.2, 0.2)]
    assert split.cuts == tuple(times[min(start, len(times) - 1)] for start in starts)


@pytest.mark.parametrize("name", SPLITTERS)
@settings(deadline=None)
@given(rows=rows)
def test_nothing_known_comes_after_what_is_asked(name: str, rows: list[Row]) -> None:
    dataset = dataset_of(rows + PAIRS)
    users, times = (dataset.interactions[column].to_numpy() for column in ("user", "timestamp"))
    for split in splits_or_reject(SPLITTERS[name], dataset):
        assert split.periods.dtype == np.int8
        assert len(split.periods) == dataset.num_events
        assert set(split.periods.tolist()) <= {FIT, RANK, VALIDATION, TEST, LATER}
        for period in (RANK, VALIDATION, TEST):
            known, asked = split.known(period), split.periods == period
            assert not (known & asked).any()
            assert (split.periods[known] < period).all()
            if name in ("global time", "windows"):
                assert times[known].max() < times[asked].min()
            if name == "leave one out":
                for user in set(users[asked]):
                    mine = users == user
                    assert np.flatnonzero(known & mine).max() < np.flatnonzero(asked & mine).min()


@pytest.mark.parametrize("name", SPLITTERS)
def test_a_split_is_ordered_when_no_user_meets_a_later_period_first(name: str) -> None:
    dataset = dataset_of([(user, f"{user}{number}", number, 1) for user in "abc" for number in range(20)])
    users = dataset.interactions["user"].to_numpy()
    for split in SPLITTERS[name].splits(dataset):
        rising = all((np.diff(split.periods[users == user]) >= 0).all() for user in set(users))
        assert rising == split.ordered == (name != "random")


def test_what_may_be_known() -> None:
    periods = np.array([FIT, RANK, VALIDATION, TEST, LATER], dtype=np.int8)
    for strict, fitted in ((False, 3), (True, 2)):
        split = Split(name="", periods=periods, cuts=None, horizon=np.inf, strict=strict, ordered=True)
        for period, count in ((RANK, 1), (VALIDATION, 2), (TEST, fitted)):
            assert split.known(period).tolist() == [True] * count + [False] * (5 - count)
    assert [SPLITTERS[name].splits(dataset_of(PAIRS))[0].strict for name in ("global time", "random")] == [False] * 2


def test_strict_leave_one_out_fits_nothing_on_the_last_two() -> None:
    (split,) = LeaveOneOut(min_events=3).splits(dataset_of(SPREAD))
    assert np.flatnonzero(~split.known(TEST)).tolist() == [28, 29]


def test_the_whole_log_holds_nothing_out() -> None:
    split = whole(dataset_of(SPREAD))
    assert (split.periods == FIT).all()
    assert len(split.periods) == 30
    assert split.ordered


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_a_random_split_keeps_pairs_together_whatever_else_there_is(rows: list[Row], random: object) -> None:
    splitter = Random(rank=0.2, validation=0.2, test=0.2, seed=3)
    rows = rows + PAIRS
    dataset = dataset_of(rows)
    periods = pair_periods(split_or_reject(splitter, dataset), dataset)
    assert all(len(held) == 1 for held in periods.values())
    moved = [(user, item, random.randint(0, 30), click) for user, item, _, click in rows]  # type: ignore[attr-defined]
    random.shuffle(moved)  # type: ignore[attr-defined]
    more = dataset_of([*moved, ("d", "more", 1, 1), ("e", "x", 1, 1)])
    assert pair_periods(split_or_reject(splitter, more), more).items() >= periods.items()


def pair_periods(split: Split, dataset: Dataset) -> dict[tuple[str, str], set[int]]:
    held: dict[tuple[str, str], set[int]] = {}
    for pair, period in zip(dataset.interactions.select("user", "item").rows(), split.periods.tolist(), strict=True):
        held.setdefault(pair, set()).add(period)
    return held


def test_a_random_split_has_its_shares_within_every_user_and_item() -> None:
    pairs = [(f"u{user}", f"i{item}", item, 1) for user in range(100) for item in range(100)]
    dataset = dataset_of(pairs)
    splits = [Random(rank=0.1, validation=0.2, test=0.3, seed=seed).splits(dataset)[0] for seed in (0, 1)]
    for split in splits:
        shares = np.bincount(split.periods, minlength=4) / len(pairs)
        np.testing.assert_allclose(shares, [0.4, 0.1, 0.2, 0.3], atol=0.02)
        for column in ("user", "item"):
            tested = dataset.interactions.select(column, tested=pl.Series(split.periods == TEST))
            counts = tested.group_by(column).agg(pl.col("tested").sum())["tested"].to_numpy()
            assert 2.5 < counts.std() < 7, "4.6 where the draws are independent"
    agree = (splits[0].periods == splits[1].periods).mean()
    assert abs(agree - (0.4**2 + 0.1**2 + 0.2**2 + 0.3**2)) < 0.03, "another seed is another draw"
    assert splits[0].name.startswith("random split (for comparison with the literature")


def test_a_random_split_equals_its_slow_twin_and_never_changes() -> None:
    """Figures of years ago must stay comparable."""
    items = "mnopqrstuvwxyz"
    dataset = dataset_of([("a", item, time, 1) for time, item in enumerate(items)])
    (split,) = Random(rank=0.2, validation=0.2, test=0.2, seed=0).splits(dataset)
    assert split.periods.tolist() == [
        sum(slow_fraction("a", item, 0) >= cut for cut in (0.4, 0.6, 0.8)) for item in items
    ]
    assert split.periods.tolist() == [0, 2, 2, 3, 2, 1, 0, 0, 1, 0, 0, 3, 2, 2]


def slow_fraction(user: str, item: str, seed: int) -> float:
    def number(text: str, salt: str) -> int:
        key = f"{salt} {seed}".encode()
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest(), "little")

    mixed = (number(user, "user") + 0x9E3779B97F4A7C15 * number(item, "item")) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return (mixed ^ mixed >> 31) / 2**64


@pytest.mark.parametrize(
    ("splitter", "order", "message"),
    [
        ("global time", "user", r"few has no common time \(order: user\).*choose protocol=leave_one_out or"),
        ("global time", "none", "few has no common time"),
        ("leave one out", "none", "few has no order of events.*choose protocol=random"),
    ],
)
def test_a_split_that_needs_an_order_refuses_data_without_it(splitter: str, order: str, message: str) -> None:
    dataset = dataset_of(SPREAD)
    described = dataclasses.replace(DESCRIPTION, order=order)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        SPLITTERS[splitter].splits(dataclasses.replace(dataset, description=described))


def test_file_order_is_a_timeline_and_sets_can_be_drawn() -> None:
    dataset = dataset_of(SPREAD + PAIRS)
    for splitter, order in (("windows", "file"), ("leave one out", "user"), ("random", "none")):
        described = dataclasses.replace(DESCRIPTION, order=order)  # type: ignore[arg-type]
        splits = SPLITTERS[splitter].splits(dataclasses.replace(dataset, description=described))
        expected = SPLITTERS[splitter].splits(dataset)
        assert [split.periods.tolist() for split in splits] == [split.periods.tolist() for split in expected]


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
        held = {0: LATER, 1: TEST, 2: VALIDATION, 3: RANK}.get(ahead, FIT)
        periods.append(held if len(mine) >= min_events else FIT)
    return periods


@settings(deadline=None)
@given(rows)
def test_targets_equal_their_slow_twin(rows: list[Row]) -> None:
    dataset = dataset_of(rows)
    split = split_or_reject(
        GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None), dataset
    )
    events = list(
        zip(dataset.interactions.select("user", "item").rows(), split.periods, dataset.positives(), strict=True)
    )
    for period in (RANK, VALIDATION, TEST):
        met = {pair for pair, when, _ in events if when < period}
        wanted, asked = [], set()
        for pair, when, positive in events:
            new = bool(when == period and positive and pair not in met and pair not in asked)
            asked |= {pair} if new else set()
            wanted.append(new)
        assert split.targets(dataset, period).tolist() == wanted
        text = "".join(f"{user}\0{item}\n" for user, item in sorted(asked))
        assert split.targets_sha256(dataset, period) == hashlib.sha256(text.encode()).hexdigest()
    assert split.targets(dataset).tolist() == wanted, "TEST, unless told otherwise"


def test_the_hash_of_targets_moves_with_the_targets() -> None:
    few = [("a", "x", time, 1) for time in range(8)]
    splitter = GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None)
    hashes = set()
    for last in (("a", "y", 9, 1), ("a", "z", 9, 1), ("a", "z", 9, 0), ("b", "z", 9, 1)):
        dataset = dataset_of([*few, ("a", "x", 8, 1), last])
        hashes.add(splitter.splits(dataset)[-1].targets_sha256(dataset))
    assert len(hashes) == 4


def test_an_empty_period_is_refused() -> None:
    together = dataset_of([("a", str(item), 1, 1) for item in range(10)])
    with pytest.raises(DataError, match="period FIT of the split is empty"):
        GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(together)
    few = dataset_of([("a", str(item), item, 1) for item in range(3)])
    with pytest.raises(DataError, match="period FIT of the split is empty"):
        LeaveOneOut(min_events=3).splits(few)
    with pytest.raises(DataError, match=r"period RANK.*min_events \(5\)"):
        LeaveOneOut(min_events=5).splits(few)


@pytest.mark.parametrize("key", ["rank", "validation", "test"])
@pytest.mark.parametrize("value", [0, 1, -0.1, float("nan"), "0.1", True, None])
def test_a_fraction_out_of_range_is_named(key: str, value: object) -> None:
    good = {"rank": 0.1, "validation": 0.1, "test": 0.1}
    with pytest.raises(ConfigError, match=rf"^protocol\.{key} is "):
        GlobalTime(**{**good, key: value, "cuts": 1, "later": 0.0, "horizon_days": None})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"^protocol\.{key} is "):
        Random(**{**good, key: value, "seed": 0})  # type: ignore[arg-type]


def test_other_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"rank \+ validation \+ test \+ later is 1"):
        GlobalTime(rank=0.5, validation=0.25, test=0.125, cuts=1, later=0.125, horizon_days=None)
    with pytest.raises(ConfigError, match=r"rank \+ validation \+ test is 1"):
        Random(rank=0.5, validation=0.25, test=0.25, seed=0)
    for cuts in (0, 1.0, True):
        with pytest.raises(ConfigError, match=r"protocol\.cuts is"):
            GlobalTime(rank=0.1, validation=0.1, test=0.1, cuts=cuts, later=0.0, horizon_days=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"protocol\.later is -0\.1"):
        GlobalTime(rank=0.1, validation=0.1, test=0.1, cuts=1, later=-0.1, horizon_days=None)
    with pytest.raises(ConfigError, match=r"protocol\.seed is -1"):
        Random(rank=0.1, validation=0.1, test=0.1, seed=-1)
    for value in (2, 3.0, True):
        with pytest.raises(ConfigError, match="min_events is"):
            LeaveOneOut(min_events=value)  # type: ignore[arg-type]


def test_a_horizon_finer_than_the_times_is_refused_and_never_chosen() -> None:
    days = [("u", f"i{index}", 86_400 * (index // 4), 1) for index in range(64)]
    for horizon, refused in [(0.01, True), (0.999, True), (1.0, False), (None, False)]:
        splitter = GlobalTime(rank=0.25, validation=0.25, test=0.25, cuts=1, later=0.0, horizon_days=horizon)
        if refused:
            with pytest.raises(
                DataError, match=r"horizon_days is 0\.\d+, but no two times of the log lie closer than 1 days"
            ):
                splitter.splits(dataset_of(days))
        else:
            assert splitter.splits(dataset_of(days))[0].horizon == 86_400.0
