"""Who asks when, and within what a label is reached: the same in every period.

Shapes: R rows of the log, B moments, C candidates.
"""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recsys.contracts import PAD
from recsys.data.dataset import canonical
from recsys.data.description import Description
from recsys.data.splits import RANK, TEST, VALIDATION, GlobalTime, LeaveOneOut, Predefined, Random, whole
from recsys.errors import ConfigError, DataError
from recsys.replay.labelled_requests import LabelledRequests, sample_rows
from recsys.replay.replay import Replay

ITEMS = ("a", "b", "c", "d")
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
LOGS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from(ITEMS), st.integers(0, 40), st.sampled_from([0.0, 1.0])),
    min_size=12,
    max_size=40,
    unique=True,
)


def dataset_of(events, order="time"):
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Float64, "click": pl.Float64}
    frame = pl.DataFrame(events, schema=schema, orient="row")
    described = replace(DESCRIPTION, order=order)
    return canonical(
        name="few", interactions=frame, items=pl.DataFrame({"item": ITEMS}), users=None, description=described
    )


SHARES = {"rank": 0.25, "validation": 0.25, "test": 0.25, "cuts": 1, "later": 0.0, "horizon_days": None}


def split_of(dataset, **changed):
    """A log that it does not fit is no case."""
    try:
        return GlobalTime(**SHARES | changed).splits(dataset)[-1]
    except DataError:
        assume(False)


def fit_to_learn_from(dataset, split):
    """What a run refuses is no case either."""
    try:
        split.check_observed(dataset)
    except DataError:
        assume(False)
    return split


def test_the_horizon_is_given_or_a_quarter_of_the_shortest_period():
    dataset = dataset_of([("u", "a", time, 1.0) for time in range(100)])
    (split,) = GlobalTime(rank=0.3, validation=0.12, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)
    assert (split.cuts, split.horizon) == ((38.0, 68.0, 80.0), 3.0)
    assert [split.end(period) for period in (RANK, VALIDATION, TEST)] == [68.0, 80.0, np.inf]
    earlier, _ = GlobalTime(rank=0.3, validation=0.12, test=0.16, cuts=2, later=0.0, horizon_days=None).splits(dataset)
    assert (earlier.cuts, earlier.horizon) == ((42.0, 72.0, 84.0, 92.0), 1.75), "the last one ends at 99"
    assert earlier.end(TEST) == 92.0
    (given_one,) = GlobalTime(rank=0.3, validation=0.12, test=0.2, cuts=1, later=0.0, horizon_days=0.5).splits(dataset)
    assert given_one.horizon == 43_200.0
    assert whole(dataset).horizon == whole(dataset).end(TEST) == np.inf


def test_days_need_a_clock():
    dataset = dataset_of([("u", "a", time, 1.0) for time in range(100)])
    splitter = GlobalTime(rank=0.3, validation=0.12, test=0.2, cuts=1, later=0.0, horizon_days=0.5)
    timeless = replace(dataset, description=replace(DESCRIPTION, order="file"))
    with pytest.raises(DataError, match=r"has no clock \(order: file\).*leave protocol\.horizon_days out"):
        splitter.splits(timeless)
    with pytest.raises(ConfigError, match=r"protocol\.horizon_days is 0"):
        replace(splitter, horizon_days=0.0)


def slow_moments(replay, split, period, last):
    """Rows whose whole horizon was watched, of whole stretches, and the items that their users reach within it."""
    found, start, end = {}, split.cuts[period - 1], min(split.end(period), last)
    stretches = max(1, math.floor(round((end - start) / split.horizon, 6)) - 1)
    for row in range(len(replay.users)):
        until = replay.timestamps[row] + split.horizon
        inside = [one for one in range(row, len(replay.users)) if split.periods[one] == period]
        whole = replay.timestamps[row] < start + stretches * split.horizon
        if split.periods[row] == period and until < split.end(period) and until <= last and whole:
            mine = [one for one in inside if replay.users[one] == replay.users[row] and replay.timestamps[one] <= until]
            found[row] = {replay.items[one] for one in mine if replay.labels[one, 0] > 0}
    return found


