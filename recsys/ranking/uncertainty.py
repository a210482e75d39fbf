"""How sure the ranker is of its logits: a Gaussian posterior over the weights of its last layer.

What the experts make of the input is taken as it is, only the weights that the logit of an objective is linear in are
uncertain ("being Bayesian, even just a bit", Kristiadi et al. 2020; neural-linear, Riquelme et al. 2018). Around the trained
weights (Laplace approximation, generalised Gauss-Newton) their precision is that of a prior and what the examples say,

    sum over the examples of P(parent) p (1 - p) phi phi^T,

p the probability of the objective given its parent: what never reached the parent says nothing of it. The likelihood of
what happened is the product of these conditional ones, so objectives err independently, and the deviation of a product
of them follows from theirs (`funnel.spread`). The calibrator's own error, that of the features, the listwise
term and dropout are left out.

Shapes: B requests, C candidates, R rows, T objectives, E features of the last layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.nn.blocks import Batch
from recsys.ranking.calibration import Calibrator
from recsys.ranking.funnel import Parents, follow, spread
from recsys.ranking.multi_objective import MultiObjectiveRanker

PRECISIONS = torch.logspace(-2, 6, 161, dtype=torch.float64)
"""of the prior, of which the one of the greatest evidence is taken"""


class LastLayerPosterior(nn.Module):
    """Variances of logits that are linear in their features."""

    factors: Tensor
    """[T, E, E], factor factor^T is the covariance of the weights"""

    def __init__(self, num_objectives: int, num_features: int) -> None:
        super().__init__()
        self.register_buffer("factors", torch.zeros(num_objectives, num_features, num_features))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """For each objective [..., E] -> [..., T]."""
        scattered = [one @ factor for one, factor in zip(features, self.factors.unbind(0), strict=True)]
        return torch.stack([(one * one).sum(-1) for one in scattered], dim=-1)

    @torch.no_grad()
    def fit(self, information: Tensor, learnt: Tensor) -> None:
        """information [T, E, E] of the examples, learnt [T, E] of the trained weights, from the mean of the prior on.

        The prior's precision, one an objective, is that of the greatest evidence: of Laplace's approximation to the
        likelihood of the labels, its weights integrated out (MacKay 1992).
        """
        for objective, (mine, moved) in enumerate(zip(information.double(), learnt.double(), strict=True)):
            values, directions = torch.linalg.eigh((mine + mine.T) / 2)
            values = values.clamp(min=0)
            precision = PRECISIONS[_evidence(values, moved.square().sum()).argmax()]
            self.factors[objective] = directions * (values + precision).rsqrt()


def _evidence(values: Tensor, distance: Tensor) -> Tensor:
    """Twice the logarithm, up to a constant, of every precision's: values [E] of the information, squared distance []."""
    fitted = torch.log(PRECISIONS / (values[:, None] + PRECISIONS)).sum(0)
    return fitted - PRECISIONS * distance


@torch.no_grad()
def information(logits: Tensor, features: Sequence[Tensor], known: Tensor, parents: Parents) -> Tensor:
    """[T, E, E] float64 of rows: logits [R, T], each given its parent, known [R, T] bool where there is a label."""
    own, reached = torch.sigmoid(logits.double()), torch.sigmoid(follow(logits.double(), parents))
    said = []
    for objective, (one, parent) in enumerate(zip(features, parents, strict=True)):
        p = own[:, objective]
        weights = p * (1 - p) * known[:, objective] * (1 if parent is None else reached[:, parent])
        said.append((one.double() * weights.unsqueeze(-1)).T @ one.double())
    return torch.stack(said)


def certainty(
    ranker: MultiObjectiveRanker, calibrator: Calibrator, posterior: LastLayerPosterior, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Calibrated probabilities, and the standard deviations of their logits: [B, C, T] each."""
    logits, features, request = ranker.last_layer(batch)
    variances = spread(logits, posterior(features), ranker.parents)
    return calibrator(follow(logits, ranker.parents), request), calibrator.scale * variances.sqrt()
