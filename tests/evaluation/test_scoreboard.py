"""Splits pooled by user, seeds averaged, slices, and baselines left out: known answers.

Shapes: N items, K places.
"""

import hashlib
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import PAD
from recsys.data.dataset import canonical
from recsys.data.description import Description
from recsys.data.splits import FIT, LATER, RANK, TEST, VALIDATION, Split
from recsys.evaluation.baselines import NotApplicableError, Popularity
from recsys.evaluation.intervals import bootstrap_interval
from recsys.evaluation.protocol import Evaluation
from recsys.evaluation.scoreboard import Scoreboard
from recsys.evaluation.slices import EVERYTHING, head_items, slices
from recsys.evaluation.tuning import TunedBaseline
from recsys.metrics import FURTHER_METRICS, METRICS, K
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.replay import Replay

DESCRIPTION = Description(
    actions=("met",),
    context={},
    items={},
    users={},
    objectives={"met": "met"},
    target="met",
    title=None,
    order="time",
)
EVENTS = [  # user, item, period in the first split, period in the second
    ("u", "a", FIT, FIT),
    ("v", "a", FIT, FIT),
    ("v", "b", RANK, FIT),
    ("w", "a", FIT, FIT),
    ("w", "b", FIT, RANK),
    ("w", "c", VALIDATION, VALIDATION),
    ("u", "b", TEST, VALIDATION),
    ("v", "c", TEST, VALIDATION),
    ("u", "c", LATER, TEST),
    ("u", "d", LATER, TEST),
    ("x", "a", LATER, TEST),
]


@pytest.fixture(scope="module")
def dataset():
    users, items, *_ = zip(*EVENTS, strict=True)
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": np.arange(float(len(users)))})
    table = pl.DataFrame({"item": list("abcdefgh")})
    return canonical(
        name="letters",
        interactions=frame.with_columns(met=pl.lit(1.0)),
        items=table,
        users=None,
        description=DESCRIPTION,
    )


@pytest.fixture(scope="module")
def splits():
    *_, one, other = zip(*EVENTS, strict=True)
    return tuple(
        Split(name=f"window {number}", periods=np.int8(periods), cuts=None, horizon=np.inf, strict=False, ordered=True)
        for number, periods in enumerate((one, other), start=1)
    )


def questions_of(dataset, split):
    return EvaluationQueries.of(dataset, split, Replay(dataset, split), TEST)


def ranking_of(questions, lists):
    """[B, K] from one string of items a user."""
    row = questions.replay.rows_of_items
    ranking = np.full((len(questions), K), PAD)
    for place, user in enumerate(questions.replay.names[questions.users]):
        ranking[place, : len(lists[user])] = [row[item] for item in lists[user]]
    return ranking


def board_of(dataset, splits, answers):
    """`answers`: one {user: items} a split."""
    board = Scoreboard(dataset)
    for split, lists in zip(splits, answers, strict=True):
        questions = questions_of(dataset, split)
        board.open_split(questions)
        board.record("ours", ranking_of(questions, lists), seed=0)
    return board


FIRST = {"u": "b", "v": "abc"}
SECOND = {"u": "edc", "x": "cba"}
THIRD = 1 / math.log2(3), 1 / math.log2(4)
U2 = (THIRD[0] + THIRD[1]) / (1 + THIRD[0])


def test_a_single_split_known_answer(dataset, splits):
    report = board_of(dataset, splits[:1], [FIRST]).report(seconds=1.5, peak_memory_mib=7.0)
    row = report.rows["ours"]
    assert (report.users, row["users"], report.ours, report.seeds) == (2, 2, ("ours",), (0,))
    assert row["recall@10"] == 1.0
    assert row["ndcg@10"] == pytest.approx((1 + THIRD[1]) / 2)
    assert row["coverage@10"] == 3 / 8
    weights = {"b": 1 / math.sqrt(2), "c": 1.0}  # c is known from validation only
    debiased = (weights["b"] + weights["c"] * THIRD[1]) / sum(weights.values())
    assert row["debiased_ndcg@10"] == pytest.approx(debiased)
    assert row["ci95"]["ndcg@10"] == list(bootstrap_interval(np.array([1, THIRD[1]]), 0))
    further = {"precision@10": 0.1, "hit_rate@10": 1.0, "mrr@10": 2 / 3, "map@10": 2 / 3, "entropy@10": 1.5}
    assert {metric: row[metric] for metric in further} == pytest.approx(further)
    assert row["serendipity@10"] == 0.0, "five items may be shown, and all of them are among the ten most popular"
    assert row["novelty@10"] == pytest.approx(
        (math.log2(3 / 2) + (math.log2(3 / 3) + math.log2(3 / 2) + math.log2(3)) / 3) / 2
    )
    assert row["ci95"].keys() == {*METRICS, *FURTHER_METRICS, "coverage@10", "entropy@10"}
    assert all(not set(FURTHER_METRICS) & rows["ours"].keys() for rows in report.slices.values())
    assert "spread" not in row
    assert report.targets_sha256 == splits[0].targets_sha256(dataset)
    assert report.protocol == "letters, window 1, one query a user, seen items removed"
    assert (report.seconds, report.peak_memory_mib) == (1.5, 7.0)


