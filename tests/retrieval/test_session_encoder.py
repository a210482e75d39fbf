"""The session encoder: which events a position attends to, and that an earlier session reaches the long-term state alone."""

import torch

from recsys.features.history import log_gap
from recsys.retrieval.session import SessionEncoder, session_mask

SHORT, LONG = log_gap(5), log_gap(60)


def test_a_position_reads_the_start_token_and_the_events_of_its_own_session() -> None:
    present = torch.tensor([[False, True, True, True, True]])
    ends = torch.tensor([[True, False, True, False, True]])  # the first is padding
    assert session_mask(present, ends)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],  # another session begins at this position
        [1, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0],
    ]


def test_a_session_that_ended_is_read_by_the_long_term_state_alone() -> None:
    torch.manual_seed(0)
    encoder = SessionEncoder(dim=8, length=4, dropout=0.0, num_blocks=0, num_heads=1, gap_minutes=30).eval()
    tokens, present = torch.randn(1, 5, 8), torch.ones(1, 4, dtype=torch.bool)
    changed = tokens.clone()
    changed[:, 1] += 1

    def moved(gaps: list[float]) -> bool:
        """Whether the last state reads the first event; without blocks a long-term state is its own token alone."""
        both = [encoder.last(one, present, torch.tensor([gaps])) for one in (tokens, changed)]
        return not torch.allclose(*both, rtol=0, atol=1e-6)

    assert moved([SHORT] * 4)
    assert moved([0.0] * 4), "without time the history is one session"
    assert not moved([SHORT, LONG, SHORT, SHORT])
    assert not moved([SHORT, SHORT, SHORT, LONG])
