"""Calibration of the ranker's logits on later data: one affine map an objective (Platt 1999), in two parts.

Base-rate drift changes request-level and within-request scores differently, so each gets its own scale: a logit is split
into the request's intercept, which is the candidates' mean logit as predicted from the request alone, and the rest.

Shapes: R rows, Q requests, F features of a request, T objectives; `...` any leading dimensions.
"""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.ranking.objective_chain import Parents, enforce_monotone

MIN_RARER = 5
"""with fewer positives, or negatives, an objective only has its base rate moved"""
NUM_NEGATIVES = 16
"""that a positive is compared with"""
MIN_SCALE = 0.1
"""a smaller scale would leave candidates so alike that rules and diversity alone decide"""
MAX_DEVIATIONS = 5.0
"""standard deviations that a feature of a request may lie from its mean"""
PENALTIES = np.logspace(-2, 6, 33)
"""candidates for the ridge of the intercept; the one of the least leave-one-out error is taken"""


class RequestIntercept(nn.Module):
    """Mean logit of a request's candidates, linear in the features of the request."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, num_features: int, num_objectives: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))
        self.register_buffer("weight", torch.zeros(num_objectives, num_features))
        self.register_buffer("bias", torch.zeros(num_objectives))

    def forward(self, requests: Tensor) -> Tensor:
        """[..., F] -> [..., T]; finite for every finite input."""
        return F.linear(self._standard(requests), self.weight, self.bias)

    def _standard(self, requests: Tensor) -> Tensor:
        return ((requests - self.mean) / self.std).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)

    def fit(self, requests: Tensor, means: Tensor) -> None:
        """Ridge regression of means [Q, T] on requests [Q, F]; no label is read."""
        self.mean.copy_(requests.mean(0))
        self.std.copy_(requests.std(0, correction=0).clamp(min=1e-3))
        if len(requests) < 2:
            self.bias.copy_(means.mean(0))
            return
        ridge = RidgeCV(PENALTIES, alpha_per_target=True)
        ridge.fit(self._standard(requests).double().numpy(), means.double().numpy())
        self.weight.copy_(torch.from_numpy(np.atleast_2d(ridge.coef_)))
        self.bias.copy_(torch.from_numpy(np.atleast_1d(ridge.intercept_)))


class Calibrator(nn.Module):
    """probability = sigmoid(scale * (logit - intercept) + slope * intercept + shift), scale > 0, slope >= 0.

    The intercept is the request's, so the order of its candidates is kept and none depends on the others. An objective
    that then comes out likelier than its parent gets the parent's probability.
    """

    scale: Tensor
    slope: Tensor
    shift: Tensor

    def __init__(self, num_features: int, parents: Parents) -> None:
        super().__init__()
        self.parents = parents
        num_objectives = len(parents)
        self.intercept = RequestIntercept(num_features, num_objectives)
        for name, value in (("scale", 1.0), ("slope", 1.0), ("shift", 0.0)):
            self.register_buffer(name, torch.full((num_objectives,), value))

    def forward(self, logits: Tensor, requests: Tensor) -> Tensor:
        """[Q, C, T] of candidates and [Q, F] of their requests -> [Q, C, T] probabilities."""
        intercept = self.intercept(requests).unsqueeze(-2)
        own = torch.sigmoid(self.scale * (logits - intercept) + self.slope * intercept + self.shift)
        return enforce_monotone(own, self.parents)

    @torch.no_grad()
    def fit(self, logits: Tensor, labels: Tensor, rows: Tensor, requests: Tensor) -> None:
        """Fit the maximum posterior on logits [R, T] and labels [R, T] (NaN is missing) of a later period than training,
        with the intercept fitted before; rows [R] index the requests [Q, F].

        The scale is fitted within requests and over all rows, and the larger one is taken: variance that the intercept
        does not explain makes the second too small, candidates that differ by little but noise the first. Slope and
        shift then fit all rows. The prior of the scale is 1, that of the slope the scale, with a standard deviation of 1
        each. Labels that are all alike move the base rate to that of half an other label more (Jeffreys 1946): nothing
        else calibrates an objective that nobody reached.
        """
        intercepts = self.intercept(requests)[rows].double()
        for objective in range(logits.shape[1]):
            known = ~labels[:, objective].isnan()
            own, intercept = logits[known, objective].double(), intercepts[known, objective]
            fitted = _fit_affine(own - intercept, intercept, labels[known, objective].double().clamp(0, 1), rows[known])
            self.scale[objective], self.slope[objective], self.shift[objective] = fitted


def _fit_affine(within: Tensor, intercept: Tensor, labels: Tensor, rows: Tensor) -> tuple[float, float, float]:
    rarer = min(labels.sum().item(), (1 - labels).sum().item())
    if not len(labels):
        return 1.0, 1.0, 0.0
    if rarer == 0:
        return 1.0, 1.0, _shift(within + intercept, (len(labels) * labels + 0.5) / (len(labels) + 1))
    if rarer < MIN_RARER:
        return 1.0, 1.0, _shift(within + intercept, labels)
    scale = max(MIN_SCALE, _scale_overall(within, intercept, labels), _scale_within(within, labels, rows))
    slope = max(0.0, _slope(scale, within, intercept, labels))
    return scale, slope, _shift(scale * within + slope * intercept, labels)


def _scale_within(within: Tensor, labels: Tensor, rows: Tensor) -> float:
    """Maximum likelihood of pairs, a positive and a negative of one request: sigmoid(scale * (logit - logit)), in which the
    request's own intercept cancels (Chamberlain 1980).

    Fitting an intercept for every request beside the scale would make it too large, by half with ten candidates (Neyman
    and Scott 1948). 0 where most positives came without a negative: nothing is known within requests.
    """
    positives, negatives = _pairs(labels, rows)
    if 2 * len(positives) < NUM_NEGATIVES * (labels > 0).sum():
        return 0.0
    margins, scale = within[positives] - within[negatives], torch.ones(()).double()
    _fit_logistic(
        (scale,), lambda: scale * margins, torch.ones_like(margins), lambda: NUM_NEGATIVES * (scale - 1).square()
    )
    return scale.item()


def _scale_overall(within: Tensor, intercept: Tensor, labels: Tensor) -> float:
    if labels.all():
        return 1.0
    scale, slope, shift = (torch.tensor(value).double() for value in (1.0, 1.0, 0.0))
    _fit_logistic(
        (scale, slope, shift),
        lambda: scale * within + slope * intercept + shift,
        labels,
        lambda: (slope - scale).square() + (scale - 1).square(),
    )
    return scale.item()


def _slope(scale: float, within: Tensor, intercept: Tensor, labels: Tensor) -> float:
    """Maximum posterior; the prior holds it where a few requests differ by their intercept alone."""
    if labels.all():
        return scale
    slope, shift = torch.tensor(scale).double(), torch.zeros(()).double()
    _fit_logistic(
        (slope, shift),
        lambda: scale * within + slope * intercept + shift,
        labels,
        lambda: (slope - scale).square(),
    )
    return slope.item()


def _pairs(labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of positives and, NUM_NEGATIVES for each, of negatives drawn from the same request; [P] each."""
    positives, negatives = torch.nonzero(labels > 0)[:, 0], torch.nonzero(labels == 0)[:, 0]
    negatives = negatives[rows[negatives].argsort(stable=True)]
    of_negatives, of_positives = rows[negatives].contiguous(), rows[positives].contiguous()
    start, stop = (torch.searchsorted(of_negatives, of_positives, right=right) for right in (False, True))
    paired = stop > start
    positives, start, num = positives[paired], start[paired], (stop - start)[paired]
    draws = torch.rand(len(positives), NUM_NEGATIVES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = start[:, None] + (draws * num[:, None]).long()
    return positives.repeat_interleave(NUM_NEGATIVES), negatives[chosen.flatten()]


def _shift(logits: Tensor, labels: Tensor) -> float:
    shift = torch.zeros(()).double()
    _fit_logistic((shift,), lambda: logits + shift, labels)
    return shift.item()


def _fit_logistic(
    parameters: tuple[Tensor, ...],
    logits: Callable[[], Tensor],
    labels: Tensor,
    penalty: Callable[[], Tensor] | None = None,
) -> None:
    """Set the parameters in place to those of the maximum likelihood; penalty: minus twice the log prior."""
    optimiser = torch.optim.LBFGS(
        [one.requires_grad_() for one in parameters], max_iter=200, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits(), labels)
        if penalty is not None:
            loss = loss + penalty() / (2 * len(labels))
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
