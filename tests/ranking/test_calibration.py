"""Calibration recovers what distorted the logits, keeps their order and knows when it knows too little.

Shapes: R rows, Q requests.
"""

import math

import pytest
import torch

from recsys.ranking.calibration import MIN_RARER, MIN_SCALE, Calibrator, RequestIntercept, _pairs


def world(num, seed, scale, shift):
    """Logits [R, 1] and labels [R, 1] drawn from sigmoid(scale * logit + shift)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num, 1, generator=generator)
    return logits, (torch.rand(num, 1, generator=generator) < torch.sigmoid(scale * logits + shift)).float()


NOTHING = torch.zeros(1, 1)


def fitted(logits, labels, requests=None):
    """Of requests that say nothing of their own level; requests [R], each row's, of one request if None."""
    rows = torch.zeros(len(logits), dtype=torch.long) if requests is None else requests
    calibrator = Calibrator(1, (None,) * logits.shape[1])
    calibrator.fit(logits, labels, rows, NOTHING.expand(int(rows.max()) + 1, 1))
    return calibrator


def called(calibrator, logits):
    """Probabilities of rows [R, T] of such requests."""
    return calibrator(logits.unsqueeze(0), NOTHING)[0]


def with_levels(moved, kept, seed=20):
    """4,000 requests of ten candidates whose logits have the request's level, features [Q, 1], in them: logits [R, 1],
    labels [R, 1] of a time when it is worth `moved` of that and what tells candidates apart `kept`, rows [R], features.
    """
    levels, _ = world(4_000, seed, 1.0, 0.0)
    rows = torch.arange(4_000).repeat_interleave(10)
    own, _ = world(len(rows), seed + 1, 1.0, 0.0)
    chances = torch.sigmoid(kept * own + moved * levels[rows] - 1)
    labels = (torch.rand(chances.shape, generator=torch.Generator().manual_seed(seed + 2)) < chances).float()
    return levels[rows] + own, labels, rows, levels


def levelled(logits, labels, rows, features):
    calibrator = Calibrator(1, (None,))
    calibrator.intercept.fit(features, logits.unflatten(0, (-1, 10)).mean(1))
    calibrator.fit(logits, labels, rows, features)
    return calibrator


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.4, 1.0), (2.5, -1.5)])
def test_a_known_affine_map_is_recovered(scale, shift):
    calibrator = fitted(*world(40_000, 0, scale, shift))
    assert float(calibrator.scale) == pytest.approx(scale, rel=0.05)
    assert float(calibrator.shift) == pytest.approx(shift, abs=0.05)


def test_the_fitted_mean_is_the_base_rate():
    logits, labels = world(5_000, 1, 0.7, -2.0)
    assert float(called(fitted(logits, labels), logits).mean()) == pytest.approx(float(labels.mean()), abs=1e-4)


def test_small_requests_do_not_inflate_the_scale():
    """Ten candidates a request, each request with a base rate of its own: an intercept a request would say 1.3 or more."""
    requests = torch.arange(4_000).repeat_interleave(10)
    logits, _ = world(len(requests), 12, 1.0, 0.0)
    offset = torch.randn(4_000, 1, generator=torch.Generator().manual_seed(13))[requests]
    chances = torch.sigmoid(logits + offset - 2)
    labels = (torch.rand(chances.shape, generator=torch.Generator().manual_seed(14)) < chances).float()
    assert float(fitted(logits, labels, requests).scale) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize(("scale", "shift"), [(0.4, 1.0), (2.5, -1.5)])
def test_candidates_that_came_alone_are_mapped_all_together(scale, shift):
    """Also where one request in ten has two of them."""
    logits, labels = world(40_000, 16, scale, shift)
    requests = torch.arange(40_000)
    requests[1:4_000:10] -= 1
    found = fitted(logits, labels, requests)
    assert float(found.scale) == pytest.approx(scale, rel=0.05)
    assert float(found.shift) == pytest.approx(shift, abs=0.05)