def test_a_user_of_two_splits_counts_once_with_the_mean(dataset, splits):
    report = board_of(dataset, splits, [FIRST, SECOND]).report(seconds=0.0, peak_memory_mib=0.0)
    row, values = report.rows["ours"], report.per_user["ours"]["ndcg@10"]
    assert values == pytest.approx(np.array([(1 + U2) / 2, THIRD[1], THIRD[1]]))
    assert report.users == row["users"] == 3
    assert row["ndcg@10"] == pytest.approx(values.mean())
    assert row["coverage@10"] == 5 / 8
    both = "\n".join(split.targets_sha256(dataset) for split in splits)
    assert report.targets_sha256 == hashlib.sha256(both.encode()).hexdigest()
    assert report.protocol.startswith("letters, 2 splits pooled: window 1; window 2, one query")


def test_seeds_are_averaged_before_the_interval_and_spread_is_about_them(dataset, splits):
    board, questions = Scoreboard(dataset), questions_of(dataset, splits[0])
    board.open_split(questions)
    for seed, lists in {3: FIRST, 1: {"u": "a", "v": "c"}}.items():
        board.record("ours", ranking_of(questions, lists), seed=seed)
    report = board.report(seconds=0.0, peak_memory_mib=0.0)
    row, by_seed = report.rows["ours"], [(1 + THIRD[1]) / 2, 1 / 2]
    assert report.seeds == (1, 3)
    assert row["seeds"] == [3, 1]
    assert report.per_user["ours"]["ndcg@10"] == pytest.approx(np.array([1 / 2, (1 + THIRD[1]) / 2]))
    assert row["ndcg@10"] == pytest.approx(np.mean(by_seed))
    assert row["spread"]["ndcg@10"] == pytest.approx(np.std(by_seed, ddof=1))
    assert row["coverage@10"] == pytest.approx((3 / 8 + 2 / 8) / 2)
    assert row["spread"]["coverage@10"] == pytest.approx(np.std([3 / 8, 2 / 8], ddof=1))


def test_slices_known_answer(dataset, splits):
    report = board_of(dataset, splits[1:], [SECOND]).report(seconds=0.0, peak_memory_mib=0.0)
    assert list(report.slices) == ["users with a history", "new users", "short histories", "cold items", "tail items"]
    found = {name: (rows["ours"]["users"], rows["ours"]["ndcg@10"]) for name, rows in report.slices.items()}
    assert found["users with a history"] == found["short histories"] == (1, pytest.approx(U2))
    assert found["new users"] == (1, pytest.approx(THIRD[1]))
    assert found["cold items"] == found["tail items"] == (1, pytest.approx(THIRD[0]))  # d, at the second place
    assert "cold items: targets of which nothing is known" in report.notes


def test_a_slice_that_holds_everything_is_not_repeated(dataset, splits):
    board = board_of(dataset, splits[:1], [FIRST])
    assert "users with a history" in slices(questions_of(dataset, splits[0]))
    assert list(board.report(seconds=0.0, peak_memory_mib=0.0).slices) == ["tail items"]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), st.floats(0.05, 1.0))
def test_popular_items_are_the_fewest_that_hold_their_share_and_their_equals(counts, share):
    head = head_items(np.array(counts), share)
    least = min(count for count, inside in zip(counts, head, strict=True) if inside)
    assert head.tolist() == [count >= least for count in counts]
    assert sum(count for count in counts if count >= least) >= share * sum(counts) - 1e-9
    assert sum(count for count in counts if count > least) < share * sum(counts)


def test_what_was_not_answered_is_refused(dataset, splits):
    with pytest.raises(ValueError, match="no questions were opened"):
        Scoreboard(dataset).report(seconds=0.0, peak_memory_mib=0.0)
    board = board_of(dataset, splits[:1], [FIRST])
    with pytest.raises(ValueError, match="ours with seed 0 has answered"):
        board.record("ours", ranking_of(questions_of(dataset, splits[0]), FIRST), seed=0)
    board.open_split(questions_of(dataset, splits[1]))
    with pytest.raises(ValueError, match="ours with seed 0 did not answer the questions of split 1"):
        board.report(seconds=0.0, peak_memory_mib=0.0)


class Watching:
    """Keeps what it was fitted on."""

    seen = ()

    def fit(self, interactions):
        Watching.seen += (interactions,)
        return self

    def scores(self, histories):
        return np.ones((len(histories), 8), dtype=np.float32)


