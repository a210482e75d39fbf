"""HSTU as a ranker against loops over one sequence that ends in the candidate.

Shapes: L history, P = L + 1 positions, C candidates, D dim, H heads.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recsys.errors import ConfigError
from recsys.features.history import encode_gaps
from recsys.features.spec import Column, FeatureSpec, TableSpec
from recsys.ranking.hstu import HSTURanker
from recsys.ranking.model import RankerInputs, RankerSizes

L, D, H = 5, 8, 2
NOW = 1_700_000_000.0
TIMES = ([NOW - 4e7, NOW - 3e6, NOW - 7_000, NOW - 60, NOW - 3], [0.0, 0.0, 0.0, NOW - 90_000, NOW - 90_000])
IDS = torch.tensor([[2, 5, 3, 2, 7], [0, 0, 0, 4, 4]])
NOTHING = TableSpec(name="none", columns=())
SIZES = {"cross_rank": 1, "num_cross_layers": 0, "num_experts": 1, "expert_dim": 6, "id_dropout": 0.0}


def ranker(length=L, **changed):
    spec = FeatureSpec(
        items=TableSpec(name="items", columns=(Column(name="item", kind="category", vocabulary=tuple("abcdefgh")),)),
        profile=NOTHING,
        context=NOTHING,
        history_length=length,
        actions=("click",),
        objectives={"click": "click"},
        target="click",
    )
    inputs = RankerInputs(spec=spec, num_scores=0, num_positions=0, parents=(None,))
    sizes = {"dim": D, "num_heads": H, "dropout": 0.5, "feature_dropout": 0.0, **SIZES, **changed}
    torch.manual_seed(0)
    built = HSTURanker(inputs=inputs, sizes=RankerSizes(**sizes), num_blocks=2)
    for weights in built.parameters():
        nn.init.normal_(weights, std=0.4)
    return built.eval().requires_grad_(False)


@pytest.fixture
def batch():
    gaps = [torch.from_numpy(encode_gaps(torch.tensor(times, dtype=torch.double).numpy(), NOW)) for times in TIMES]
    return {
        "history_ids": IDS.unsqueeze(-1),
        "history_labels": torch.ones(2, L, 1),
        "history_gaps": torch.stack(gaps),
        "candidate_ids": torch.tensor([[[2], [9], [4]], [[4], [0], [2]]]),
        "candidate_scores": torch.zeros(2, 3, 0),
    }


def bucket(seconds):
    return int(math.log(max(1.0, seconds)) / 0.301)


def layer_twin(layer, x, here, times):
    """One layer on one sequence, a loop over queries, keys and heads; times[i]: of the event behind token i."""
    gate, value, query, key = (
        part.view(len(x), H, -1) for part in F.silu(layer.project_in(layer.norm(x))).chunk(4, -1)
    )
    rows = []
    for i in range(len(x)):
        summed = torch.zeros(H, D // H)
        for j in (j for j in range(i + 1) if here[j]):
            for head in range(H):
                score = query[i, head] @ key[j, head] / math.sqrt(D // H)
                score = score + layer.position_bias.weight[head, min(i - j, L - 1) if j else L]
                if 0 < j < L + 1:  # the start has no time, and that of the candidate is the query's own
                    score = score + layer.time_bias[bucket(times[i] - times[j - 1]), head]
                summed[head] += F.silu(score) / math.sqrt(L) * value[j, head]
        rows.append(layer.project_out(layer.attended_norm(summed.flatten()) * gate[i].flatten()))
    return x + torch.stack(rows)


def test_a_candidate_ends_as_the_last_token_of_a_sequence_of_its_own(batch):
    built = ranker()
    request = built.request(batch)
    found = built.sequence_ends(batch, request)
    history, candidates = built.history(batch), built.item_encoder(batch, "candidate")
    for row, times in enumerate(TIMES):
        here = [True, *(IDS[row] > 0).tolist(), True]
        for number in range(3):
            x = torch.cat([built.start(request[row])[None], history[row], candidates[row, number][None]])
            for layer in built.layers:
                x = layer_twin(layer, x, here, [*times, NOW, NOW])
            torch.testing.assert_close(found[row, number], x[-1], rtol=1e-4, atol=1e-5)


def test_an_item_that_was_met_more_often_or_lately_ends_elsewhere(batch):
    built = ranker()
    before = built.sequence_ends(batch, built.request(batch))
    later = {**batch, "history_gaps": batch["history_gaps"].clone()}
    later["history_gaps"][0, -1] = math.log1p(3e8)
    after = built.sequence_ends(later, built.request(batch))
    assert ((before - after)[0].abs().amax(-1) > 1e-3).all()
    assert torch.equal(before[1], after[1])


def test_without_a_history_a_candidate_reads_the_request_and_itself(batch):
    built = ranker(length=0)
    empty = {name: part[:, :0] if name.startswith("history_") else part for name, part in batch.items()}
    found = built(empty)
    assert found.isfinite().all()
    assert found[0, 0] != found[0, 1]


def test_heads_that_do_not_divide_the_dimension_are_refused():
    with pytest.raises(ConfigError, match=r"ranking.sizes.dim is 8, not a multiple of ranking.sizes.num_heads 3"):
        ranker(num_heads=3)
