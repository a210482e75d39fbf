"""The posterior of the last layer: known answers, less doubt with more examples, more for what was never seen.

Shapes: R rows, T objectives, E features.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.ranking.objective_chain import chain_logits, propagate_variance
from recsys.ranking.uncertainty import PRECISIONS, LastLayerPosterior, information

SLOPES = torch.tensor([0.8, -0.5, 0.3], dtype=torch.float64)


def rows(num, seed=0):
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regression(features, labels, precision):
    """The weights of greatest posterior of a logistic regression, by Newton's method, and the Hessian there."""
    weights = torch.zeros(features.shape[1], dtype=torch.float64)
    for _ in range(50):
        p = torch.sigmoid(features @ weights)
        hessian = (features * (p * (1 - p))[:, None]).T @ features + precision * torch.eye(len(weights))
        weights = weights - torch.linalg.solve(hessian, features.T @ (p - labels) + precision * weights)
    return weights, hessian


def fitted(features, learnt=SLOPES):
    """Of one objective without a parent."""
    said = information(
        (features @ learnt)[:, None], [features], torch.ones(len(features), 1, dtype=torch.bool), (None,)
    )
    posterior = LastLayerPosterior(1, features.shape[1])
    posterior.fit(said, learnt[None])
    return posterior, said[0]


def covariance(posterior, objective=0):
    factor = posterior.factors[objective].double()
    return factor @ factor.T


def prior(posterior, said):
    """Its precision: what is left of the posterior's without the examples."""
    return (torch.linalg.inv(covariance(posterior)) - said).diagonal().mean()


def test_the_covariance_is_the_inverse_of_the_hessian():
    features = rows(400)
    labels = (torch.rand(400, generator=torch.Generator().manual_seed(1)) < torch.sigmoid(features @ SLOPES)).double()
    precision = PRECISIONS[0]
    for _ in range(20):  # until the prior is the one that the weights under it ask for
        weights, hessian = regression(features, labels, precision)
        posterior, said = fitted(features, weights)
        precision = prior(posterior, said)
    torch.testing.assert_close(covariance(posterior), torch.linalg.inv(hessian), rtol=1e-4, atol=1e-6)
    shown = rows(5, seed=2)
    expected = (shown @ torch.linalg.inv(hessian) * shown).sum(-1)
    torch.testing.assert_close(posterior([shown.float()])[:, 0].double(), expected, rtol=1e-4, atol=1e-6)


def test_the_prior_is_the_one_of_the_greatest_evidence():
    """Against the formula with determinants: log|H + precision| instead of sums over its eigenvalues."""
    features = rows(60)
    posterior, said = fitted(features)
    one = torch.eye(3, dtype=torch.float64)
    evidence = [
        3 * torch.log(each) - each * SLOPES.square().sum() - torch.logdet(said + each * one) for each in PRECISIONS
    ]
    assert prior(posterior, said).item() == pytest.approx(
        PRECISIONS[int(torch.stack(evidence).argmax())].item(), rel=1e-3
    )


def test_weights_that_hardly_moved_had_a_narrow_prior():
    features = rows(5)
    near, far = (covariance(fitted(features, scale * SLOPES)[0]).trace() for scale in (0.01, 3.0))
    assert near < far / 100


def test_doubt_shrinks_as_examples_come_and_is_greater_for_what_was_never_seen():
    features = rows(20_000)
    features[:, 2] = 0  # nobody ever had this one
    shown = torch.eye(3)
    many, few = (fitted(features[:num])[0]([shown])[:, 0] for num in (20_000, 200))
    assert (many[:2] < few[:2] / 20).all()
    assert few[2] > 10 * few[:2].max()
    assert many[2] > 1_000 * many[:2].max()


def test_what_never_reached_the_parent_says_nothing():
    features = rows(300)
    logits = torch.stack([torch.full((300,), -50.0, dtype=torch.float64), features @ SLOPES], dim=1)
    known = torch.ones(300, 2, dtype=torch.bool)
    alone = information(logits, [features, features], known, (None, None))
    after = information(logits, [features, features], known, (None, 0))
    assert after[1].abs().max() < 1e-15 * alone[1].abs().max()
    logits[:, 0] = 50.0
    torch.testing.assert_close(information(logits, [features, features], known, (None, 0))[1], alone[1])


def test_rows_without_a_label_say_nothing():
    features = rows(10)
    logits, known = (features @ SLOPES)[:, None], torch.arange(10)[:, None] < 4
    torch.testing.assert_close(
        information(logits, [features], known, (None,)),
        information(logits[:4], [features[:4]], known[:4], (None,)),
    )


def test_degenerate_information_gives_finite_variances():
    same = torch.ones(50, 3, dtype=torch.float64) * 1e4
    for features in (same, torch.zeros(1, 3, dtype=torch.float64)):
        posterior, _ = fitted(features, torch.zeros(3, dtype=torch.float64))
        assert posterior([same.float()]).isfinite().all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=4, max_size=4), st.integers(0, 2**31))
def test_the_variance_of_a_product_is_that_of_its_linearised_logit(given_, seed):
    """By differentiating the logits of the products."""
    logits = torch.tensor(given_, dtype=torch.float64)
    variances = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parents = (None, 0, 1, 0)
    slopes = torch.autograd.functional.jacobian(lambda one: chain_logits(one, parents), logits)
    torch.testing.assert_close(propagate_variance(logits, variances, parents), slopes.square() @ variances)


def test_the_variance_of_a_product_is_that_of_draws():
    logits, deviations = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([0.1, 0.15], dtype=torch.float64)
    noise = torch.as_tensor(np.random.default_rng(0).normal(size=(200_000, 2)))
    drawn = chain_logits(logits + deviations * noise, (None, 0))
    torch.testing.assert_close(propagate_variance(logits, deviations**2, (None, 0)), drawn.var(0), rtol=0.02, atol=0)


def test_extreme_logits_have_finite_variances():
    logits = torch.tensor([[90.0, 90.0], [-90.0, -90.0], [90.0, -90.0], [-90.0, 90.0]])
    found = propagate_variance(logits, torch.ones(4, 2), (None, 0))
    assert found.isfinite().all()
    torch.testing.assert_close(found[2:, 1], torch.ones(2))