class Refusing:
    def __init__(self, *, reason):
        self.reason = reason

    def fit(self, interactions):
        raise NotApplicableError(self.reason)


def evaluation_of(baselines, for_new_users=()):
    return Evaluation(
        baselines=baselines,
        validation_users=9,
        validation_seed=0,
        test_users=99,
        events_per_user=99,
        for_new_users=for_new_users,
    )


def test_an_evaluation_answers_with_every_baseline_and_says_what_it_left_out(dataset, splits):
    baselines = {
        "popularity": TunedBaseline(baseline=Popularity, grid={}),
        "constant": TunedBaseline(baseline=Watching, grid={}),
        "refusing": TunedBaseline(baseline=Refusing, grid={"reason": ["too much"]}),
    }
    evaluation = evaluation_of(baselines)
    board, split = Scoreboard(dataset), splits[0]
    questions = evaluation.evaluate_baselines(board, split, Replay(dataset, split))
    board.record("ours", ranking_of(questions, FIRST), seed=5)
    report = board.report(seconds=0.0, peak_memory_mib=0.0)
    assert list(report.rows) == ["popularity", "constant", "ours"]
    assert report.ours == ("ours",)
    assert "refusing is left out: too much" in report.notes
    assert "knobs" not in report.rows["popularity"]
    (known,) = Watching.seen
    assert len(known.items) == np.count_nonzero(split.known(TEST)) == 6
    assert report.rows["popularity"]["recall@10"] == 1.0


def test_baselines_rank_by_popularity_for_users_without_a_history(dataset, splits):
    """The second split asks for a new user, who meets the most popular item."""
    baselines = {
        "popularity": TunedBaseline(baseline=Popularity, grid={}),
        "constant": TunedBaseline(baseline=Watching, grid={}),
    }
    board, split = Scoreboard(dataset), splits[1]
    queries = evaluation_of(baselines, ["popularity"]).evaluate_baselines(board, split, Replay(dataset, split))
    report = board.report(seconds=0.0, peak_memory_mib=0.0)
    new = list(queries.histories.lengths).index(0)
    found = [report.per_user[name]["ndcg@10"][new] for name in baselines]
    assert found == [1 / math.log2(3)] * 2  # another item is as popular, and a target loses ties
    assert "baselines rank by popularity for users without a history" in report.notes


def test_a_baseline_for_new_users_that_was_removed_is_left_out(dataset, splits):
    baselines = {"constant": TunedBaseline(baseline=Watching, grid={}), "popularity": None}
    board, split = Scoreboard(dataset), splits[1]
    evaluation_of(baselines, ["popularity", "recent_popularity"]).evaluate_baselines(
        board, split, Replay(dataset, split)
    )
    report = board.report(seconds=0.0, peak_memory_mib=0.0)
    assert list(report.rows) == ["constant"]
    assert not any("without a history" in note for note in report.notes)


def test_knobs_stand_in_the_row_and_differ_between_splits_only_where_they_do(dataset, splits):
    board = Scoreboard(dataset)
    for split, lists, knobs in zip(splits, (FIRST, SECOND), ({"a": 1, "b": 2}, {"a": 1, "b": 3}), strict=True):
        questions = questions_of(dataset, split)
        board.open_split(questions)
        board.record_baseline("theirs", ranking_of(questions, lists), parameters=knobs)
    report = board.report(seconds=0.0, peak_memory_mib=0.0)
    assert report.rows["theirs"]["knobs"] == {"a": 1, "b": [2, 3]}
    assert report.ours == ()
    assert EVERYTHING not in report.slices


def test_exposure_stands_in_the_report_known_answer(dataset, splits):
    report = board_of(dataset, splits, [FIRST, SECOND]).report(seconds=0.0, peak_memory_mib=0.0)
    shown = report.shown["ours"]
    first, second = [1, 2, 1, 0, 0, 0, 0, 0], [1, 1, 2, 1, 1, 0, 0, 0]  # how often a to h are shown
    half = [sum(abs(one - other) for one in row for other in row) / (16 * sum(row)) for row in (first, second)]
    assert shown["gini"] == pytest.approx(np.mean(half))
    assert shown["top_1_percent"] == pytest.approx((2 / 4 + 2 / 6) / 2)
    met = [{"a": 3, "b": 2, "c": 1}, {"a": 3, "b": 3, "c": 2}]  # of the three users known before each split
    pages = [["b", "abc"], ["edc", "cba"]]
    means = [
        np.mean([sum(known.get(item, 0) for item in page) / len(page) / 3 for page in own])
        for known, own in zip(met, pages, strict=True)
    ]
    assert shown["average_popularity"] == pytest.approx(np.mean(means))
    assert "intra_list_distance" not in shown, "the items have no categories"
    assert report.to_document()["shown"] == report.shown
