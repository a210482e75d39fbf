"""User encoders against slow twins of the formulas of their papers.

Shapes: B batch, L history, P = L + 1 positions, D dim, H heads.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recsys.features.history import encode_gaps
from recsys.retrieval.bert4rec import BERT4RecEncoder
from recsys.retrieval.esasrec import ESASRecEncoder
from recsys.retrieval.hstu import HSTUEncoder, elapsed_buckets
from recsys.retrieval.sasrec import SASRecEncoder

L, D, H = 5, 8, 2
SIZES = {"dim": D, "length": L, "dropout": 0.5, "num_blocks": 2, "num_heads": H}
NOW = 1_700_000_000.0
TIMES = ([NOW - 4e7, NOW - 3e6, NOW - 7_000, NOW - 60, NOW - 3], [0.0, 0.0, 0.0, NOW - 90_000, NOW - 90_000])
"""of the events of two users; the second has two"""


@pytest.fixture
def present():
    return torch.tensor([[True] * L, [False] * 3 + [True] * 2])


@pytest.fixture
def tokens():
    return torch.randn(2, L + 1, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def gaps():
    return torch.stack(
        [torch.from_numpy(encode_gaps(torch.tensor(times, dtype=torch.double).numpy(), NOW)) for times in TIMES]
    )


def drawn(encoder):
    """An encoder in evaluation whose weights all matter."""
    torch.manual_seed(0)
    for weights in encoder.parameters():
        nn.init.normal_(weights, std=0.4)
    return encoder.eval().requires_grad_(False)


def bucket(seconds):
    return int(math.log(max(1.0, seconds)) / 0.301)


def test_buckets_are_of_the_time_until_the_next_event_also_seconds_after_years(present, gaps):
    found = elapsed_buckets(present, gaps)
    times = [*TIMES[0], NOW]
    for query in range(1, L + 1):
        for key in range(query):
            assert found[0, query, key] == bucket(times[query] - times[key]), (query, key)
    assert found[1, -1, 3:].tolist() == [bucket(90_000), bucket(90_000)]
    assert not elapsed_buckets(present, torch.zeros(2, L)).any()
    assert elapsed_buckets(present[:, :0], gaps[:, :0]).shape == (2, 1, 0)


def hstu_twin(layer, x, here, times):
    """One layer on one history [P, D], a loop over queries, keys and heads."""
    gate, value, query, key = (
        part.view(len(x), H, -1) for part in F.silu(layer.project_in(layer.norm(x))).chunk(4, -1)
    )
    rows = []
    for i in range(len(x)):
        summed = torch.zeros(H, D // H)
        for j in (j for j in range(i + 1) if here[j]):
            for head in range(H):
                score = query[i, head] @ key[j, head] / math.sqrt(D // H)
                score = score + layer.position_bias.weight[head, i - j if j else L]
                if j:
                    score = score + layer.time_bias[bucket(times[i] - times[j - 1]), head]
                summed[head] += F.silu(score) / math.sqrt(L) * value[j, head]
        rows.append(layer.project_out(layer.attended_norm(summed.flatten()) * gate[i].flatten()))
    return x + torch.stack(rows)


def test_hstu_equals_a_loop_over_queries_keys_and_heads(tokens, present, gaps):
    encoder = drawn(HSTUEncoder(**SIZES))
    found = encoder(tokens, present, gaps)
    for row, times in enumerate(TIMES):
        here = [True, *present[row].tolist()]
        x = tokens[row]
        for layer in encoder.layers:
            x = hstu_twin(layer, x, here, [*times, NOW])
        torch.testing.assert_close(found[row][here], encoder.norm(x)[here], rtol=1e-4, atol=1e-5)


def test_an_event_long_ago_counts_as_its_bucket_says(tokens, present, gaps):
    """A year before the second event instead of seconds: one more bias, of one key, for the queries behind it."""
    encoder = drawn(HSTUEncoder(**{**SIZES, "num_blocks": 1}))
    longer = gaps.clone()
    longer[0, 0] = math.log1p(3e8)
    before, after = (encoder(tokens, present, one) for one in (gaps, longer))
    assert torch.equal(before[0, 0], after[0, 0])
    assert (before[0, 1:] != after[0, 1:]).any(-1).all()
    encoder.layers[0].time_bias.zero_()
    assert torch.equal(encoder(tokens, present, gaps), encoder(tokens, present, longer))


def attention_twin(attention, queries, keys, allowed):
    """[Q, D], [K, D], allowed [Q][K] -> [Q, D], a softmax for each query and head."""
    query, key, value = (
        layer(part).view(len(part), H, -1)
        for layer, part in ((attention.query, queries), (attention.key, keys), (attention.value, keys))
    )
    rows = []
    for i in range(len(queries)):
        kept = [j for j in range(len(keys)) if allowed[i][j]]
        heads = []
        for head in range(H):
            scores = torch.stack([query[i, head] @ key[j, head] for j in kept]) / math.sqrt(D // H)
            heads.append(scores.softmax(0) @ value[kept, head])
        rows.append(torch.cat(heads))
    return attention.project_out(torch.stack(rows))


def positions_and_mask(here):
    numbers = [max(sum(here[: p + 1]) - 1, 0) for p in range(len(here))]
    allowed = [[j <= i and (here[j] or j == 0) for j in range(len(here))] for i in range(len(here))]
    return numbers, allowed


def test_sasrec_equals_its_slow_twin(tokens, present, gaps):
    encoder = drawn(SASRecEncoder(**SIZES))
    found = encoder(tokens, present, gaps)
    for row in range(2):
        here = [True, *present[row].tolist()]
        numbers, allowed = positions_and_mask(here)
        x = tokens[row] + encoder.positions.weight[numbers]
        for block in encoder.blocks:
            normed = block.query_norm(x)
            x = block.feed_norm(normed + attention_twin(block.attention, normed, x, allowed))
            first, second = block.feed[0], block.feed[3]
            x = x + second(first(x).clamp(min=0))
        torch.testing.assert_close(found[row][here], encoder.norm(x)[here], rtol=1e-4, atol=1e-5)


def test_the_blocks_of_esasrec_equal_their_slow_twin(tokens, present, gaps):
    encoder = drawn(ESASRecEncoder(**SIZES))
    found = encoder(tokens, present, gaps)
    for row in range(2):
        here = [True, *present[row].tolist()]
        numbers, allowed = positions_and_mask(here)
        x = tokens[row] + encoder.positions.weight[numbers]
        for block in encoder.blocks:
            normed = block.attention_norm(x)
            attended = attention_twin(block.attention, normed, normed, allowed)
            x = x + attended / (1 + torch.exp(-block.attention_gate(x)))
            gate, value = block.feed_in(block.feed_norm(x)).chunk(2, dim=-1)
            x = x + block.feed_out(gate / (1 + torch.exp(-gate)) * value) / (1 + torch.exp(-block.feed_gate(x)))
        torch.testing.assert_close(found[row][here], encoder.norm(x)[here], rtol=1e-4, atol=1e-5)


def test_closed_gates_let_nothing_pass(tokens, present, gaps):
    encoder = drawn(ESASRecEncoder(**SIZES))
    for block in encoder.blocks:
        for gate in (block.attention_gate, block.feed_gate):
            gate.weight.zero_()
            gate.bias.fill_(-100.0)
    numbers = F.pad(present.long().cumsum(1), (1, 0))
    expected = encoder.norm(tokens + encoder.positions.weight[numbers])
    torch.testing.assert_close(encoder(tokens, present, gaps), expected)


def torch_layer(block):
    """PyTorch's own encoder layer with the weights of a block."""
    layer = nn.TransformerEncoderLayer(D, H, 4 * D, activation="gelu", batch_first=True, norm_first=False).eval()
    attention = block.attention
    weights = {
        "self_attn.in_proj_weight": torch.cat(
            [one.weight for one in (attention.query, attention.key, attention.value)]
        ),
        "self_attn.in_proj_bias": torch.zeros(3 * D),
        "self_attn.out_proj.weight": attention.project_out.weight,
        "self_attn.out_proj.bias": torch.zeros(D),
    }
    named = {
        "linear1": block.feed[0],
        "linear2": block.feed[2],
        "norm1": block.attention_norm,
        "norm2": block.feed_norm,
    }
    weights |= {f"{name}.{kind}": getattr(one, kind) for name, one in named.items() for kind in ("weight", "bias")}
    layer.load_state_dict(weights)
    return layer


def test_bert4rec_equals_bidirectional_layers_of_pytorch_on_each_prefix_and_a_mask_token(tokens, present, gaps):
    encoder = drawn(BERT4RecEncoder(**SIZES))
    found = encoder(tokens, present, gaps)
    layers = [torch_layer(block) for block in encoder.blocks]
    for row in range(2):
        here = torch.tensor([True, *present[row].tolist()])
        for position in here.nonzero().flatten().tolist():
            prefix = tokens[row, : position + 1][here[: position + 1]]
            sequence = torch.cat([prefix, encoder.mask_token[0]]) + encoder.positions.weight[: len(prefix) + 1]
            x = encoder.norm(sequence).unsqueeze(0)
            for layer in layers:
                x = layer(x)
            torch.testing.assert_close(found[row, position], encoder.project(x[0, -1]), rtol=1e-4, atol=1e-5)


def test_the_whole_history_costs_bert4rec_one_pass(tokens, present, gaps):
    encoder, sizes = drawn(BERT4RecEncoder(**SIZES)), []
    encoder.blocks[0].register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape)))
    encoder.last(tokens, present, gaps)
    assert sizes == [(2, L + 2, D)]
