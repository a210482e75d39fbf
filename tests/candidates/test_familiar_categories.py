"""Search by category: known answers, a slow twin of the scores, and what has no category or is new."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.candidates.candidate_source import SourceQuery
from recsys.candidates.familiar_categories import FamiliarCategories, FittedCategories
from recsys.contracts import PAD
from recsys.errors import ConfigError

KINDS = ["tea", "tea", "tea", "jam", "jam", None]
BOUGHT = [0, 0, 0, 1, 3, 3, 4, 4, 5]
"""catalogue rows of the training events: row 2 has none, row 5 has no category"""


@pytest.fixture(scope="module")
def fitted(known_of) -> FittedCategories:
    users = np.arange(len(BOUGHT)) % 3
    known = known_of(users, np.array(BOUGHT), len(KINDS), kind=("category", KINDS))
    source = FamiliarCategories(num=5, weight=1.0, decays=[0.5], column=None, kept=2).fit(known)
    assert source is not None
    return source


def asked(*histories: list[int]) -> SourceQuery:
    longest = max(map(len, histories))
    rows = np.array([[PAD] * (longest - len(one)) + one for one in histories])
    return SourceQuery(vectors=np.zeros((len(rows), 1), np.float32), history=rows)


def test_scores_are_the_share_of_the_category_times_that_of_the_item_in_it(fitted: FittedCategories) -> None:
    histories = [[3, 0], [4], [5], []]  # jam, then tea; jam; no category; nothing
    rows = np.arange(len(KINDS))
    scores = fitted.scores_for(asked(*histories))
    found = [scores.score(np.full(len(rows), query), rows).tolist() for query in range(len(histories))]
    chance = np.array([3 / 4, 1 / 4, 0, 2 / 4, 2 / 4, 0])
    share = np.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.0])  # the older event weighs half
    np.testing.assert_allclose(found[0], share * chance / (3 / 4), rtol=1e-6)
    np.testing.assert_allclose(found[1], [0, 0, 0, 1, 1, 0], rtol=1e-6)
    assert not np.any(found[2:])
    top = scores.top_k(3)
    assert top[0].tolist() == [0, 1, 3], "rows 1, 3 and 4 tie"
    assert (top[2:] == PAD).all()


def test_the_newest_events_score_items_of_their_own_category(fitted: FittedCategories) -> None:
    scores = fitted.scores_for(asked([3, 0, 5])).event_scores(np.zeros(3, int), np.array([0, 4, 5]))
    assert scores.tolist() == [[0, 0.75, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 0]]


def test_an_item_that_is_new_scores_nothing_and_hidden_ones_are_no_candidates(fitted: FittedCategories) -> None:
    query = asked([0, len(KINDS)])
    assert fitted.scores_for(query).score(np.zeros(2, int), np.array([len(KINDS), PAD])).tolist() == [0, 0]
    hidden = np.arange(len(KINDS)) == 0
    assert fitted.scores_for(replace(query, hidden=hidden)).top_k(1).tolist() == [[1]]


def test_without_a_category_there_is_nothing_to_read_and_an_unknown_column_is_refused(known_of) -> None:
    bare = known_of(np.zeros(3, int), np.arange(3), 3)
    options = {"num": 5, "weight": 1.0, "decays": [1.0], "kept": 2}
    assert FamiliarCategories(**options, column=None).fit(bare) is None
    with pytest.raises(ConfigError, match="column is 'colour', no category column"):
        FamiliarCategories(**options, column="colour").fit(bare)