def test_pairs_are_a_positive_and_a_negative_of_one_request():
    generator = torch.Generator().manual_seed(15)
    requests = torch.randint(0, 30, (400,), generator=generator)
    labels = (torch.rand(400, generator=generator) < 0.2).double()
    labels[requests == 7], labels[requests == 8] = 1, 0
    positives, negatives = _pairs(labels, requests)
    assert (labels[positives] == 1).all()
    assert (labels[negatives] == 0).all()
    assert torch.equal(requests[positives], requests[negatives])
    wanted = (labels == 1) & (requests != 7)
    assert positives.unique().tolist() == torch.nonzero(wanted)[:, 0].tolist()


def test_the_order_of_candidates_is_kept_even_when_the_labels_speak_against_it():
    logits = torch.linspace(-3, 3, 200).unsqueeze(1)
    calibrator = fitted(logits, (logits < 0).float())
    assert float(calibrator.scale) == pytest.approx(MIN_SCALE)
    assert (called(calibrator, logits).diff(dim=0) >= 0).all()
    assert ((called(calibrator, logits) >= 0) & (called(calibrator, logits) <= 1)).all()


def test_the_base_rates_of_requests_say_nothing_about_the_order_within_them():
    requests = torch.arange(200).repeat_interleave(200)
    logits, _ = world(len(requests), 9, 1.0, 0.0)
    offset = 2 * torch.randn(200, 1, generator=torch.Generator().manual_seed(10))[requests]
    chances = torch.sigmoid(0.7 * logits - offset)
    labels = (torch.rand(chances.shape, generator=torch.Generator().manual_seed(11)) < chances).float()
    misled = logits + offset
    calibrator = fitted(misled, labels, requests)
    assert float(fitted(misled, labels).scale) == pytest.approx(MIN_SCALE)
    assert float(calibrator.scale) == pytest.approx(0.7, rel=0.05)
    assert float(called(calibrator, misled).mean()) == pytest.approx(float(labels.mean()), abs=1e-4)


def test_candidates_that_differ_by_noise_alone_do_not_flatten_what_requests_say():
    """The truth is the request's; within it a greater logit means little."""
    requests = torch.arange(8_000).repeat_interleave(10)
    of_request, _ = world(8_000, 17, 1.0, 0.0)
    noise, _ = world(len(requests), 18, 1.0, 0.0)
    chances = torch.sigmoid(2 * of_request[requests] - 1)
    labels = (torch.rand(chances.shape, generator=torch.Generator().manual_seed(19)) < chances).float()
    noisy = 2 * of_request[requests] - 1 + noise / 3
    assert float(fitted(noisy, labels, requests).scale) == pytest.approx(1, abs=0.05)


def test_few_positives_only_move_the_base_rate():
    logits = torch.randn(1_000, 1, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(1_000, 1)
    labels[: MIN_RARER - 1] = 1
    calibrator = fitted(logits, labels)
    assert float(calibrator.scale) == 1
    assert float(called(calibrator, logits).mean()) == pytest.approx((MIN_RARER - 1) / 1_000, abs=1e-5)
    labels[:MIN_RARER] = 1
    assert float(fitted(logits, labels).scale) != 1


@pytest.mark.parametrize(("label", "rate"), [(0.0, 0.5 / 21), (1.0, 20.5 / 21)])
def test_labels_that_are_all_alike_move_the_base_rate_alone(label, rate):
    logits = torch.randn(20, 1)
    calibrator = fitted(logits, torch.full((20, 1), label))
    assert float(calibrator.scale) == 1
    assert float(called(calibrator, logits).mean()) == pytest.approx(rate, abs=1e-4)


def test_labels_that_are_all_missing_change_nothing():
    calibrator = fitted(torch.randn(20, 1), torch.full((20, 1), math.nan))
    assert (float(calibrator.scale), float(calibrator.shift)) == (1, 0)


def test_missing_labels_do_not_count():
    logits, labels = world(3_000, 3, 0.5, -1.0)
    alone = fitted(logits, labels)
    noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(4)) * 9
    both = fitted(torch.cat([noise, logits]), torch.cat([torch.full((500, 1), math.nan), labels]))
    assert torch.equal(alone.scale, both.scale)
    assert torch.equal(alone.shift, both.shift)


