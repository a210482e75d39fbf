"""Laws of the ranker: a score belongs to a candidate and its request, never to its company.

Shapes: B batch, C candidates, L history, T objectives.
"""

import numpy as np
import pytest
import torch

from recsys.candidates.score_layout import ScoreLayout
from recsys.content.text import TextVectors
from recsys.contracts import PAD, Event, Query
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, GlobalTime
from recsys.features.batches import CandidateFeatures
from recsys.features.encode import encode_queries
from recsys.features.spec import TIME_NUMBERS, Features
from recsys.ranking.base import HALF_LIVES_HOURS, INITIAL_LOGIT, POSITION_BIAS_SCALE
from recsys.ranking.crossed import CrossNetwork, TargetAttention
from recsys.ranking.model import RankerInputs, RankerSizes
from recsys.ranking.multi_objective import MultiObjectiveRanker
from recsys.training.prepare import prepare

NUM_SCORES = ScoreLayout.unnamed(3).width
C = 25


@pytest.fixture(scope="module")
def prepared():
    dataset = Synthetic(users=40, items=30, events=1_500, seed=0).load()
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[-1]
    features = Features(history_length=6, max_values=3, min_count=2, leave_out=["position"])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


@pytest.fixture(scope="module")
def fitted(prepared):
    return prepared.spec(prepared.split.known(TEST))


def inputs_of(spec, **numbers):
    return RankerInputs(spec=spec, parents=(None,) * spec.num_objectives, **numbers)


@pytest.fixture(scope="module")
def ranker(fitted):
    torch.manual_seed(0)
    shape = {"dim": 8, "num_heads": 2, "cross_rank": 4, "num_cross_layers": 2, "num_experts": 2, "expert_dim": 6}
    sizes = RankerSizes(dropout=0.5, id_dropout=0.5, feature_dropout=0.5, **shape)
    ranker = MultiObjectiveRanker(inputs=inputs_of(fitted[0], num_scores=NUM_SCORES, num_positions=4), sizes=sizes)
    for layer in (ranker.heads, ranker.wide, ranker.positions):
        layer.reset_parameters()  # as if trained: a fresh head says nothing
    return ranker.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch(prepared, fitted):
    """Six logged queries, a stranger and one who only met what nobody knows; the last candidates are padding."""
    unknown = Event(user="x", item="never heard of", timestamp=1.0, actions={"click": 1.0})
    queries = [
        *prepared.replay.queries([3, 200, 600, 1_000, 1_300, 1_499], k=1),
        Query(user="stranger", now=0.0),
        Query(user="x", now=2.0, history=(unknown,), profile={"segment": "none such"}, context={"device": 7}),
    ]
    generator = np.random.default_rng(0)
    rows = np.stack([generator.permutation(len(fitted[1]))[:C] for _ in queries])
    rows[:, -2:] = PAD
    scores = generator.normal(size=(*rows.shape, NUM_SCORES)).astype(np.float32)
    request, _ = encode_queries(*fitted, queries)
    arrays = request.tensors() | CandidateFeatures(items=fitted[1].at(rows), scores=scores).tensors()
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def of_candidates(batch, chosen):
    """The same requests with other candidates."""
    return {name: part[:, chosen] if name.startswith("candidate_") else part for name, part in batch.items()}


def test_logits_are_finite_for_everybody_and_everything(fitted, ranker, batch):
    logits = ranker(batch)
    assert logits.shape == (8, C, fitted[0].num_objectives)
    assert logits.isfinite().all()
    strange = {name: torch.ones_like(part) if part.dtype == torch.long else part for name, part in batch.items()}
    assert ranker(strange).isfinite().all()
    extreme = {**batch, "candidate_scores": batch["candidate_scores"] * 1e30}
    assert ranker(extreme).isfinite().all()


