"""The questions of a period: one a user, only about what is new, without a hint in the ties.

Shapes: B queries, N items, K places.
"""

import dataclasses

import numpy as np
import pytest

from recsys.contracts import PAD
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, VALIDATION, GlobalTime, LeaveOneOut
from recsys.errors import DataError
from recsys.metrics import K, hits, ndcg, recall
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.interactions import Interactions
from recsys.replay.replay import Replay

SPLITTERS = {
    "global time": GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None),
    "leave one out": LeaveOneOut(min_events=5),
}


@pytest.fixture(scope="module")
def dataset():
    return Synthetic(users=60, items=80, events=3_000, seed=0).load()


@pytest.fixture(scope="module", params=SPLITTERS)
def split(request, dataset):
    return SPLITTERS[request.param].splits(dataset)[-1]


@pytest.fixture(scope="module", params=[VALIDATION, TEST], ids=["validation", "test"])
def questions(request, dataset, split):
    return EvaluationQueries.of(dataset, split, Replay(dataset, split), request.param)


def parts(compressed):
    return [one.tolist() for one in np.split(compressed.items, compressed.indptr[1:-1])]


def removed(questions):
    return [set(row.nonzero()[0].tolist()) for row in questions.removed.toarray()]


def test_every_user_is_asked_once_at_the_first_event_of_the_period(questions, split):
    replay = questions.replay
    assert len(set(questions.users.tolist())) == len(questions)
    for row in questions.rows:
        mine = replay.users == replay.users[row]
        assert row == np.flatnonzero(mine & (split.periods == questions.period))[0]


def test_histories_lie_strictly_before_in_order_and_hold_what_reached_an_objective(questions, split):
    replay = questions.replay
    reached = (replay.labels > 0).any(axis=1)
    for row, history, seen in zip(questions.rows, parts(questions.histories), removed(questions), strict=True):
        before = np.flatnonzero((replay.users == replay.users[row]) & (split.periods < questions.period))
        assert (before < row).all()
        assert history == replay.items[before[reached[before]]].tolist()
        assert seen == set(replay.items[before].tolist())


def test_queries_hold_the_same_history(questions):
    rows_of_items = questions.replay.rows_of_items
    for query, seen in zip(questions.queries, removed(questions), strict=True):
        assert {rows_of_items[event.item] for event in query.history} == seen
        assert query.k == K


def test_targets_are_positives_of_the_period_that_are_new_to_the_user(questions, split):
    replay = questions.replay
    for row, target in zip(questions.rows, parts(questions.targets), strict=True):
        mine = replay.users == replay.users[row]
        positive = set(replay.items[mine & (split.periods == questions.period) & replay.positives].tolist())
        before = set(replay.items[mine & (split.periods < questions.period)].tolist())
        assert set(target) == positive - before != set()


def test_everybody_with_a_new_positive_is_asked_also_about_items_that_nobody_knows(questions, dataset, split):
    wanted = split.targets(dataset, questions.period)
    assert set(questions.users.tolist()) == set(questions.replay.users[wanted].tolist())
    assert len(questions.targets.items) == wanted.sum()


def test_what_is_known_is_what_the_split_allows(questions, split):
    replay, known = questions.replay, split.known(questions.period)
    assert isinstance(questions.known, Interactions)
    rows = np.flatnonzero(known & replay.positives)
    assert sorted(zip(questions.known.users, questions.known.items, strict=True)) == sorted(
        zip(replay.users[rows], replay.items[rows], strict=True)
    )
    assert (np.diff(questions.known.timestamps)[np.diff(questions.known.users) == 0] >= 0).all()


def test_a_constant_hits_nothing_and_an_oracle_everything(questions):
    shape = (len(questions), questions.num_items)
    free = shape[1] - np.diff(questions.removed.indptr) - questions.targets.num_targets
    assert (free >= 10).all(), "more than ten items tie"
    constant = hits(questions.rank(lambda batch: np.ones(shape)[batch]), questions.targets)
    assert not recall(constant, questions.targets.num_targets, 10).any()
    oracle = 9 * questions.removed.toarray()
    oracle[questions.targets.users, questions.targets.items] = 1
    knowing = hits(questions.rank(lambda batch: oracle[batch]), questions.targets)
    assert (recall(knowing, questions.targets.num_targets, 100) == 1).all()


def test_ranking_goes_in_batches_that_do_not_show(questions, monkeypatch):
    scores, asked = np.random.default_rng(0).random((len(questions), questions.num_items)), []
    whole = questions.rank(lambda batch: scores[batch])
    monkeypatch.setattr("recsys.replay.evaluation_queries.MAX_SCORES", 7 * questions.num_items)
    assert np.array_equal(questions.rank(lambda batch: asked.append(batch) or scores[batch]), whole)
    assert {batch.stop - batch.start for batch in asked[:-1]} == {7}
    num_targets = questions.targets.num_targets
    expected = ndcg(hits(whole, questions.targets), num_targets, 10)
    assert np.array_equal(questions.ndcg_at_10(lambda batch: scores[batch]), expected)


def test_what_was_seen_is_removed(questions):
    ranking = questions.rank(lambda batch: np.ones((batch.stop - batch.start, questions.num_items)))
    for shown, seen in zip(ranking, removed(questions), strict=True):
        assert not seen & set(shown.tolist())
        assert np.count_nonzero(shown != PAD) == questions.num_items - len(seen)


def test_a_sample_is_some_of_the_questions(questions):
    sample = questions.sample(10, seed=3)
    places = np.flatnonzero(np.isin(questions.rows, sample.rows))
    assert len(sample) == len(places) == 10
    assert sample.rows.tolist() == questions.rows[places].tolist()
    for name in ("targets", "histories"):
        assert parts(getattr(sample, name)) == [parts(getattr(questions, name))[place] for place in places]
    assert removed(sample) == [removed(questions)[place] for place in places]
    assert questions.sample(10, seed=3).rows.tolist() == sample.rows.tolist() != questions.sample(10, 4).rows.tolist()
    assert questions.sample(len(questions), seed=3) is questions


class Candidates:
    """A first stage that finds items 0 and 3, and counts how often it is asked."""

    name = "retrieve"
    asked = 0

    def __call__(self, tensors):
        self.asked += len(tensors["QUERY"])
        rows = np.tile([0, 3], (len(tensors["QUERY"]), 1))
        return {"candidate_rows": rows}


class OneSlate:
    """A last stage that shows the same rows whoever asks."""

    def __init__(self, rows):
        self.shown = rows

    def rows(self, tensors):
        return np.tile(self.shown, (len(tensors["QUERY"]), 1))


def test_the_answers_of_cascades_that_share_their_first_stage(questions):
    first = Candidates()
    answers = questions.rankings([first], {"there": OneSlate((3, 0)), "back": OneSlate((0,))})
    assert first.asked == len(questions), "once for all of them"
    for name, expected in (("retrieval", [0, 3, PAD]), ("there", [3, 0, PAD]), ("back", [0, PAD, PAD])):
        assert answers[name].shape == (len(questions), K)
        assert answers[name][:, :3].tolist() == [expected] * len(questions)


def test_a_period_without_anything_new_is_refused(dataset, split):
    without = split
    while (asked := without.targets(dataset, TEST)).any():
        without = dataclasses.replace(split, periods=np.where(asked, 0, without.periods).astype(np.int8))
    with pytest.raises(DataError, match=r"no user meets a new item in the test period; enlarge protocol\.test"):
        EvaluationQueries.of(dataset, without, Replay(dataset, without), TEST)