@given(LOGS, st.sampled_from([RANK, VALIDATION, TEST]), st.sampled_from([0.0, 0.2]))
def test_moments_and_their_labels_equal_the_slow_twin(events, period, later):
    dataset = dataset_of(events)
    split = fit_to_learn_from(dataset, split_of(dataset, later=later))
    replay = Replay(dataset, split)
    moments = LabelledRequests.of(replay, split, period, per_user=len(events), max_requests=len(events))
    expected = slow_moments(replay, split, period, replay.timestamps.max())
    assert moments.rows.tolist() == sorted(expected)
    candidates = np.tile([*range(len(ITEMS)), PAD], (len(moments), 1))
    reached = [[float(item in expected[row]) for item in range(len(ITEMS))] + [0.0] for row in moments.rows]
    assert moments.labels(candidates)[..., 0].tolist() == reached


@given(LOGS, st.sampled_from([RANK, VALIDATION, TEST]))
def test_what_comes_after_the_horizon_changes_no_label(events, period):
    dataset = dataset_of(events)
    split = fit_to_learn_from(dataset, split_of(dataset))
    replay = Replay(dataset, split)
    moments = LabelledRequests.of(replay, split, period, per_user=3, max_requests=len(events))
    users = replay.users[moments.rows]
    assert [users[:place].tolist().count(user) == 0 for place, user in enumerate(users)] == moments.first.tolist()
    candidates = np.tile(np.arange(len(ITEMS)), (len(moments), 1))
    for place, row in enumerate(moments.rows):
        beyond = pl.Series(replay.timestamps > replay.now[row] + split.horizon)
        poisoned = dataset.interactions.with_columns(click=pl.when(beyond).then(1 - pl.col("click")).otherwise("click"))
        other = replace(moments, replay=Replay(replace(dataset, interactions=poisoned), split))
        assert moments.labels(candidates)[place].tolist() == other.labels(candidates)[place].tolist()


