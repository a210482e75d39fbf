"""Calibration of the ranker's logits on later data, one affine map an objective (Platt 1999).

Shapes: R rows, Q requests, T objectives; `...` any leading dimensions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_POSITIVES = 5
"""with fewer positives an objective only has its base rate moved"""
PAIRS = 16
"""negatives that a positive is compared with"""
MIN_SCALE = 0.1
"""a smaller scale would leave candidates so alike that rules and diversity alone decide"""


class PlattCalibrator(nn.Module):
    """probability = sigmoid(scale * logit + shift), scale > 0, so the order of candidates is kept."""

    scale: Tensor
    shift: Tensor

    def __init__(self, num_objectives: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(num_objectives))
        self.register_buffer("shift", torch.zeros(num_objectives))

    def forward(self, logits: Tensor) -> Tensor:
        """[..., T] -> [..., T] probabilities."""
        return torch.sigmoid(self.scale * logits + self.shift)

    @torch.no_grad()
    def fit(self, logits: Tensor, labels: Tensor, requests: Tensor) -> None:
        """Maximum likelihood on logits [R, T] and labels [R, T] (NaN is missing) of a later period than training.

        requests [R] int64 says whose candidate a row is. The scale is fitted within requests and over all rows, and the
        larger one is taken: requests whose base rates moved with the period make the second too small, candidates that
        differ by little but noise the first. The shift then gives the probabilities the base rate of all rows.
        """
        for objective in range(logits.shape[1]):
            known = ~labels[:, objective].isnan()
            fitted = _fit_affine(
                logits[known, objective].double(), labels[known, objective].double().clamp(0, 1), requests[known]
            )
            self.scale[objective], self.shift[objective] = fitted


def _fit_affine(logits: Tensor, labels: Tensor, requests: Tensor) -> tuple[float, float]:
    if not len(labels) or labels.sum() == 0:
        return 1.0, 0.0
    scale = 1.0 if labels.sum() < MIN_POSITIVES else max(MIN_SCALE, _scale(logits, labels, requests))
    return scale, _shift(scale * logits, labels)


def _scale(logits: Tensor, labels: Tensor, requests: Tensor) -> float:
    return max(_scale_overall(logits, labels), _scale_within(logits, labels, requests))


def _scale_within(logits: Tensor, labels: Tensor, requests: Tensor) -> float:
    """Greatest likelihood that of a positive and a negative of one request the positive is the one it is:
    sigmoid(scale * (logit - logit)), in which the request's own intercept is gone (Chamberlain 1980).

    Fitting an intercept for every request beside the scale would make it too large, by half with ten candidates (Neyman
    and Scott 1948). 0 where most positives came alone: there is nothing within requests.
    """
    positives, negatives = _pairs(labels, requests)
    if 2 * len(positives) < PAIRS * (labels > 0).sum():
        return 0.0
    ahead, scale = logits[positives] - logits[negatives], torch.ones(()).double()
    _fit_logistic((scale,), lambda: scale * ahead, torch.ones_like(ahead))
    return scale.item()


def _scale_overall(logits: Tensor, labels: Tensor) -> float:
    if labels.all():
        return 1.0
    scale, shift = torch.ones(()).double(), torch.zeros(()).double()
    _fit_logistic((scale, shift), lambda: scale * logits + shift, labels)
    return scale.item()


def _pairs(labels: Tensor, requests: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of positives and, PAIRS for each, of negatives drawn from the same request; [P] each."""
    positives, negatives = torch.nonzero(labels > 0)[:, 0], torch.nonzero(labels == 0)[:, 0]
    negatives = negatives[requests[negatives].argsort(stable=True)]
    of_negatives, of_positives = requests[negatives].contiguous(), requests[positives].contiguous()
    first, last = (torch.searchsorted(of_negatives, of_positives, right=right) for right in (False, True))
    paired = last > first
    positives, first, num = positives[paired], first[paired], (last - first)[paired]
    draws = torch.rand(len(positives), PAIRS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = first[:, None] + (draws * num[:, None]).long()
    return positives.repeat_interleave(PAIRS), negatives[places.flatten()]


def _shift(logits: Tensor, labels: Tensor) -> float:
    shift = torch.zeros(()).double()
    _fit_logistic((shift,), lambda: logits + shift, labels)
    return shift.item()


def _fit_logistic(parameters: tuple[Tensor, ...], logits: Callable[[], Tensor], labels: Tensor) -> None:
    """Change the parameters in place to those of the greatest likelihood."""
    optimiser = torch.optim.LBFGS(
        [one.requires_grad_() for one in parameters], max_iter=200, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits(), labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
