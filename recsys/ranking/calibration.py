"""Calibration of the ranker's logits on later data, one affine map an objective (Platt 1999).

Shapes: R rows, T objectives; `...` any leading dimensions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_POSITIVES = 5
"""with fewer positives an objective only has its base rate moved"""


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
    def fit(self, logits: Tensor, labels: Tensor) -> None:
        """Maximum likelihood on logits [R, T] and labels [R, T] (NaN is missing) of a later period than training."""
        for objective in range(logits.shape[1]):
            known = ~labels[:, objective].isnan()
            fitted = _fit_affine(logits[known, objective].double(), labels[known, objective].double().clamp(0, 1))
            self.scale[objective], self.shift[objective] = fitted


def _fit_affine(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    if not len(labels) or labels.sum() == 0:
        return 1.0, 0.0
    log_scale = torch.zeros((), dtype=torch.double, requires_grad=bool(labels.sum() >= MIN_POSITIVES))
    shift = torch.zeros((), dtype=torch.double, requires_grad=True)
    free = [parameter for parameter in (log_scale, shift) if parameter.requires_grad]
    optimiser = torch.optim.LBFGS(free, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(log_scale.exp() * logits + shift, labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return float(log_scale.exp()), float(shift)