def test_a_world_that_never_changes_has_one_rate_in_periods_of_any_length():
    """Everybody comes every 10 seconds, does nothing twice and then clicks a, b, c or d in turn."""
    events = [
        (user, ITEMS[number // 3 % 4], 10 * number + shift, float(number % 3 == 2))
        for shift, user in enumerate("uvw")
        for number in range(240)
    ]
    dataset = dataset_of(events)
    split = split_of(dataset, rank=0.4, validation=0.1, test=0.2, horizon_days=60 / 86_400)
    replay, rates = Replay(dataset, split), {}
    for period in (RANK, VALIDATION, TEST):
        moments = LabelledRequests.of(replay, split, period, per_user=10_000, max_requests=10_000)
        labels = moments.labels(np.tile(np.arange(4), (len(moments), 1)))
        assert (labels.sum(axis=(1, 2)) >= 2).all(), "two clicks in a minute, wherever it begins"
        rates[period] = labels.mean()
    assert rates[RANK] == pytest.approx(rates[VALIDATION], rel=0.03)
    assert rates[RANK] == pytest.approx(rates[TEST], rel=0.03)


@pytest.mark.parametrize("per_user", [1, 3])
def test_who_comes_seldom_is_no_more_often_among_the_asked_of_a_long_period(per_user):
    """Users differ by a thousand times in how often they come; a quota a period would find more of the rare in a long one."""
    rng = np.random.default_rng(0)
    speeds = rng.gamma(0.3, size=4_000)
    users = rng.choice(4_000, 60_000, p=speeds / speeds.sum())
    events = pl.DataFrame(
        {
            "user": users.astype(str),
            "item": rng.choice(ITEMS, 60_000),
            "timestamp": np.sort(rng.uniform(0, 1e6, 60_000)),
            "click": (rng.random(60_000) < 0.5).astype(float),
        }
    )
    dataset = dataset_of(events.unique(["user", "item", "timestamp"], maintain_order=True).rows())
    split, rates = split_of(dataset, rank=0.4, validation=0.1, test=0.2), {}
    replay = Replay(dataset, split)
    for period in (RANK, VALIDATION, TEST):
        moments = LabelledRequests.of(replay, split, period, per_user=per_user, max_requests=10**9)
        labels = moments.labels(np.tile(np.arange(4), (len(moments), 1))).mean(axis=(1, 2))
        rates[period] = labels.mean(), labels.std() / np.sqrt(len(moments))
    for period in (VALIDATION, TEST):
        error = np.hypot(rates[period][1], rates[RANK][1])
        assert abs(rates[period][0] - rates[RANK][0]) < 3 * error < 0.03 * rates[RANK][0] * 3


def test_who_comes_is_asked_whatever_comes_of_it():
    events = [("u", "a", time, 1.0) for time in range(20)] + [("w", "b", time, 0.0) for time in range(20)]
    dataset = dataset_of(events)
    split = split_of(dataset, rank=0.3, validation=0.2, test=0.3, horizon_days=4 / 86_400)
    replay = Replay(dataset, split)
    moments = LabelledRequests.of(replay, split, RANK, per_user=1, max_requests=10)
    assert [query.user for query in replay.queries(moments.rows, 1)] == ["u", "w"]
    candidates = np.array([[replay.rows_of_items[item] for item in "ab"]] * 2)
    assert moments.labels(candidates)[..., 0].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(("per_user", "rows"), [(1, [0, 2]), (2, [0, 2, 3]), (9, [0, 1, 2, 3, 4])])
def test_a_user_is_asked_first_and_at_even_distances(per_user, rows):
    stream = [("u", "a", 0, 1.0), ("u", "b", 1, 0.0), ("v", "c", 2, 1.0), ("u", "d", 3, 1.0), ("u", "d", 4, 1.0)]
    dataset = dataset_of(stream)
    split = whole(dataset)
    assert (
        LabelledRequests.of(Replay(dataset, split), split, 0, per_user=per_user, max_requests=9).rows.tolist() == rows
    )


def test_leave_one_out_asks_for_one_thing_in_every_period():
    """What a user does after the last positive is nobody's: every period ends with what is reached in it."""
    stream = [("u", ITEMS[time % 4], time, float(time % 3 == 0)) for time in range(24)]
    dataset = dataset_of(stream)
    (split,) = LeaveOneOut(min_events=3).splits(dataset)
    for period in (RANK, VALIDATION, TEST):
        moments = LabelledRequests.of(Replay(dataset, split), split, period, per_user=9, max_requests=99)
        assert len(moments) == 3
        assert moments.labels(np.tile(np.arange(4), (3, 1))).sum(axis=(1, 2)).tolist() == [1, 1, 1]


def test_a_horizon_that_no_period_holds_is_said_before_anything_is_done():
    dataset = dataset_of([("u", "a", time, 1.0) for time in range(30)])
    with pytest.raises(
        DataError, match=r"the period RANK of the global time split is followed.*protocol\.horizon_days"
    ):
        split_of(dataset, horizon_days=1.0).check_observed(dataset)
    earlier, _ = GlobalTime(**SHARES | {"cuts": 2, "horizon_days": 4 / 86_400}).splits(dataset)
    with pytest.raises(DataError, match=r"the period TEST of the global time split \(window 1 of 2\)"):
        earlier.check_observed(dataset)
    together = dataset_of([("u", "a", time // 3, 1.0) for time in range(30)])
    with pytest.raises(DataError, match="no event of the period TEST"):
        split_of(together, test=0.1).check_observed(together)
    split_of(dataset).check_observed(dataset)


class Ranks:
    """Stages in one: as many candidates as there are items, each with a chance that its place says."""

    def __call__(self, tensors):
        rows = np.tile(np.arange(4), (len(tensors["QUERY"]), 1))
        return {"candidate_rows": rows, "probabilities": np.stack([rows / 10], axis=-1)}


def test_a_cascade_is_asked_at_every_moment():
    dataset = dataset_of([(f"u{time}", "a", time, 1.0) for time in range(600)])
    split = split_of(dataset)
    moments = LabelledRequests.of(Replay(dataset, split), split, RANK, per_user=1, max_requests=10**9)
    candidates, probabilities = moments.score_candidates([Ranks()])
    assert candidates.tolist() == [[0, 1, 2, 3]] * len(moments)
    assert probabilities[..., 0].tolist() == [[0, 0.1, 0.2, 0.3]] * len(moments)
    assert len(moments) > 64


@pytest.fixture(scope="module")
def sets():
    """Users of very different activity choose pairs without any time."""
    rng, num_items = np.random.default_rng(0), 300
    sizes = np.clip(rng.lognormal(2.5, 0.9, 1_500).astype(int), 3, num_items // 2)
    events = [
        (f"u{user}", f"i{item}", 0, 1.0)
        for user, size in enumerate(sizes)
        for item in rng.choice(num_items, size, replace=False)
    ]
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Float64, "click": pl.Float64}
    frame = pl.DataFrame(events, schema=schema, orient="row")
    described = replace(DESCRIPTION, order="none")
    return canonical(name="sets", interactions=frame, items=None, users=None, description=described)


def counts(replay, split, period, per_user):
    """Positives of each request among all items."""
    moments = LabelledRequests.of(replay, split, period, per_user=per_user, max_requests=10**6)
    catalogue = np.tile(np.arange(replay.dataset.num_items), (len(moments), 1))
    return moments.labels(catalogue).sum(axis=(1, 2))


@pytest.mark.parametrize("per_user", [1, 3])
@pytest.mark.parametrize("shares", [(0.1, 0.1, 0.2), (0.1, 0.2, 0.1)])
def test_a_request_has_as_many_positives_in_a_test_of_any_share_as_in_validation(sets, per_user, shares):
    """Without the sample a test of twice the share has 1.4 to 1.8 times as many, since users without any are not asked."""
    (split,) = Random(**dict(zip(("rank", "validation", "test"), shares, strict=True)), seed=0).splits(sets)
    ratios = []
    for one in (split, replace(split, labelled=None)):
        replay = Replay(sets, one)
        valid, test = (counts(replay, one, period, per_user) for period in (VALIDATION, TEST))
        ratios.append(max(valid.mean() / test.mean(), test.mean() / valid.mean()))
    noise = np.sqrt(valid.var() / len(valid) + test.var() / len(test)) / test.mean()
    assert ratios[0] < 1 + 3 * noise < 1.25
    assert ratios[1] > 1.35


def test_the_truth_of_validation_is_restated_as_the_truth_of_a_test_that_knows_more():
    """Every user has half of the items: of what is unknown, a positive is the likelier the more is known."""
    rng, num_items, chance = np.random.default_rng(0), 200, 0.5
    pairs = [(user, item) for user in range(250) for item in np.flatnonzero(rng.random(num_items) < chance)]
    users, items = zip(*pairs, strict=True)
    frame = pl.DataFrame({"user": [f"u{one}" for one in users], "item": [f"i{one}" for one in items]})
    frame = frame.with_columns(timestamp=pl.lit(0.0), click=pl.lit(1.0))
    described = replace(DESCRIPTION, order="none")
    dataset = canonical(name="halves", interactions=frame, items=None, users=None, description=described)
    (split,) = Random(rank=0.1, validation=0.1, test=0.2, seed=0).splits(dataset)
    known, share = (one.mean() for one in (split.known(VALIDATION), split.outcomes(VALIDATION)))
    replay, right = Replay(dataset, split), share * chance / (1 - known * chance)
    ratios = {}
    for period in (VALIDATION, TEST):
        moments = LabelledRequests.of(replay, split, period, per_user=1, max_requests=10**6)
        unknown = (num_items - replay.num_earlier[moments.rows]).sum()
        observed = counts(replay, split, period, 1).sum() / unknown
        ratios[period] = np.array([right, split.restated(np.array([right]), period)[0]]) / observed
    assert ratios[VALIDATION] == pytest.approx(1, abs=0.03)
    assert ratios[TEST][1] == pytest.approx(1, abs=0.03)
    assert ratios[TEST][0] < 0.95
    certain = split.restated(np.array([0.0, 1.0]), TEST)
    assert certain[0] == 0
    assert 0.999 < certain[1] < 1


def test_only_sets_and_shares_of_pairs_are_sampled_and_never_the_smaller_period(sets):
    (split,) = Random(rank=0.1, validation=0.1, test=0.2, seed=0).splits(sets)
    held_out = {period: (split.periods == period).sum() for period in (RANK, VALIDATION, TEST)}
    kept = {period: split.outcomes(period).sum() for period in held_out}
    assert (kept[RANK], kept[VALIDATION]) == (held_out[RANK], held_out[VALIDATION])
    assert kept[TEST] == pytest.approx(kept[VALIDATION], rel=0.05)
    timed = dataset_of([("u", ITEMS[time % 4], time, 1.0) for time in range(48)])
    assert split_of(timed).labelled is None
    assert LeaveOneOut(min_events=3).splits(timed)[0].labelled is None


def test_outcomes_that_labels_do_not_read_change_none(sets):
    splitter = Random(rank=0.1, validation=0.1, test=0.2, seed=0)
    (split,) = splitter.splits(sets)
    poisoned = pl.Series((split.periods == TEST) & ~split.outcomes(TEST))
    assert poisoned.sum() > 1_000
    clicks = sets.interactions.select(pl.when(poisoned).then(0.0).otherwise(pl.col("click")).alias("click"))
    other = replace(sets, interactions=sets.interactions.with_columns(clicks))
    assert np.array_equal(*(counts(Replay(part, split), split, TEST, 3) for part in (sets, other)))


def test_the_labels_of_validation_do_not_depend_on_what_the_test_holds(sets):
    splitter = Random(rank=0.1, validation=0.2, test=0.1, seed=0)
    (split,) = splitter.splits(sets)
    kept = (split.periods != TEST) | (np.random.default_rng(0).random(sets.num_events) < 0.3)
    (poisoned,) = splitter.splits(replace(sets, interactions=sets.interactions.filter(pl.Series(kept))))
    assert np.array_equal(split.outcomes(VALIDATION)[kept], poisoned.outcomes(VALIDATION))


def test_a_published_test_of_any_size_is_sampled_as_validation_is(sets):
    part = np.where(np.random.default_rng(1).random(sets.num_events) < 0.4, "test", "train")
    described = replace(sets.description, split=True)
    published = replace(sets, interactions=sets.interactions.with_columns(split=pl.Series(part)), description=described)
    (split,) = Predefined(rank=0.2, validation=0.1, seed=0, strict=False).splits(published)
    assert split.outcomes(TEST).sum() == pytest.approx(split.outcomes(VALIDATION).sum(), rel=0.05)


def test_people_are_told_within_what(sets):
    for order, changed, told in (
        ("time", {"horizon_days": 0.25}, "within 0.25 days"),
        ("file", {}, "within 3 events of the log"),
    ):
        dataset = dataset_of([("u", "a", time, 1.0) for time in range(48)], order)
        split = split_of(dataset, **changed)
        assert (
            LabelledRequests(replay=Replay(dataset, split), split=split, period=TEST, rows=np.array([0])).horizon_text
            == told
        )
    dataset = dataset_of([("u", "a", time, 1.0) for time in range(9)])
    (split,) = LeaveOneOut(min_events=3).splits(dataset)
    moments = LabelledRequests(replay=Replay(dataset, split), split=split, period=TEST, rows=np.array([0]))
    assert moments.horizon_text == "before the period of a user ends"
    (split,) = Random(rank=0.1, validation=0.1, test=0.2, seed=0).splits(sets)
    moments = LabelledRequests(replay=Replay(sets, split), split=split, period=TEST, rows=np.array([0]))
    assert moments.horizon_text == "in a random 0.1 of the log"


@given(st.integers(0, 50), st.integers(0, 60))
def test_requests_are_drawn_without_a_preference_for_early_ones(num, most):
    rows = np.arange(100, 100 + num)
    chosen = sample_rows(rows, most)
    assert len(chosen) == min(num, most)
    assert chosen.tolist() == sorted(set(chosen.tolist()) & set(rows.tolist()))
    assert np.array_equal(chosen, sample_rows(rows, most))


def test_a_large_period_is_drawn_from_everywhere():
    assert 400 < sample_rows(np.arange(1_000), 300).mean() < 600
