"""Probabilities of candidates against what users then did."""

import numpy as np
import pytest

from recsys.contracts import PAD
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, GlobalTime
from recsys.evaluation.objectives import DECILES, MEASURES, evaluate_objectives, is_calibrated, mean, measures
from recsys.evaluation.probabilities import auc, log_loss
from recsys.replay.labelled_requests import LabelledRequests
from recsys.replay.replay import Replay


@pytest.fixture(scope="module")
def moments():
    dataset = Synthetic(users=60, items=80, events=3_000, seed=0).load()
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    return LabelledRequests.of(Replay(dataset, split), split, TEST, per_user=2, max_requests=1_000)


@pytest.fixture(scope="module")
def candidates(moments):
    """Twenty of the catalogue for everybody, the last place is padding."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(moments.replay.dataset.num_items)[:20] for _ in range(len(moments))])
    rows[:, -1] = PAD
    return rows


@pytest.fixture(scope="module")
def popularity(moments):
    return np.arange(moments.replay.dataset.num_items) % 7


def reached(moments, rows):
    """Slow: objective -> labels of all candidates that are no padding, user by user."""
    replay, labels = moments.replay, {name: [] for name in moments.replay.dataset.description.objectives}
    for row, candidates in zip(moments.rows, rows, strict=True):
        mine = [
            one
            for one in range(replay.num_earlier[row], len(replay.rows_of_user[replay.users[row]]))
            if moments.split.periods[replay.rows_of_user[replay.users[row]][one]] == TEST
            and replay.timestamps[replay.rows_of_user[replay.users[row]][one]]
            <= replay.now[row] + moments.split.horizon
        ]
        events = replay.rows_of_user[replay.users[row]][mine]
        for place, name in enumerate(labels):
            good = {replay.items[event] for event in events if replay.labels[event, place] > 0}
            labels[name] += [float(item in good) for item in candidates if item != PAD]
    return {name: np.array(own) for name, own in labels.items()}


def test_measures_are_those_of_all_candidates(moments, candidates, popularity):
    shape = (*candidates.shape, len(moments.replay.dataset.description.objectives))
    probabilities = np.random.default_rng(1).random(shape).astype(np.float32)
    found = evaluate_objectives(moments, candidates, probabilities, popularity)
    labels = reached(moments, candidates)
    assert found.keys() == {name for name, own in labels.items() if own.any()}
    for place, name in enumerate(labels):
        if name not in found:
            continue
        predicted = probabilities[..., place][candidates != PAD].astype(np.float64)
        assert found[name]["auc"] == pytest.approx(auc(labels[name], predicted))
        assert found[name]["log_loss"] == pytest.approx(log_loss(labels[name], predicted))
        assert found[name]["rate"] == pytest.approx(labels[name].mean())
        assert found[name].keys() >= MEASURES.keys()
        assert found[name]["ndcg@10"] == pytest.approx(slow_ndcg(moments, candidates, probabilities, place))
        assert found[name]["new_users"] == pytest.approx(slow_new_users(moments, candidates, probabilities, place))
        assert len(found[name]["by_popularity"]) == DECILES


def labels_of(moments, candidates, place):
    """Question -> (its candidates' columns, their labels)."""
    labels = moments.labels(candidates)[..., place]
    for own, items in zip(labels, candidates, strict=True):
        columns = [column for column, item in enumerate(items) if item != PAD and not np.isnan(own[column])]
        yield columns, [float(own[column] > 0) for column in columns]


def slow_ndcg(moments, candidates, probabilities, place):
    found = []
    for number, (columns, own) in enumerate(labels_of(moments, candidates, place)):
        ordered = sorted(zip(probabilities[number, columns, place], own, strict=True), key=lambda one: -one[0])
        gains = [
            sum(label / np.log2(2 + at) for at, label in enumerate(one[:10]))
            for one in ([label for _, label in ordered], sorted(own, reverse=True))
        ]
        if gains[1]:
            found.append(gains[0] / gains[1])
    return np.mean(found)


def slow_new_users(moments, candidates, probabilities, place):
    predicted, observed = [], []
    for number, (columns, own) in enumerate(labels_of(moments, candidates, place)):
        row, replay = moments.rows[number], moments.replay
        before = replay.rows_of_user[replay.users[row]][: replay.num_earlier[row]]
        if not (replay.labels[before] > 0).any():
            predicted += probabilities[number, columns, place].tolist()
            observed += own
    return sum(predicted) / sum(observed) if sum(observed) else None


def test_the_truth_has_no_error_and_what_tells_nobody_apart_is_left_out(moments, candidates, popularity):
    names = list(moments.replay.dataset.description.objectives)
    truth = moments.labels(candidates)
    found = evaluate_objectives(moments, candidates, np.nan_to_num(truth), popularity)
    first = found[names[0]]
    assert (first["auc"], first["auc_per_user"], first["ece"], first["predicted_over_observed"]) == (1, 1, 0, 1)
    nowhere = np.full_like(candidates, PAD)
    nowhere[0, 0] = candidates[0, 0]
    assert evaluate_objectives(moments, nowhere, np.zeros_like(truth), popularity) == {}


def test_scores_that_are_off_beyond_the_noise_are_called_no_probabilities():
    rng = np.random.default_rng(0)
    predicted, users = rng.uniform(0.05, 0.3, 20_000), np.repeat(np.arange(400), 50)
    labels = (rng.random(20_000) < predicted).astype(float)
    right, half = measures(labels, predicted, users), measures(labels, predicted / 2, users)
    low, high = right["predicted_over_observed ci95"]
    assert low < 1 < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(labels.sum()), rel=0.25)
    assert (is_calibrated(right), is_calibrated(half)) == (True, False)
    for rows, shown in ((slice(None), True), (slice(400), False)):  # eight users cannot show it
        off = predicted[rows] * 1.15 * labels[rows].sum() / predicted[rows].sum()
        assert is_calibrated(measures(labels[rows], off, users[rows])) != shown
    averaged = mean([{"buy": right}, {"buy": half}])["buy"]
    assert averaged["predicted_over_observed ci95"][0] < averaged["predicted_over_observed"]


def test_seeds_are_averaged_and_the_bins_are_those_of_the_last():
    one, other = ({"like": {"auc": value, "reliability": {"observed": [value]}}} for value in (0.5, 0.7))
    assert mean([one, other])["like"] == {"auc": pytest.approx(0.6), "reliability": {"observed": [0.7]}}
    assert mean([]) == {}
