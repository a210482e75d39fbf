"""What stays float32 when all else is bfloat16."""

import torch
from torch import nn

from recsys.nn.blocks import ExactLinear


def test_a_small_logit_is_as_exact_in_mixed_precision_as_without():
    torch.manual_seed(0)
    exact, plain = ExactLinear(16, 4), nn.Linear(16, 4)
    with torch.no_grad():
        exact.bias.fill_(-5.0)
    plain.load_state_dict(exact.state_dict())
    x = torch.randn(8, 16).to(torch.bfloat16)
    expected = plain(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact(x), expected)
        assert (plain(x) - expected).abs().max() > 1e-3