def test_the_order_of_the_candidates_does_not_change_a_score(ranker, batch):
    order = torch.randperm(C, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ranker(of_candidates(batch, order)), ranker(batch)[:, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("chosen", [[0], [24], [3, 7], list(range(12))])
def test_the_company_of_a_candidate_does_not_change_its_score(ranker, batch, chosen):
    torch.testing.assert_close(ranker(of_candidates(batch, chosen)), ranker(batch)[:, chosen], rtol=0, atol=1e-6)


def test_the_company_of_a_request_does_not_change_its_scores(ranker, batch):
    alone = [ranker({name: part[row : row + 1] for name, part in batch.items()}) for row in range(8)]
    torch.testing.assert_close(ranker(batch), torch.cat(alone), rtol=0, atol=1e-6)


def test_every_signal_reaches_every_objective(ranker, batch):
    before = ranker(batch)[:6]
    for name in sorted(batch):
        part = batch[name]
        changed = torch.where(part == 2, 3, 2) if part.dtype == torch.long else part + torch.randn(part.shape[-1:])
        moved = (ranker({**batch, name: changed})[:6] - before).abs().amax((0, 1))
        assert (moved > 1e-6).all(), name


def test_padding_of_the_history_says_nothing(ranker, batch):
    absent = batch["history_ids"][..., 0] == 0
    assert absent.any()
    other = dict(batch)
    for name in ("history_labels", "history_gaps", "history_numbers", "history_vectors"):
        other[name] = batch[name].clone()
        other[name][absent] = 3.0
    torch.testing.assert_close(ranker(other), ranker(batch), rtol=0, atol=2e-6)


def test_scores_are_standardised_by_the_training_examples(fitted):
    shape = {"dim": 4, "num_heads": 1, "cross_rank": 2, "num_cross_layers": 0, "num_experts": 1, "expert_dim": 2}
    sizes = RankerSizes(dropout=0.0, id_dropout=0.0, feature_dropout=0.0, **shape)
    ranker = MultiObjectiveRanker(inputs=inputs_of(fitted[0], num_scores=2, num_positions=0), sizes=sizes)
    ranker.fit_scores(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
    assert ranker.score_mean.tolist() == [2, 7]
    assert ranker.score_scale.tolist() == pytest.approx([1.0, 1e-3])


@torch.no_grad()
def test_similarities_known_answer(ranker, batch):
    spec_dim = batch["candidate_vectors"].shape[-1]
    one, two = torch.eye(spec_dim)[:2]
    vectors = {"candidate_vectors": torch.stack([3 * one, two, torch.zeros(spec_dim)])[None]}
    history = torch.stack([one, 2 * one, two])[None]
    present = torch.tensor([[False, True, True]])
    found = ranker.similarities({**vectors, "history_vectors": history}, present, torch.zeros(1, 3, 8))
    torch.testing.assert_close(found, torch.tensor([[[1, 0.5], [1, 0.5], [0, 0]]]))
    nobody = ranker.similarities({**vectors, "history_vectors": history}, present & False, torch.zeros(1, 3, 8))
    assert not nobody.any()


@torch.no_grad()
def test_the_largest_similarity_is_that_of_an_event_and_never_of_padding(ranker, batch):
    one, two = torch.eye(batch["candidate_vectors"].shape[-1])[:2]
    vectors = {"candidate_vectors": -one[None, None], "history_vectors": torch.stack([two, one, one + two])[None]}
    found = ranker.similarities(vectors, torch.tensor([[False, True, True]]), torch.zeros(1, 1, 8))
    torch.testing.assert_close(found, torch.tensor([[[-(0.5**0.5), -(1 + 0.5**0.5) / 2]]]))


def test_a_place_moves_every_candidate_by_its_own_step_and_the_first_place_by_none(ranker, batch):
    places = torch.arange(C).expand(8, C) % 6
    steps = POSITION_BIAS_SCALE * (ranker.positions.weight - ranker.positions.weight[0])
    found = ranker({**batch, "candidate_positions": places}) - ranker(batch)
    torch.testing.assert_close(found, steps[places.clamp(max=3)], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, 0], torch.zeros_like(found[:, 0]), rtol=0, atol=1e-6)


def test_what_is_lost_in_training_is_what_a_query_of_nothing_lacks(fitted, ranker, batch):
    """The seventh request is that of a stranger at time 0; what is derived from the time is lost too."""
    torch.manual_seed(0)
    found = [ranker.drop_feature_groups(batch) for _ in range(40)]
    nothing = {name: part[6].clone() for name, part in batch.items()}
    nothing["context_numbers"][-len(TIME_NUMBERS) :] = 0
    for group in ("history", "profile", "context"):
        names = [name for name in batch if name.startswith(f"{group}_")]
        assert names
        lost = [all(torch.equal(one[name][5], nothing[name]) for name in names) for one in found]
        kept = [all(torch.equal(one[name][5], batch[name][5]) for name in names) for one in found]
        assert [a != b for a, b in zip(lost, kept, strict=True)] == [True] * 40, "all of a group or none of it"
        assert 5 < sum(lost) < 35
    for name in ("candidate_ids", "candidate_scores"):
        assert all(torch.equal(one[name], batch[name]) for one in found)
    torch.testing.assert_close(ranker(batch), ranker(batch), rtol=0, atol=0)


@torch.no_grad()
def test_attention_without_a_history_is_nothing():
    attention, nobody = TargetAttention(4, 2, 3), torch.zeros(2, 5, dtype=torch.bool)
    shared = 3 * [torch.ones(2, 3, 5)]
    attended, history_match = attention(
        torch.randn(2, 3, 4), torch.randn(2, 5, 4), nobody, torch.randn(2, 5).abs(), shared
    )
    assert not attended.any()
    assert not history_match.any()


@torch.no_grad()
def test_what_is_shared_is_counted_fading_by_age():
    """Two events, 64 and 128 hours ago, one candidate that shares the first column with both, the second with the older."""
    attention = TargetAttention(4, 1, 2)
    gaps = torch.full((1, 3), 64 * 3600.0).log1p()
    present = torch.tensor([[False, True, True]])
    shared = [torch.tensor([[[1.0, 1, 1]]]), torch.tensor([[[1.0, 1, 0]]])]
    _, history_match = attention(torch.randn(1, 1, 4), torch.randn(1, 3, 4), present, gaps, shared)
    newer, older = (2 ** (-hours / np.array(HALF_LIVES_HOURS)) for hours in (64, 128))
    expected = np.concatenate([(newer + older) / 4, [1], older / 4, [0.5]])
    np.testing.assert_allclose(history_match[0, 0, 2:].numpy(), expected, rtol=1e-4)


@torch.no_grad()
def test_what_is_said_of_a_request_depends_on_no_candidate(ranker, batch):
    request = ranker.request({name: part for name, part in batch.items() if not name.startswith("candidate_")})
    assert request.shape == (8, ranker.request_width)
    assert request.isfinite().all()
    assert (request[:-2].std(0) > 0).any()


@torch.no_grad()
def test_habits_are_counts_and_shares_of_what_was_reached(ranker, batch):
    """Two events, 64 and 128 hours ago; the newer reached the first objective, both reached the second."""
    labels = torch.zeros(1, 3, batch["history_labels"].shape[-1])
    labels[0, 1:, 1], labels[0, 2, 0], labels[0, 0] = 1, 1, 1
    changed = {
        "history_ids": torch.tensor([[[0], [1], [2]]]),
        "history_labels": labels,
        "history_gaps": torch.full((1, 3), 64 * 3600.0).log1p(),
    }
    found = ranker.habits(changed)[0].numpy()
    newer, older = (2 ** (-hours / np.array(HALF_LIVES_HOURS)) for hours in (64, 128))
    nothing = np.zeros_like(newer)
    reached = np.stack([newer, newer + older, *(nothing for _ in range(labels.shape[-1] - 2))], axis=1)
    shares = reached / np.maximum(newer + older, 1e-6)[:, None]  # nothing is left of it after 64 half-lives
    np.testing.assert_allclose(
        found, np.concatenate([[np.log1p(2)], np.log1p(reached).ravel(), np.sqrt(shares).ravel()]), rtol=1e-3, atol=1e-6
    )
    assert not ranker.habits({**changed, "history_ids": torch.zeros(1, 3, 1, dtype=torch.long)}).any()


@torch.no_grad()
def test_attention_equals_its_slow_twin():
    torch.manual_seed(0)
    attention, candidates, events = TargetAttention(4, 2, 2), torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    gaps, present = torch.tensor([[9.0, 8, 7]]), torch.tensor([[False, True, True]])
    shared = [(torch.randn(1, 2, 3) > 0).float() for _ in range(2)]
    attended, history_match = attention(candidates, events, present, gaps, shared)
    seconds = gaps[0].expm1()
    for candidate in range(2):
        for head in range(2):
            query = attention.query(candidates[0, candidate])[4 * head : 4 * head + 4]
            weights = []
            for event in (1, 2):
                hours = seconds[event:].sum() / 3600
                fading = torch.tensor([2 ** (-float(hours) / half) for half in HALF_LIVES_HOURS])
                logit = query @ events[0, event] / 2 + attention.age(fading)[head]
                alike = torch.stack([column[0, candidate, event] for column in shared])
                weights.append(torch.sigmoid(logit + attention.shared(alike)[head]))
            mean = (weights[0] * events[0, 1] + weights[1] * events[0, 2]) / 2
            torch.testing.assert_close(attended[0, candidate, 4 * head : 4 * head + 4], mean)
            torch.testing.assert_close(history_match[0, candidate, head], sum(weights) / 4)
            torch.testing.assert_close(history_match[0, candidate, 2 + head], sum(weights) / 2)


def test_only_known_values_of_single_categories_are_shared(ranker, fitted, batch):
    found = ranker.same_category(batch)
    columns = [column for column in fitted[0].items.of_kind("category", "categories") if column.slots == 1]
    assert len(found) == len(columns)
    for column, slot in zip(found, ranker.slots, strict=True):
        assert column.shape == (8, C, batch["history_ids"].shape[1])
        one, other = batch["candidate_ids"][2, 3, slot], batch["history_ids"][2, :, slot]
        assert column[2, 3].tolist() == [float(one == value and one > 1) for value in other]
    unknown = {name: torch.ones_like(part) for name, part in batch.items() if "ids" in name}
    assert not torch.stack(ranker.same_category(unknown)).any()


@torch.no_grad()
def test_an_objective_mixes_the_shared_experts_and_its_own(ranker, batch):
    request = ranker.request(batch)
    crossed, features = ranker.crossed(batch, request)[0], ranker.last_layer(batch, request).features()
    experts = [expert(crossed) for expert in ranker.experts]
    gates = ranker.gates(crossed).chunk(ranker.heads.out_features, dim=-1)
    for place, gate in enumerate(gates):
        heard = torch.stack([*experts[: ranker.num_shared], experts[ranker.num_shared + place]], dim=-1)
        mean = (heard * gate.softmax(-1)[..., None, :]).sum(-1)
        torch.testing.assert_close(features[place][..., : mean.shape[-1]], mean)


@torch.no_grad()
def test_the_cross_network_known_answer():
    cross = CrossNetwork(width=2, rank=2, num_layers=1)
    cross.down[0].weight.copy_(torch.eye(2))
    cross.up[0].weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    cross.up[0].bias.copy_(torch.tensor([1.0, 0.0]))
    assert cross(torch.tensor([[3.0, 5.0]])).tolist() == [[3 * (5 + 1) + 3, 5 * (2 * 3) + 5]]


@torch.no_grad()
def test_the_logits_are_linear_in_the_features_of_the_last_layer(ranker, batch):
    """From where training began: zero heads, a bias of INITIAL_LOGIT, and the first retrieval score as it is."""
    logits, features = ranker.last_layer(batch, ranker.request(batch))
    torch.testing.assert_close(logits, ranker(batch), rtol=0, atol=0)
    weight_change = ranker.weight_change()
    for objective, one in enumerate(features()):
        began = INITIAL_LOGIT + one[..., -NUM_SCORES]
        torch.testing.assert_close(one @ weight_change[objective] + began, logits[..., objective], rtol=1e-5, atol=1e-5)
