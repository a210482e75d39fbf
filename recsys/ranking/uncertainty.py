"""Uncertainty of the ranker's logits: a Gaussian posterior over the weights of its last layer.

Features of the last layer are taken as they are, only the weights that the logit of an objective is linear in are
uncertain ("being Bayesian, even just a bit", Kristiadi et al. 2020; neural-linear, Riquelme et al. 2018). Around the trained
weights (Laplace approximation, generalised Gauss-Newton) their precision is that of a prior plus the information

    sum over the examples of P(parent) p (1 - p) phi phi^T,

p the probability of the objective given its parent: an example that never reached the parent carries no information of
it. The likelihood of the labels is the product of these conditional ones, so objectives err independently, and the
deviation of a product of them follows from theirs (`objective_chain.propagate_variance`). The calibrator's own error,
that of the features, the listwise term and dropout are left out.

Shapes: B requests, C candidates, R rows, T objectives, E features of the last layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.nn.blocks import Batch
from recsys.ranking.calibration import Calibrator
from recsys.ranking.model import RankerModel
from recsys.ranking.objective_chain import Parents, chain_logits, propagate_variance

PRECISIONS = torch.logspace(-2, 6, 161, dtype=torch.float64)
"""candidates for the prior's; the one of the greatest evidence is taken"""


class LastLayerPosterior(nn.Module):
    """Variances of logits that are linear in their features."""

    factors: Tensor
    """[T, E, E], factor factor^T is the covariance of the weights"""

    def __init__(self, num_objectives: int, num_features: int) -> None:
        super().__init__()
        self.register_buffer("factors", torch.zeros(num_objectives, num_features, num_features))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features [..., E] of each objective -> variances [..., T]."""
        scattered = [one @ factor for one, factor in zip(features, self.factors.unbind(0), strict=True)]
        return torch.stack([(one * one).sum(-1) for one in scattered], dim=-1)

    @torch.no_grad()
    def fit(self, information: Tensor, weight_change: Tensor) -> None:
        """Fit to information [T, E, E] of the examples, and the distance [T, E] of the trained weights from the prior's mean.

        The prior's precision, one an objective, is that of the greatest evidence: of Laplace's approximation to the
        likelihood of the labels, its weights integrated out (MacKay 1992).
        """
        for objective, (matrix, change) in enumerate(zip(information.double(), weight_change.double(), strict=True)):
            values, directions = torch.linalg.eigh((matrix + matrix.T) / 2)
            values = values.clamp(min=0)
            precision = PRECISIONS[_evidence(values, change.square().sum()).argmax()]
            self.factors[objective] = directions * (values + precision).rsqrt()


def _evidence(values: Tensor, distance: Tensor) -> Tensor:
    """Twice the log evidence of every precision, up to a constant: eigenvalues [E] of the information, squared distance []."""
    fitted = torch.log(PRECISIONS / (values[:, None] + PRECISIONS)).sum(0)
    return fitted - PRECISIONS * distance


@torch.no_grad()
def information(logits: Tensor, features: Sequence[Tensor], known: Tensor, parents: Parents) -> Tensor:
    """Sum over rows, [T, E, E] float64: logits [R, T], each given its parent; known [R, T] bool where there is a label."""
    own, reached = torch.sigmoid(logits.double()), torch.sigmoid(chain_logits(logits.double(), parents))
    matrices = []
    for objective, (one, parent) in enumerate(zip(features, parents, strict=True)):
        p = own[:, objective]
        weights = p * (1 - p) * known[:, objective] * (1 if parent is None else reached[:, parent])
        matrices.append((one.double() * weights.unsqueeze(-1)).T @ one.double())
    return torch.stack(matrices)


def certainty(
    ranker: RankerModel, calibrator: Calibrator, posterior: LastLayerPosterior, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Calibrated probabilities, and the standard deviations of their logits: [B, C, T] each."""
    request, parents = ranker.request(batch), calibrator.parents
    logits, features = ranker.last_layer(batch, request)
    variances = propagate_variance(logits, posterior(features()), parents)
    return calibrator(chain_logits(logits, parents), request), calibrator.scale * variances.sqrt()
