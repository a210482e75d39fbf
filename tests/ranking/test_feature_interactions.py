"""Interactions of features, pooled histories and levels of experts: known answers and slow twins of the papers' formulas.

Shapes: B batch, L history, C candidates, N fields, D dim, E expert_dim, T objectives.
"""

from itertools import combinations

import pytest
import torch

from recsys.features.spec import Column, TableSpec
from recsys.nn.blocks import TableEncoder
from recsys.ranking.autoint import InteractingLayer
from recsys.ranking.deepfm import pair_products
from recsys.ranking.din import ActivationUnit
from recsys.ranking.finalmlp import Bilinear
from recsys.ranking.model import RankerSizes
from recsys.ranking.ple import ExtractionLevel

SIZES = RankerSizes(
    dim=4,
    num_heads=2,
    cross_rank=2,
    num_cross_layers=1,
    num_experts=2,
    expert_dim=3,
    dropout=0.0,
    id_dropout=0.0,
    feature_dropout=0.0,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_products_of_pairs_known_answer():
    fields = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, -1.0]]])
    assert pair_products(fields).tolist() == [[1 * 3 + 1 * 5 + 3 * 5, 2 * 4 - 2 - 4]]


def test_products_of_pairs_equal_a_loop():
    fields = torch.randn(2, 3, 5, 4)
    expected = sum(fields[..., i, :] * fields[..., j, :] for i, j in combinations(range(5), 2))
    torch.testing.assert_close(pair_products(fields), expected)


@torch.no_grad()
def test_a_layer_of_autoint_equals_a_loop_over_fields_and_heads():
    layer, fields = InteractingLayer(4, 2), torch.randn(3, 4)
    query, key, value = (part.view(3, 2, 2) for part in layer.project_in(fields).chunk(3, dim=-1))
    rows = []
    for m in range(3):
        heads = []
        for head in range(2):
            alike = torch.stack([query[m, head] @ key[k, head] for k in range(3)]).exp()
            heads.append(sum(alike[k] / alike.sum() * value[k, head] for k in range(3)))
        rows.append((torch.cat(heads) + layer.residual.weight @ fields[m]).clamp(min=0))
    torch.testing.assert_close(layer(fields), torch.stack(rows))


@torch.no_grad()
def test_the_bilinear_fusion_known_answer():
    """Two heads of two: the terms of each sum up to x' W y."""
    fusion = Bilinear(4, 2)
    fusion.weight.copy_(torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[0.0, 1.0], [1.0, 0.0]]]))
    first, second = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 7.0, 8.0])
    assert fusion(first, second).tolist() == [1 * (5 + 12), 2 * 18, 3 * 8, 4 * 7]


@torch.no_grad()
def test_the_activation_unit_equals_a_network_on_event_candidate_difference_and_product():
    """Weights on the difference, 1 of them here, add to those on the event and are taken from those on the candidate."""
    unit, candidates, events = ActivationUnit(4, 3), torch.randn(2, 2, 4), torch.randn(2, 5, 4)
    present = torch.tensor([[False, False, True, True, True], [False] * 5])
    of_difference = torch.randn(3, 4)
    own, other = unit.event.weight - of_difference, unit.candidate.weight + of_difference
    for candidate in range(2):
        expected = torch.zeros(4)
        for event in (2, 3, 4):
            e, c = events[0, event], candidates[0, candidate]
            first = torch.cat([own, other, of_difference, unit.product], dim=1)
            hidden = first @ torch.cat([e, c, e - c, e * c]) + unit.event.bias
            expected += unit.weight(hidden * hidden.sigmoid()) * e
        torch.testing.assert_close(unit(candidates, events, present)[0, candidate], expected)
    assert not unit(candidates, events, present)[1].any()


@torch.no_grad()
def test_a_level_of_experts_mixes_for_each_objective_its_own_and_for_the_common_input_all():
    level = ExtractionLevel(5, SIZES, 2)
    inputs, common = [torch.randn(1, 1, 5) for _ in range(2)], torch.randn(1, 1, 5)
    mixed, mixed_common = level(inputs, common)
    shared = [expert(common) for expert in level.experts.shared]
    own = [expert(one) for expert, one in zip(level.experts.own, inputs, strict=True)]
    for objective in range(2):
        weights = level.experts.gates[objective](inputs[objective])[0, 0].exp()
        outputs = [*shared, own[objective]]
        expected = sum(weight * output for weight, output in zip(weights, outputs, strict=True)) / weights.sum()
        torch.testing.assert_close(mixed[objective], expected)
    weights = level.common_gate(common)[0, 0].exp()
    expected = sum(weight * output for weight, output in zip(weights, [*shared, *own], strict=True)) / weights.sum()
    torch.testing.assert_close(mixed_common, expected)


@torch.no_grad()
def test_the_fields_of_a_row_add_up_to_what_its_encoder_normalises():
    columns = (
        Column(name="item", kind="category", vocabulary=tuple("abc")),
        Column(name="tags", kind="categories", vocabulary=("x", "y"), slots=2),
        Column(name="price", kind="number"),
        Column(name="text", kind="vector", slots=2),
    )
    encoder = TableEncoder(TableSpec(name="items", columns=columns), dim=4, id_column="item").eval()
    batch = {"item_ids": torch.tensor([[2, 3, 2], [3, 0, 0]]), "item_numbers": torch.randn(2, 2)}
    batch["item_vectors"] = torch.randn(2, 2)
    identity, *content = encoder.fields(batch, "item")
    assert 1 + len(content) == encoder.num_fields == 4
    summed = sum(content)
    expected = encoder.norm(identity + encoder.gate(summed).sigmoid() * summed)
    torch.testing.assert_close(encoder(batch, "item"), expected)
    assert not content[0][1].any()
