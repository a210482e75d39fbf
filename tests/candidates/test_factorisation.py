"""The factorisation source: its user factors are those of the package that fitted the item factors.

Shapes: B queries, L history, N items.
"""

import numpy as np
import pytest
from scipy import sparse

from recsys.candidates.candidate_source import SourceQuery
from recsys.candidates.factorisation import Factorisation, alternating_least_squares
from recsys.contracts import PAD
from recsys.errors import ConfigError

N, UNSEEN = 30, 3
SETTINGS = {"factors": 6, "iterations": 8, "regularisation": 0.5, "confidence": 12.0, "seed": 1}


def config(**changes):
    return Factorisation(**({"num": 5, "weight": 1.0, "decays": [1.0], "most_items": 100, **SETTINGS} | changes))


@pytest.fixture(scope="module")
def known(known_of):
    """The last items have no events."""
    generator = np.random.default_rng(0)
    return known_of(generator.integers(0, 20, 200), generator.integers(0, N - UNSEEN, 200), N)


def scores(source, *histories):
    rows = np.full((len(histories), max(map(len, histories))), PAD)
    for row, history in zip(rows, histories, strict=True):
        row[len(row) - len(history) :] = history
    query = SourceQuery(vectors=np.zeros((len(rows), 2), np.float32), history=rows)
    return source.scores_for(query)


def test_the_user_factors_are_those_of_the_package(known):
    matrix = sparse.csr_matrix((np.ones(200, np.float32), (known.users, known.items)), shape=(20, N))
    matrix.data[:] = 1.0
    model = alternating_least_squares(matrix, threads=1, **SETTINGS)
    histories = [[1, 4, 9], [2], [5, 6, 7, 8]]
    seen = np.zeros((3, N), np.float32)
    for row, history in zip(seen, histories, strict=True):
        row[history] = 1.0
    wanted = model.recalculate_user(np.arange(3), sparse.csr_matrix(seen))
    np.testing.assert_allclose(scores(config().fit(known), *histories).users, wanted, rtol=1e-3, atol=1e-4)


def test_items_without_events_are_no_candidates(known):
    found = scores(config().fit(known), [1, 4, 9]).top_k(N)
    assert not set(found.ravel()) & set(range(N - UNSEEN, N))
    assert (found != PAD).sum() > 5


def test_an_event_that_fades_moves_the_user_less(known):
    source = config(decays=[0.01]).fit(known)
    faded, newest = scores(source, [3, 8], [8]).users
    other = scores(source.with_decay(1.0), [3, 8]).users[0]
    assert np.linalg.norm(faded - newest) < np.linalg.norm(other - newest)


def test_a_larger_catalogue_is_left_out_and_a_wrong_value_refused(known):
    assert config(most_items=N - 1).fit(known) is None
    with pytest.raises(ConfigError, match=r"candidates\.factors\.confidence"):
        config(confidence=0.5)
