"""Two objectives weighed against each other: known answers and slow twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import PAD
from recsys.errors import DataError
from recsys.evaluation.chart import draw_pareto_front
from recsys.evaluation.pareto import ValidationOutcomes, pareto_front
from recsys.metrics import Targets, hits, ndcg


def outcomes(labels, rows=None):
    labels = np.asarray(labels, dtype=np.float32)
    rows = np.tile(np.arange(labels.shape[1]), (len(labels), 1)) if rows is None else np.asarray(rows)
    return ValidationOutcomes(rows=rows, probabilities=np.zeros_like(labels), labels=labels)


def test_an_order_by_one_objective_serves_the_other_less():
    both = outcomes([[[1, 0], [0, 1], [0, 0]]])
    assert both.ndcg(np.array([[3.0, 2, 1]]), 0) == 1
    assert both.ndcg(np.array([[3.0, 2, 1]]), 1) == pytest.approx(1 / np.log2(3))
    assert both.ndcg(np.array([[np.nan, 2, 1]]), 0) == pytest.approx(1 / np.log2(4)), "unknown utilities stand last"


def test_requests_without_the_objective_and_padding_do_not_count():
    labels = [[[1], [0]], [[0], [0]], [[0], [1]]]
    some = outcomes(labels, rows=[[0, 1], [0, 1], [0, PAD]])
    assert some.ndcg(np.array([[0.0, 1], [0, 1], [0, 1]]), 0) == pytest.approx(1 / np.log2(3)), "only the first counts"
    with pytest.raises(DataError, match="reached by no candidate"):
        outcomes([[[0.0], [np.nan]]]).ndcg(np.zeros((1, 2)), 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ndcg_is_that_of_the_evaluation(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((6, 15, 1)) < 0.3).astype(np.float32)
    labels[:, 0] = 1
    utilities = rng.permuted(np.tile(np.arange(15.0), (6, 1)), axis=1)
    targets = Targets.of([np.flatnonzero(one).tolist() for one in labels[..., 0]])
    found = hits(np.argsort(-utilities, axis=1), targets)
    assert outcomes(labels).ndcg(utilities, 0) == pytest.approx(ndcg(found, targets.num_targets, 10).mean())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_front_equals_its_slow_twin(points):
    slow = [not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]
    assert pareto_front(np.array(points, dtype=float)).tolist() == slow


def test_the_picture_of_a_front(tmp_path):
    points = [
        {"weight": 0.0, "worth": [0.3, 0.1], "front": True, "served": False},
        {"weight": 1.0, "worth": [0.2, 0.2], "front": True, "served": True},
        {"weight": 9.0, "worth": [0.1, 0.1], "front": False, "served": False},
    ]
    draw_pareto_front(tmp_path / "front.png", points, ("watch", "like"), "like_weight")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
