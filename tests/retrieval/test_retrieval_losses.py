"""The contract of a loss of the towers, for every file of conf/retrieval/loss, and slow twins of the sampled ones.

Shapes: M positions, N items, D dim, T targets of a position.
"""

import math
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.errors import ConfigError
from recsys.retrieval import softmax
from recsys.retrieval.sampled_losses import BPRLoss, CosineContrastiveLoss, GBCELoss, HardNegativesLoss

FILES = Path(__file__).parents[2] / "conf" / "retrieval" / "loss"
M, N, D, T = 7, 9, 4, 3


@pytest.fixture(params=sorted(file.stem for file in FILES.glob("*.yaml")))
def loss(request):
    return instantiate(OmegaConf.load(FILES / f"{request.param}.yaml"))


@pytest.fixture(params=[False, True], ids=["all items", "a sample"])
def log_inclusion(request):
    chances = torch.rand(N, generator=torch.Generator().manual_seed(2), dtype=torch.double) * 0.8 + 0.1
    return chances.log() if request.param else None


def drawn():
    """users, items, targets, weights (some of them zero)"""
    random = torch.Generator().manual_seed(0)
    vectors = (torch.randn(rows, D, generator=random, dtype=torch.double) for rows in (M, N))
    users, items = (torch.nn.functional.normalize(one, dim=-1).requires_grad_() for one in vectors)
    weights = torch.rand(M, T, generator=random, dtype=torch.double)
    weights[::2, 1] = 0
    return users, items, torch.randint(N, (M, T), generator=random), weights


def test_it_is_a_weighted_mean_over_positions(loss, log_inclusion):
    users, items, targets, weights = drawn()
    whole = loss(users, items, targets, weights, log_inclusion)
    parts = [loss(users[i : i + 1], items, targets[i : i + 1], weights[i : i + 1], log_inclusion) for i in range(M)]
    shares = weights.sum(1) / weights.sum()
    torch.testing.assert_close(whole, (torch.stack(parts) * shares).sum())
    torch.testing.assert_close(loss(users, items, targets, 3 * weights, log_inclusion), whole)


def test_a_target_of_weight_zero_costs_nothing_and_without_any_the_loss_is_zero(loss, log_inclusion):
    users, items, targets, weights = drawn()
    none = loss(users, items, targets, torch.zeros_like(weights), log_inclusion)
    none.backward()
    assert none.item() == 0
    assert not users.grad.any()
    assert not items.grad.any()


def test_a_step_against_the_gradient_brings_targets_nearer_than_others(loss, log_inclusion):
    users, items, targets, weights = drawn()
    targets = targets[:, :1].expand(-1, T)  # one target a position, so that none is also a negative
    before = loss(users, items, targets, weights, log_inclusion)
    before.backward()
    with torch.no_grad():
        moved = users - 1e-4 * users.grad
        assert loss(moved, items, targets, weights, log_inclusion) < before
        gain = (moved - users) @ items.T
        assert gain.gather(1, targets[:, :1]).mean() > gain.mean()


@pytest.mark.parametrize("cells", [1, 2 * N + 3, 2**20])
def test_tiles_change_nothing(loss, log_inclusion, cells, monkeypatch):
    users, items, targets, weights = drawn()
    wanted = torch.autograd.grad(loss(users, items, targets, weights, log_inclusion), (users, items))
    monkeypatch.setitem(softmax.TILE_LOGITS, "cpu", cells)
    found = torch.autograd.grad(loss(users, items, targets, weights, log_inclusion), (users, items))
    torch.testing.assert_close(found, wanted)


def slow(users, items, targets, weights, cost):
    """cost(cosine of the target, cosines of the negatives) -> loss of one target"""
    total = 0.0
    for m in range(M):
        cosines = (users[m] @ items.T).tolist()
        negatives = [cosines[n] for n in range(N) if n not in targets[m].tolist()]
        total += sum(
            w * cost(cosines[n], negatives) for n, w in zip(targets[m].tolist(), weights[m].tolist(), strict=True)
        )
    return total / weights.sum().item()


@pytest.mark.parametrize("sampled", [False, True])
def test_gbce_equals_its_slow_twin(sampled):
    share = 0.25
    log_inclusion = torch.full((N,), math.log(share), dtype=torch.double) if sampled else None
    beta = share * (0.6 * (1 - 1 / share) + 1 / share) if sampled else 1.0

    def cost(target, negatives):
        odds = 1 / len(negatives)
        right = math.log(1 / (1 + math.exp(-target / 0.5) / odds)) * beta
        wrong = sum(math.log(1 - 1 / (1 + math.exp(-one / 0.5) / odds)) for one in negatives)
        return -(right + wrong)

    arguments = drawn()
    found = GBCELoss(temperature=0.5, calibration=0.6)(*arguments, log_inclusion)
    assert found.item() == pytest.approx(slow(*arguments, cost))


def test_cosine_contrastive_loss_equals_its_slow_twin():
    def cost(target, negatives):
        return 1 - target + 5 * sum(max(0.0, one - 0.2) for one in negatives) / len(negatives)

    arguments = drawn()
    found = CosineContrastiveLoss(margin=0.2, negative_weight=5.0)(*arguments, None)
    assert found.item() == pytest.approx(slow(*arguments, cost))


def test_bpr_equals_its_slow_twin():
    def cost(target, negatives):
        return sum(math.log1p(math.exp((one - target) / 0.5)) for one in negatives) / len(negatives)

    arguments = drawn()
    assert BPRLoss(temperature=0.5)(*arguments, None).item() == pytest.approx(slow(*arguments, cost))


@pytest.mark.parametrize(("hardest", "skipped"), [(2, 1), (3, 0), (50, 2)])
def test_hard_negatives_equal_their_slow_twin(hardest, skipped):
    def cost(target, negatives):
        hard = sorted(negatives, reverse=True)[skipped : skipped + hardest]
        return math.log(sum(math.exp(one / 0.5) for one in [target, *hard])) - target / 0.5

    arguments = drawn()
    loss = HardNegativesLoss(temperature=0.5, hardest=hardest, skipped=skipped, hard_weight=0.3)
    easy = softmax.SoftmaxLoss(temperature=0.5)(*arguments, None).item()
    assert loss(*arguments, None).item() == pytest.approx(0.7 * easy + 0.3 * slow(*arguments, cost))


def test_without_enough_negatives_nothing_is_hard():
    users, items, targets, weights = drawn()
    loss = HardNegativesLoss(temperature=0.5, hardest=1, skipped=N, hard_weight=1.0)
    found = loss(users, items, targets, weights, None)
    found.backward()
    assert found.item() == 0
    assert not users.grad.any()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("softmax", "temperature", 0), ("gbce", "calibration", 2), ("cosine_contrastive", "margin", "wide")]
    + [("bpr", "temperature", 11), ("hard_negatives", "hardest", 0), ("hard_negatives", "hard_weight", 0)],
)
def test_a_key_out_of_range_is_refused_by_name(name, key, value):
    with pytest.raises(InstantiationException) as refused:
        instantiate(OmegaConf.merge(OmegaConf.load(FILES / f"{name}.yaml"), {key: value}))
    assert isinstance(refused.value.__cause__, ConfigError)
    assert str(refused.value.__cause__).startswith(f"retrieval.loss.{key} is {value!r}")
