"""The questions of an evaluation: one a user, only about what is new, without a hint in the ties.

Shapes: B queries, N items, K places.
"""

import dataclasses

import numpy as np
import pytest

from recsys.contracts import PAD, Slate, SlateItem
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, GlobalTime
from recsys.errors import DataError
from recsys.evaluation.baselines import Popularity, RecentPopularity
from recsys.evaluation.metrics import hits, recall
from recsys.evaluation.protocol import Evaluation, TestSet
from recsys.evaluation.replay import Replay


@pytest.fixture(scope="module")
def dataset():
    return Synthetic(users=60, items=80, events=3_000, seed=0).load()


@pytest.fixture(scope="module")
def split(dataset):
    return GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1).splits(dataset)[-1]


@pytest.fixture(scope="module")
def test(dataset, split):
    return TestSet.of(dataset, split, Replay(dataset, split))


def items_of(test, place):
    return set(test.targets.items[test.targets.indptr[place] : test.targets.indptr[place + 1]].tolist())


def test_every_user_is_asked_once_at_the_first_event_of_the_test_period(test, split):
    users = test.replay.users[test.rows]
    assert len(set(users.tolist())) == len(users)
    for row in test.rows:
        mine = test.replay.users == test.replay.users[row]
        assert row == np.flatnonzero(mine & (split.periods == TEST))[0]


def test_histories_lie_strictly_before_and_are_what_was_met(test):
    rows_of_items = test.replay.rows_of_items
    for place, (row, query) in enumerate(zip(test.rows, test.queries, strict=True)):
        assert query.history == tuple(
            event
            for event, user in zip(test.replay.events[:row], test.replay.users, strict=False)
            if user == test.replay.users[row]
        )
        met = set(test.met[[place]].indices.tolist())
        assert met == {rows_of_items[event.item] for event in query.history}
        remembered = {rows_of_items[event.item] for event in query.history if event.actions["click"]}
        assert set(test.remembered[[place]].indices.tolist()) == remembered
        assert test.warm[place] == bool(remembered)


def test_a_baseline_is_told_what_reached_an_objective_and_nothing_else(test):
    class Told:
        def scores(self, history):
            self.history = history
            return np.zeros(history.shape, dtype=np.float32)

    told = Told()
    ranking = test.scored(told)
    assert (told.history != test.remembered).nnz == 0
    assert told.history.nnz < test.met.nnz
    met = test.met.toarray()
    assert all(not met[place, shown[shown != PAD]].any() for place, shown in enumerate(ranking))


def test_targets_are_positives_of_the_test_period_that_are_new_to_the_user(test, split):
    replay = test.replay
    for place, row in enumerate(test.rows):
        mine = replay.users == replay.users[row]
        positive = set(replay.items[mine & (split.periods == TEST) & replay.positives].tolist())
        before = set(replay.items[mine & (split.periods < TEST)].tolist())
        assert items_of(test, place) == positive - before != set()


def test_everybody_with_a_new_positive_is_asked(test, dataset, split):
    asked = set(test.replay.users[test.rows].tolist())
    assert asked == set(test.replay.users[split.targets(dataset)].tolist())


class Constant:
    def fit(self, interactions):
        return self

    def scores(self, met):
        return np.ones(met.shape, dtype=np.float32)


class Oracle:
    """Knows the targets, and would like what was met even more."""

    def __init__(self, test):
        self.test = test

    def scores(self, met):
        scores = 9 * met.toarray()
        scores[self.test.targets.users, self.test.targets.items] += 1
        return scores


def test_a_constant_scorer_hits_nothing_and_an_oracle_everything(test):
    num = test.targets.num_targets
    free = 80 - np.diff(test.met.indptr) - num
    assert (free >= 10).all(), "more than ten items tie"
    assert not recall(hits(test.scored(Constant()), test.targets), num, 10).any()
    assert (recall(hits(test.scored(Oracle(test)), test.targets), num, 100) == 1).all()


def test_nothing_that_was_met_is_listed(test):
    ranking = test.scored(Constant())
    for place, own in enumerate(ranking):
        met = set(test.met[[place]].indices.tolist())
        assert not met & set(own.tolist())
        assert len(own[own >= 0]) == 80 - len(met)


class OneSlate:
    """A whole cascade that shows item 3, then item 0."""

    name = "rules"

    def __call__(self, tensors):
        places = tuple(SlateItem(item=item, utility=0.0, sources=(), probabilities={}) for item in self.items)
        return {
            "SLATE": [
                Slate(user=query.user, request_id="", items=places, degraded=(), bundle="", rules="")
                for query in tensors["QUERY"]
            ]
        }

    def __init__(self, dataset):
        self.items = (dataset.items["item"][3], dataset.items["item"][0])


def test_the_report_measures_every_system_on_the_same_questions(test, dataset, split):
    baselines = {"popularity": Popularity(), "recent": RecentPopularity(days=5.0), "constant": Constant()}
    report = Evaluation(baselines=baselines).report(test, dataset, split, {"ours": [OneSlate(dataset)]})
    assert list(report.rows) == ["popularity", "recent", "constant", "ours"]
    assert report.ours == ("ours",)
    assert report.users == len(test.rows) == len(report.per_user["ours"]["recall@10"])
    assert report.rows["constant"]["recall@10"] == 0 < report.rows["popularity"]["recall@10"]
    assert report.rows["ours"]["coverage@10"] == 2 / 80
    assert report.targets_sha256 == split.targets_sha256(dataset)
    assert sum(rows["ours"]["users"] for rows in report.slices.values()) == report.users
    assert test.answers([OneSlate(dataset)])[:, :3].tolist() == [[3, 0, -1]] * len(test.rows)


def test_baselines_learn_nothing_of_validation_and_test(test, dataset, split):
    seen = []

    class Watching(Constant):
        def fit(self, interactions):
            seen.append(interactions.timestamps.max())
            return self

    Evaluation(baselines={"watching": Watching()}).report(test, dataset, split, {})
    assert seen == [max(test.replay.timestamps[(split.periods < 2) & test.replay.positives])]
    assert seen[0] < split.cuts[1]


def test_a_test_period_without_anything_new_is_refused(dataset, split):
    asked = split.targets(dataset)
    without = dataclasses.replace(split, periods=np.where(asked, 0, split.periods).astype(np.int8))
    while (asked := without.targets(dataset)).any():
        without = dataclasses.replace(split, periods=np.where(asked, 0, without.periods).astype(np.int8))
    with pytest.raises(DataError, match=r"no user meets a new item in the test period; enlarge protocol\.test"):
        TestSet.of(dataset, without, Replay(dataset, without))
