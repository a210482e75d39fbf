"""Which candidates and requests the ranker learns from."""

from typing import Any

import numpy as np

from recsys.contracts import PAD
from recsys.training.ranking_examples import RankingExamples, RetrievalVersion, learnt_places


def test_the_first_candidates_and_one_in_eight_of_the_others():
    assert learnt_places(30, 10).tolist() == [*range(10), 10, 18, 26]
    assert learnt_places(5, 10).tolist() == [0, 1, 2, 3, 4]


def test_lineage_says_which_retrieval_made_the_columns_of_the_ranker(trained: Any) -> None:
    versions = trained.bundle.document("lineage.json")["retrieval"]
    uses = ("learnt_from", "calibrated_on", "served")
    assert [versions[use]["before"] for use in uses] == ["RANK", "VALIDATION", "TEST"]
    assert len({versions[use]["fingerprint"] for use in uses}) == 3, "each was fitted on more than the one before"
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
    examples = examples_of(np.zeros((3, 2, 1)), np.zeros((3, 2), dtype=np.int64), retrieval=version)
    assert examples.at(np.array([2, 0])).retrieval == version


def test_what_only_padding_or_nobody_came_to_was_never_reached() -> None:
    reached, padding, unknown = [[0, 1], [0, 0]], [[0, 0], [0, 1]], [[np.nan, 0], [0, np.nan]]
    examples = examples_of(np.stack([reached, padding, unknown], axis=-1), np.array([[4, 2], [7, PAD]]))
    assert examples.never_reached(("click", "cart", "purchase")) == ["cart", "purchase"]
