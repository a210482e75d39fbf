"""Calibration of the ranker's logits on later data: one affine map an objective (Platt 1999), in two parts.

What all candidates of a request have in common and what tells them apart are worth something different where base rates
moved since the training: a logit is split into its request's level, which is the mean of the candidates' logits as far as
the request alone tells it, and the rest, and each part has a scale of its own.

Shapes: R rows, Q requests, F features of a request, T objectives; `...` any leading dimensions.
"""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.ranking.funnel import Parents, nested

MIN_RARER = 5
"""with fewer positives, or negatives, an objective only has its base rate moved"""
PAIRS = 16
"""negatives that a positive is compared with"""
MIN_SCALE = 0.1
"""a smaller scale would leave candidates so alike that rules and diversity alone decide"""
MOST = 5.0
"""standard deviations that a feature of a request may lie from its mean"""
PENALTIES = np.logspace(-2, 6, 33)
"""of the level's weights, of which the one is taken that predicts each request best from all others"""


class Level(nn.Module):
    """The mean logit of a request's candidates, linear in what the request itself says."""

    centre: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, num_features: int, num_objectives: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("spread", torch.ones(num_features))
        self.register_buffer("weight", torch.zeros(num_objectives, num_features))
        self.register_buffer("bias", torch.zeros(num_objectives))

    def forward(self, requests: Tensor) -> Tensor:
        """[..., F] -> [..., T]; finite whatever a request says."""
        return F.linear(self._standard(requests), self.weight, self.bias)

    def _standard(self, requests: Tensor) -> Tensor:
        return ((requests - self.centre) / self.spread).clamp(-MOST, MOST)

    def fit(self, requests: Tensor, means: Tensor) -> None:
        """Ridge regression of means [Q, T] on requests [Q, F]; no label is read."""
        self.centre.copy_(requests.mean(0))
        self.spread.copy_(requests.std(0, correction=0).clamp(min=1e-3))
        if len(requests) < 2:
            self.bias.copy_(means.mean(0))
            return
        ridge = RidgeCV(PENALTIES, alpha_per_target=True)
        ridge.fit(self._standard(requests).double().numpy(), means.double().numpy())
        self.weight.copy_(torch.from_numpy(np.atleast_2d(ridge.coef_)))
        self.bias.copy_(torch.from_numpy(np.atleast_1d(ridge.intercept_)))


class Calibrator(nn.Module):
    """probability = sigmoid(scale * (logit - level) + slope * level + shift), scale > 0, slope >= 0.

    The level is the request's, so the order of its candidates is kept and none depends on the others. Where an objective
    then comes out likelier than the one it needs, it gets that one's probability.
    """

    scale: Tensor
    slope: Tensor
    shift: Tensor

    def __init__(self, num_features: int, parents: Parents) -> None:
        super().__init__()
        self.parents = parents
        num_objectives = len(parents)
        self.level = Level(num_features, num_objectives)
        for name, value in (("scale", 1.0), ("slope", 1.0), ("shift", 0.0)):
            self.register_buffer(name, torch.full((num_objectives,), value))

    def forward(self, logits: Tensor, requests: Tensor) -> Tensor:
        """[Q, C, T] of candidates and [Q, F] of their requests -> [Q, C, T] probabilities."""
        level = self.level(requests).unsqueeze(-2)
        return nested(torch.sigmoid(self.scale * (logits - level) + self.slope * level + self.shift), self.parents)

    @torch.no_grad()
    def fit(self, logits: Tensor, labels: Tensor, rows: Tensor, requests: Tensor) -> None:
        """Greatest posterior on logits [R, T] and labels [R, T] (NaN is missing) of a later period than training, the
        level known; rows [R] says which of the requests [Q, F] each is a candidate of.

        The scale is fitted within requests and over all rows, and the larger one is taken: what the level knows
        nothing of makes the second too small, candidates that differ by little but noise the first. Slope and shift
        then give all rows what they need. Before any label the scale is 1 and the slope the scale, with a standard
        deviation of 1 each. Labels that are all alike move the base rate to that of half an other label more (Jeffreys
        1946): an objective that nobody reached is learnt by nothing else.
        """
        levels = self.level(requests)[rows].double()
        for objective in range(logits.shape[1]):
            known = ~labels[:, objective].isnan()
            own, level = logits[known, objective].double(), levels[known, objective]
            fitted = _fit_affine(own - level, level, labels[known, objective].double().clamp(0, 1), rows[known])
            self.scale[objective], self.slope[objective], self.shift[objective] = fitted


def _fit_affine(within: Tensor, level: Tensor, labels: Tensor, rows: Tensor) -> tuple[float, float, float]:
    rarer = min(labels.sum().item(), (1 - labels).sum().item())
    if not len(labels):
        return 1.0, 1.0, 0.0
    if rarer == 0:
        return 1.0, 1.0, _shift(within + level, (len(labels) * labels + 0.5) / (len(labels) + 1))
    if rarer < MIN_RARER:
        return 1.0, 1.0, _shift(within + level, labels)
    scale = max(MIN_SCALE, _scale_overall(within, level, labels), _scale_within(within, labels, rows))
    slope = max(0.0, _slope(scale, within, level, labels))
    return scale, slope, _shift(scale * within + slope * level, labels)


def _scale_within(within: Tensor, labels: Tensor, rows: Tensor) -> float:
    """Greatest likelihood that of a positive and a negative of one request the positive is the one it is:
    sigmoid(scale * (logit - logit)), in which the request's own intercept is gone (Chamberlain 1980).

    Fitting an intercept for every request beside the scale would make it too large, by half with ten candidates (Neyman
    and Scott 1948). 0 where most positives came alone: there is nothing within requests.
    """
    positives, negatives = _pairs(labels, rows)
    if 2 * len(positives) < PAIRS * (labels > 0).sum():
        return 0.0
    ahead, scale = within[positives] - within[negatives], torch.ones(()).double()
    _fit_logistic((scale,), lambda: scale * ahead, torch.ones_like(ahead), lambda: PAIRS * (scale - 1).square())
    return scale.item()


def _scale_overall(within: Tensor, level: Tensor, labels: Tensor) -> float:
    if labels.all():
        return 1.0
    scale, slope, shift = (torch.tensor(value).double() for value in (1.0, 1.0, 0.0))
    _fit_logistic(
        (scale, slope, shift),
        lambda: scale * within + slope * level + shift,
        labels,
        lambda: (slope - scale).square() + (scale - 1).square(),
    )
    return scale.item()


def _slope(scale: float, within: Tensor, level: Tensor, labels: Tensor) -> float:
    """Of the greatest posterior: a few requests may lie apart by their level alone."""
    if labels.all():
        return scale
    slope, shift = torch.tensor(scale).double(), torch.zeros(()).double()
    _fit_logistic(
        (slope, shift),
        lambda: scale * within + slope * level + shift,
        labels,
        lambda: (slope - scale).square(),
    )
    return slope.item()


def _pairs(labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of positives and, PAIRS for each, of negatives drawn from the same request; [P] each."""
    positives, negatives = torch.nonzero(labels > 0)[:, 0], torch.nonzero(labels == 0)[:, 0]
    negatives = negatives[rows[negatives].argsort(stable=True)]
    of_negatives, of_positives = rows[negatives].contiguous(), rows[positives].contiguous()
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


def _fit_logistic(
    parameters: tuple[Tensor, ...],
    logits: Callable[[], Tensor],
    labels: Tensor,
    penalty: Callable[[], Tensor] | None = None,
) -> None:
    """Change the parameters in place to those of the greatest likelihood; penalty: twice minus a prior's logarithm."""
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
