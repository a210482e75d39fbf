"""Which candidates and requests the ranker learns from."""

from recsys.training.ranking_examples import learnt_places


def test_the_first_candidates_and_one_in_eight_of_the_others():
    assert learnt_places(30, 10).tolist() == [*range(10), 10, 18, 26]
    assert learnt_places(5, 10).tolist() == [0, 1, 2, 3, 4]
