"""Which candidates and requests the ranker learns from."""

from typing import Any

import numpy as np

from recsys.contracts import PAD
from recsys.training.ranking_examples import RankingExamples, RetrievalVersion, training_columns


def test_the_first_candidates_and_one_in_eight_of_the_others():
    assert training_columns(30, 10).tolist() == [*range(10), 10, 18, 26]
    assert training_columns(5, 10).tolist() == [0, 1, 2, 3, 4]


def test_lineage_says_which_retrieval_made_the_columns_of_the_ranker(trained: Any) -> None:
    versions = trained.bundle.document("lineage.json")["retrieval"]
    uses = ("learnt_from", "calibrated_on", "served")
    (learnt,), (calibrated,), served = (versions[use] for use in uses)
    assert [one["before"] for one in (learnt, calibrated, served)] == ["RANK", "VALIDATION", "TEST"]
    different = {one["fingerprint"] for one in (learnt, calibrated, served)}
    assert len(different) == 3, "each was fitted on more than the one before"
    retrieve = trained.stages[0]
    widths = {tensor.name: tensor.shape[-1] for tensor in retrieve.outputs}
    assert len(versions["columns"]) == widths["candidate_scores"]
    assert set(retrieve.sources.names) < set(versions["columns"])


def examples_of(labels: np.ndarray, rows: np.ndarray, **others: Any) -> RankingExamples:
    return RankingExamples(
        request={},
        candidate_rows=rows,
        candidate_scores=np.zeros((*rows.shape, 0), dtype=np.float32),
        labels=np.float32(labels),
        **others,
    )


def test_a_subset_of_examples_keeps_the_version_of_its_columns() -> None:
    version = RetrievalVersion(before="RANK", columns=(), fingerprint="1")
    examples = examples_of(np.zeros((3, 2, 1)), np.zeros((3, 2), dtype=np.int64), retrievals=(version,))
    assert examples.at(np.array([2, 0])).retrievals == (version,)


def test_what_only_padding_or_nobody_came_to_was_never_reached() -> None:
    reached, padding, unknown = [[0, 1], [0, 0]], [[0, 0], [0, 1]], [[np.nan, 0], [0, np.nan]]
    examples = examples_of(np.stack([reached, padding, unknown], axis=-1), np.array([[4, 2], [7, PAD]]))
    assert examples.never_reached(("click", "cart", "purchase")) == ["cart", "purchase"]


def test_joined_examples_keep_their_order_and_pad_what_is_shorter() -> None:
    versions = [RetrievalVersion(before=name, columns=(), fingerprint=name) for name in ("RANK", "TEST")]
    short = examples_of(np.ones((1, 1, 2)), np.array([[7]]), retrievals=(versions[0],))
    long = examples_of(np.zeros((2, 3, 2)), np.array([[1, 2, 3], [4, 5, PAD]]), retrievals=(versions[1],))
    joined = RankingExamples.joined([short, long])
    assert joined.candidate_rows.tolist() == [[7, PAD, PAD], [1, 2, 3], [4, 5, PAD]]
    assert joined.candidate_scores.shape == (3, 3, 0)
    assert joined.labels[0, 0].tolist() == [1, 1]
    assert np.isnan(joined.labels[0, 1:]).all()
    assert joined.positions is joined.weights is None
    assert joined.retrievals == tuple(versions)


def test_a_selection_and_a_join_know_first_requests_where_all_parts_do() -> None:
    rows = np.zeros((3, 1), dtype=np.int64)
    known = examples_of(np.zeros((3, 1, 1)), rows, first=np.array([True, False, True]))
    unknown = examples_of(np.zeros((3, 1, 1)), rows)
    assert known.at(np.array([1, 2])).judged.tolist() == [False, True]
    assert RankingExamples.joined([known, known]).judged.tolist() == [True, False, True] * 2
    assert RankingExamples.joined([known, unknown]).first is None
    assert unknown.judged.tolist() == [True] * 3
    assert RankingExamples.from_documents(*known.to_documents()).judged.tolist() == [True, False, True]