def test_every_objective_has_its_own_map():
    first, second = world(20_000, 5, 0.5, 1.0), world(20_000, 6, 2.0, -1.0)
    logits, labels = (torch.cat([first[part], second[part]], dim=1) for part in range(2))
    calibrator = fitted(logits, labels)
    assert calibrator.scale.tolist() == pytest.approx([0.5, 2.0], rel=0.1)
    assert calibrator.shift.tolist() == pytest.approx([1.0, -1.0], abs=0.1)
    assert calibrator(torch.zeros(3, 4, 2), torch.zeros(3, 1)).shape == (3, 4, 2)


def test_only_positives_give_a_finite_map():
    calibrator = fitted(torch.randn(50, 1, generator=torch.Generator().manual_seed(7)), torch.ones(50, 1))
    assert calibrator.scale.isfinite().all()
    assert calibrator.shift.isfinite().all()


def test_labels_above_one_count_as_one():
    logits, labels = world(2_000, 8, 1.0, 0.0)
    assert torch.equal(fitted(logits, labels * 3).scale, fitted(logits, labels).scale)


@pytest.mark.parametrize(("moved", "kept"), [(1.0, 0.5), (0.3, 1.0), (2.0, 0.8)])
def test_level_and_what_tells_candidates_apart_are_worth_what_each_is_worth(moved, kept):
    calibrator = levelled(*with_levels(moved, kept))
    assert float(calibrator.scale) == pytest.approx(kept, abs=0.05)
    assert float(calibrator.slope) == pytest.approx(moved, abs=0.05)
    assert float(calibrator.shift) == pytest.approx(-1, abs=0.05)


def test_a_level_that_turned_into_its_contrary_counts_for_nothing():
    """Where base rates moved against the levels, one scale over all rows would leave nothing of the order within."""
    logits, labels, rows, features = with_levels(-1.0, 0.8)
    calibrator = levelled(logits, labels, rows, features)
    assert float(calibrator.slope) == 0
    assert float(calibrator.scale) == pytest.approx(0.8, rel=0.15)
    said = calibrator(logits.unflatten(0, (-1, 10)), features)
    assert float(said.mean()) == pytest.approx(float(labels.mean()), abs=1e-3)
    of_requests = said.logit() - calibrator.scale * (
        logits.unflatten(0, (-1, 10)) - calibrator.intercept(features)[:, None]
    )
    assert float(of_requests.std()) < 1e-4


def test_positives_of_a_single_request_do_not_tear_requests_apart():
    """All of them in the request of the highest level: by likelihood alone the slope would have no end."""
    levels = torch.linspace(-1, 1, 6)[:, None]
    rows = torch.arange(6).repeat_interleave(10)
    labels = torch.zeros(60, 1)
    labels[-6:] = 1
    calibrator = Calibrator(1, (None,))
    calibrator.intercept.fit(levels, levels)
    calibrator.fit(levels[rows], labels, rows, levels)
    assert float(calibrator.slope) < 5
    said = calibrator(levels[rows].unflatten(0, (6, 10)), levels)
    assert float(said.min()) > 1e-4
    assert float(said.mean()) == pytest.approx(0.1, abs=0.01)


def test_a_level_is_the_mean_as_far_as_requests_tell_it():
    requests, _ = world(3_000, 30, 1.0, 0.0)
    noise = torch.randn(3_000, 2, generator=torch.Generator().manual_seed(31))
    intercept = RequestIntercept(3, 2)
    features = torch.cat([1 + 5 * requests, noise], dim=1)
    intercept.fit(features, torch.cat([2 * requests - 1, noise[:, :1] + 3], dim=1))
    torch.testing.assert_close(intercept(features)[:, :1], 2 * requests - 1, rtol=0, atol=0.01)
    torch.testing.assert_close(intercept(features)[:, 1:], noise[:, :1] + 3, rtol=0, atol=0.01)


def test_a_level_that_requests_do_not_tell_is_the_mean_of_all():
    """Sixty features of noise beside eighty requests: least squares would follow the noise."""
    generator = torch.Generator().manual_seed(32)
    requests, means = torch.randn(80, 60, generator=generator), torch.randn(80, 1, generator=generator) + 4
    intercept = RequestIntercept(60, 1)
    intercept.fit(requests, means)
    fresh = torch.randn(1_000, 60, generator=generator)
    assert float(intercept(fresh).std()) < 0.5
    assert float(intercept(fresh).mean()) == pytest.approx(float(means.mean()), abs=0.3)
