"""The user's own items as a source: what came often and lately first, and nothing where nothing is repeated."""

from dataclasses import replace

import numpy as np

from recsys.candidates.candidate_source import SourceQuery
from recsys.candidates.own_history import OwnHistory
from recsys.contracts import PAD

SOURCE = OwnHistory(num=3, weight=0.5, decays=[0.5])


def test_it_is_left_out_where_nothing_is_shown_again(known_of):
    assert SOURCE.fit(known_of([0, 1], [0, 1], 4)) is None


def test_it_offers_the_own_items_by_the_sum_of_their_fading_events(known_of):
    fitted = SOURCE.fit(replace(known_of([0, 1], [0, 1], 6), repeats=True))
    history = np.array([[4, 2, 2, 5], [PAD, PAD, PAD, PAD], [PAD, 1, 0, 1]])
    scores = fitted.scores_for(SourceQuery(vectors=np.zeros((3, 4), dtype=np.float32), history=history))
    assert scores.top_k(3).tolist() == [[5, 2, 4], [PAD] * 3, [1, 0, PAD]]
    scores = scores.score(np.zeros(6, dtype=np.int64), np.arange(6))
    assert scores.tolist() == [0, 0, 0.75, 0, 0.125, 1]
