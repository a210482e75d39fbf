"""What was shown as the ranker's examples: what retrieval says of it, where it stood and how likely it was to be shown."""

from types import SimpleNamespace

import numpy as np
import pytest
from hydra.utils import instantiate
from safetensors.numpy import load_file

from recsys.content.text import TextVectors
from recsys.contracts import PAD
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.data.splits import RANK, GlobalTime, Random
from recsys.errors import ConfigError, DataError
from recsys.features.spec import Features
from recsys.training.prepare import prepare
from recsys.training.slate_source import SlateSource
from recsys.training.slates import Slates, logged_examples, shown_examples

NUM_OFFERED = 12
BOTH = SlateSource(position="position", propensity="propensity")


@pytest.fixture(scope="module")
def prepared():
    dataset = Planted(users=30, items=30, rounds=10, slate=4, seed=0, strength=2.0, effects=tuple(EFFECTS)).load()
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[0]
    features = Features(history_length=6, max_values=3, min_count=2, leave_out=["position", "propensity"])
    return prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))


@pytest.fixture(scope="module")
def fitted(prepared):
    return prepared.spec(prepared.split.known(RANK))


def offering(rows_of):
    """A retrieve stage that offers `rows_of(number of the query)`, scores [.., 2]: the row and ten times the row."""

    def retrieve(tensors):
        rows = np.stack([rows_of(number) for number in range(len(tensors["QUERY"]))])
        return {"candidate_rows": rows, "candidate_scores": np.stack([rows, 10 * rows], axis=-1).astype(np.float32)}

    retrieve.sources = SimpleNamespace(total=NUM_OFFERED)
    return retrieve


def half(_):
    """Every second item, then padding."""
    return np.array([*range(0, 2 * NUM_OFFERED - 4, 2), PAD, PAD])


def examples(prepared, fitted, rows_of=half, most=10**9, shown=BOTH):
    period = prepared.split.periods == RANK
    return shown_examples(offering(rows_of), prepared, *fitted, period, shown, most=most)


def test_what_was_shown_and_offered_stays_with_what_retrieval_says_of_it(prepared, fitted):
    period = prepared.split.periods == RANK
    slates = Slates.of(prepared, period)
    logged = logged_examples(prepared, *fitted, slates, position="position", propensity="propensity")
    found = examples(prepared, fitted)
    offered = np.isin(logged.candidate_rows, half(0)) & (logged.candidate_rows != PAD)
    assert 0 < offered.sum() < offered.size
    np.testing.assert_array_equal(found.candidate_rows, np.where(offered, logged.candidate_rows, PAD))
    np.testing.assert_array_equal(found.candidate_scores[offered][:, 0], logged.candidate_rows[offered])
    np.testing.assert_array_equal(found.candidate_scores[offered][:, 1], 10 * logged.candidate_rows[offered])
    np.testing.assert_array_equal(found.labels[offered], logged.labels[offered])
    assert np.isnan(found.labels[~offered]).all()
    np.testing.assert_array_equal(found.positions, logged.positions)
    np.testing.assert_array_equal(found.weights, np.where(offered, logged.weights, 0))
    for name, array in logged.request.items():
        np.testing.assert_array_equal(found.request[name], array, err_msg=name)


def test_some_slates_are_drawn_from_everywhere(prepared, fitted):
    few, all_of_them = examples(prepared, fitted, most=20), examples(prepared, fitted)
    assert len(few) == 20 < len(all_of_them)
    assert {row.tobytes() for row in few.candidate_rows} <= {row.tobytes() for row in all_of_them.candidate_rows}


def test_columns_that_are_not_told_are_not_read(prepared, fitted):
    found = examples(prepared, fitted, shown=SlateSource())
    assert found.positions is None
    assert found.weights is None


def test_what_retrieval_never_offers_cannot_be_learnt(prepared, fitted):
    with pytest.raises(DataError, match="retrieval returns none of the shown items"):
        examples(prepared, fitted, rows_of=lambda _: np.full(NUM_OFFERED, PAD))
    with pytest.raises(DataError, match=r"the context has no column 'propensty' \(did you mean 'propensity'"):
        examples(prepared, fitted, shown=SlateSource(propensity="propensty"))


def test_places_must_be_numbers(prepared, fitted):
    with pytest.raises(DataError, match="device holds values that are no numbers from 0 on"):
        examples(prepared, fitted, shown=SlateSource(position="device"))


def test_columns_that_nobody_knows_before_are_no_features(prepared):
    features, split = prepared.features, prepared.split
    assert SlateSource.of({"position": "place"}) == SlateSource(position="place")
    for wrong in ({"place": "position"}, ["position"], "position"):
        with pytest.raises(ConfigError, match="give a mapping of position and propensity"):
            SlateSource.of(wrong)
    BOTH.check(features, split)
    with pytest.raises(ConfigError, match=r"leave it out: features\.leave_out=\[device,position,propensity\]"):
        SlateSource(position="position", propensity="device").check(features, split)
    with pytest.raises(ConfigError, match=r"a random split .* tears; take protocol=global_time"):
        BOTH.check(features, Random(rank=0.2, validation=0.1, test=0.2, seed=0).splits(prepared.dataset)[0])


def test_places_need_a_number_of_them(composed, tmp_path):
    config = composed(tmp_path, "recipe=synthetic", "ranking.sampling.shown={position: position}")
    with pytest.raises(Exception, match=r"needs ranking\.num_positions"):
        instantiate(config.ranking)


def test_a_run_learns_from_what_was_shown(composed, run, tiny, tmp_path):
    """From the configuration to a served graph, which takes no place."""
    report, bundle = run(
        composed(tmp_path, *tiny, "ranking.sampling.shown={position: position}", "ranking.num_positions=10")
    )
    assert 0 < report.rows["ranker"]["ndcg@10"] < 1
    assert not report.objectives
    assert any("no figures of them" in note for note in report.notes)
    places = load_file(bundle.path / "weights.safetensors")["ranker.positions.weight"]
    assert places.shape[0] == 10
    assert places.any(axis=1).sum() > 5
    assert "position" not in {one["name"] for one in bundle.document("spec.json")["context"]["columns"]}
