"""The seam of the user tower: how a history becomes one state, or one for each interest, at each of its positions.

An encoder is a `torch.nn.Module` whose class takes `dim`, `length` and `dropout` and, beside them, the keys of its own
file in conf/retrieval/user_encoder.

Shapes: B batch, L history, D dim, K interests; P = L + 1 positions, the first before any event.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn


class UserEncoder(nn.Module, ABC):
    """A causal encoder of histories.

    State p reads tokens 0 to p alone, and of those only the present ones: one pass over a window of events trains every
    position of it, and padding changes no state, so windows of different lengths can be batched.
    """

    interests: int = 1
    """vectors of a user; an item's score is that of the nearest one"""

    @abstractmethod
    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        """Return the states [B, P, K D] of a history up to each of its positions, those of the interests side by side.

        tokens [B, P, D]: the start token, then the events, oldest first; present [B, L] bool, False at padding; gaps [B, L]:
        log(1 + seconds) from an event to the next one, or to the request, 0 where there is no time.
        """

    def last(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        """Return the state [B, K D] of the whole history, that of the start token where it is empty; serving reads no other."""
        states = self(tokens, present, gaps)
        return torch.where(present.any(-1, keepdim=True), states[:, -1], states[:, 0])


class UserEncoderFactory(Protocol):
    """A file of conf/retrieval/user_encoder, instantiated: the class of an encoder with its own keys filled in."""

    def __call__(self, *, dim: int, length: int, dropout: float) -> UserEncoder:
        """Build the encoder of histories of at most `length` events; ConfigError for keys out of range."""
