"""Platt calibration recovers what distorted the logits, keeps their order and knows when it knows too little."""

import math

import pytest
import torch

from recsys.ranking.calibration import MIN_POSITIVES, MIN_SCALE, PlattCalibrator, _pairs


def world(num, seed, scale, shift):
    """Logits [R, 1] and labels [R, 1] drawn from sigmoid(scale * logit + shift)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num, 1, generator=generator)
    return logits, (torch.rand(num, 1, generator=generator) < torch.sigmoid(scale * logits + shift)).float()


def fitted(logits, labels, requests=None):
    calibrator = PlattCalibrator(logits.shape[1])
    calibrator.fit(logits, labels, torch.zeros(len(logits), dtype=torch.long) if requests is None else requests)
    return calibrator


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.4, 1.0), (2.5, -1.5)])
def test_a_known_affine_map_is_recovered(scale, shift):
    calibrator = fitted(*world(40_000, 0, scale, shift))
    assert float(calibrator.scale) == pytest.approx(scale, rel=0.05)
    assert float(calibrator.shift) == pytest.approx(shift, abs=0.05)


def test_the_fitted_mean_is_the_base_rate():
    logits, labels = world(5_000, 1, 0.7, -2.0)
    assert float(fitted(logits, labels)(logits).mean()) == pytest.approx(float(labels.mean()), abs=1e-4)


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
    assert (calibrator(logits).diff(dim=0) >= 0).all()
    assert ((calibrator(logits) >= 0) & (calibrator(logits) <= 1)).all()


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
    assert float(calibrator(misled).mean()) == pytest.approx(float(labels.mean()), abs=1e-4)


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
    labels[: MIN_POSITIVES - 1] = 1
    calibrator = fitted(logits, labels)
    assert float(calibrator.scale) == 1
    assert float(calibrator(logits).mean()) == pytest.approx((MIN_POSITIVES - 1) / 1_000, abs=1e-5)
    labels[:MIN_POSITIVES] = 1
    assert float(fitted(logits, labels).scale) != 1


@pytest.mark.parametrize("labels", [torch.zeros(20, 1), torch.full((20, 1), math.nan)])
def test_without_a_positive_nothing_changes(labels):
    calibrator = fitted(torch.randn(20, 1), labels)
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
    assert calibrator(torch.zeros(3, 4, 2)).shape == (3, 4, 2)


def test_only_positives_give_a_finite_map():
    calibrator = fitted(torch.randn(50, 1, generator=torch.Generator().manual_seed(7)), torch.ones(50, 1))
    assert calibrator.scale.isfinite().all()
    assert calibrator.shift.isfinite().all()


def test_labels_above_one_count_as_one():
    logits, labels = world(2_000, 8, 1.0, 0.0)
    assert torch.equal(fitted(logits, labels * 3).scale, fitted(logits, labels).scale)
