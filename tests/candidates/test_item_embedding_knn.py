"""Neighbours in the item tower against one pair after the other."""

import numpy as np
import pytest

from recsys.candidates import item_embedding_knn
from recsys.candidates.candidate_source import SourceQuery
from recsys.candidates.item_embedding_knn import ItemEmbeddingKNN
from recsys.errors import ConfigError


def fit(known, neighbours=3, power=2.0):
    return ItemEmbeddingKNN(num=2, weight=0.1, decays=[0.5], neighbours=neighbours, power=power).fit(known)


def slow(known, neighbours, power):
    """[N, N] item by item."""
    vectors = known.index.vectors(np.arange(known.num_items)).astype(np.float64)
    found = np.zeros((len(vectors), len(vectors)))
    for item, vector in enumerate(vectors):
        products = {other: vector @ vectors[other] for other in range(len(vectors)) if other != item}
        for other in sorted(products, key=lambda one: -products[one])[:neighbours]:
            cosine = products[other] / np.linalg.norm(vector) / np.linalg.norm(vectors[other])
            found[item, other] = max(cosine, 0) ** power
    return found


@pytest.mark.parametrize("neighbours", [1, 3, 30])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_every_item_speaks_for_its_nearest(known_of, neighbours, power):
    known = known_of([0, 1], [2, 3], 12)
    np.testing.assert_allclose(
        fit(known, neighbours, power).matrix.toarray(), slow(known, neighbours, power), rtol=1e-4, atol=1e-6
    )


def test_steps_change_nothing(known_of, monkeypatch):
    known = known_of([0], [0], 12)
    whole = fit(known).matrix.toarray()
    monkeypatch.setattr(item_embedding_knn, "SEARCH_BATCH", 5)
    np.testing.assert_array_equal(fit(known).matrix.toarray(), whole)


def test_both_interests_of_a_history_are_heard_the_newer_one_more(known_of):
    known = known_of([0], [0], 12)
    matrix, history = fit(known, neighbours=1).matrix.toarray(), np.array([[-1, 4, 7]])
    scores = fit(known, neighbours=1).scores_for(SourceQuery(vectors=np.zeros((1, 4)), history=history))
    sums = scores.score(np.zeros(12, np.int64), np.arange(12))
    expected = matrix[7] + 0.5 * matrix[4]
    np.testing.assert_allclose(sums, expected / expected.max(), rtol=1e-6)


def test_a_power_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="power"):
        ItemEmbeddingKNN(num=1, weight=1.0, decays=[1.0], neighbours=5, power=0.0)
