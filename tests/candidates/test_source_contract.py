"""The contract of a candidate source, for every source of conf/candidates: candidates, scores, batches, documents, new items.

Shapes: B queries, L history, D dim, N items.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.candidates.candidate_source import RECENT_EVENTS, CandidateSource, SourceQuery
from recsys.candidates.popularity import ItemList
from recsys.candidates.sources import CandidateSourcesConfig, MergedSources, source_type
from recsys.candidates.user_knn import FittedUserKNN, UserKNN
from recsys.contracts import PAD
from recsys.errors import BundleError
from recsys.index import ExactIndex

CONF = Path(__file__).parents[2] / "conf"
B, L, D, N, COLD = 12, 5, 7, 40, 8
MEMBERS = {"scores_for", "to_documents", "from_documents", "decay", "with_decay", "with_new_items"}


def shipped():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        sources = dict(compose("train").candidates.sources)
    return sources | {file.stem: OmegaConf.load(file) for file in (CONF / "candidates" / "source").glob("*.yaml")}


SOURCES = shipped()


@pytest.fixture(scope="module")
def known(known_of):
    """The last items are cold; items may be shown again, so that every source has something to read."""
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 25, 300), generator.integers(0, N - COLD, 300)
    kinds = ("category", [f"k{kind}" for kind in generator.integers(0, 6, N)])
    known = known_of(users, items, N, timestamps=np.arange(300.0), dim=D, kind=kinds)
    return replace(known, repeats=True)


@pytest.fixture(scope="module", params=sorted(SOURCES))
def configured(request):
    return instantiate(SOURCES[request.param], _convert_="all")


@pytest.fixture(scope="module")
def source(configured, known):
    return configured.fit(known)


@pytest.fixture(scope="module")
def queries():
    """The first history is empty, the second holds an item that came after the training."""
    generator = np.random.default_rng(1)
    history = generator.integers(0, N - COLD, (B, L))
    history[0], history[1, -1], history[2, :3] = PAD, N, PAD
    return SourceQuery(vectors=generator.normal(size=(B, D)).astype(np.float32), history=history)


def pairs(num_items=N):
    """Every query with every item, sorted by query."""
    return np.repeat(np.arange(B), num_items), np.tile(np.arange(num_items), B)


def test_a_source_has_six_members():
    assert {name for name in vars(CandidateSource) if not name.startswith("_")} - {"kind"} == MEMBERS


def test_candidates_are_distinct_items_best_first_and_fewer_are_their_beginning(source, queries):
    scores = source.scores_for(queries)
    rows = scores.top_k(10)
    value = scores.score(*pairs()).reshape(B, N)
    assert (rows != PAD).any()
    for query, own in enumerate(rows):
        found = own[own != PAD]
        assert (own[len(found) :] == PAD).all()
        assert len(set(found)) == len(found)
        assert (np.diff(value[query, found]) <= 1e-6).all()
        rest = np.setdiff1d(np.arange(N), found)
        if len(found) == rows.shape[1] == 10:
            assert value[query, rest].max() <= value[query, found].min() + 1e-6
    np.testing.assert_array_equal(scores.top_k(4), rows[:, :4])


def test_a_hidden_item_is_no_candidate(source, queries):
    hidden = np.zeros(N, dtype=bool)
    hidden[source.scores_for(queries).top_k(3)[1:].ravel()] = True
    rows = (
        source.scores_for(replace(queries, hidden=hidden)).top_k(N) if not is_index(source) else np.empty((0, 0), int)
    )
    assert not hidden[rows[rows != PAD]].any()


def is_index(source):
    """The index hides its rows by itself."""
    return hasattr(source, "index")


def test_a_query_alone_or_selected_gets_bit_for_bit_what_it_gets_in_a_batch(source, queries):
    together = source.scores_for(queries)
    rows, value = together.top_k(6), together.score(*pairs())
    for query in range(B):
        one = slice(query, query + 1)
        alone = source.scores_for(SourceQuery(vectors=queries.vectors[one], history=queries.history[one]))
        for scores in (alone, together.select(np.array([query]))):
            found = scores.top_k(6)[0]
            np.testing.assert_array_equal(found[found != PAD], rows[query][rows[query] != PAD])
            np.testing.assert_array_equal(
                scores.score(np.zeros(N, int), np.arange(N)), value[query * N : (query + 1) * N]
            )


def test_scores_of_pairs_are_finite_also_for_items_that_came_later(source, queries, known):
    longer = ExactIndex(np.concatenate([known.index.vectors(np.arange(N)), np.ones((2, D), np.float32)]))
    later = source.with_new_items(longer, np.array([N + 1, N]))
    scores = later.scores_for(queries)
    query, row = pairs(N + 2)
    value, events = scores.score(query, row), scores.event_scores(query, row)
    assert value.shape == (B * (N + 2),)
    assert events.shape == (B * (N + 2), RECENT_EVENTS)
    assert np.isfinite(value).all()
    assert np.isfinite(events).all()
    assert not events.reshape(B, N + 2, RECENT_EVENTS)[0].any() or is_index(source)
    assert scores.top_k(5).max() <= N + 1


def test_a_source_comes_back_from_a_bundle(configured, source, queries, known):
    sources = MergedSources.from_documents(*merged(configured, known).to_documents(), known.index)
    assert type(sources.sources[0].source) is type(source)
    again = sources.sources[0].source.scores_for(queries)
    np.testing.assert_array_equal(again.top_k(9), source.scores_for(queries).top_k(9))
    np.testing.assert_array_equal(again.score(*pairs()), source.scores_for(queries).score(*pairs()))
    assert again.top_k(9).dtype == np.int64


def merged(configured, known):
    config = CandidateSourcesConfig(total=20, events_per_user=1000, sources={"own": configured})
    return config.fit(known)


def test_a_decay_is_the_first_of_its_grid_and_may_be_changed(configured, source):
    assert (source.decay is None) == (not configured.decays)
    if configured.decays:
        assert source.decay == configured.decays[0]
        assert source.with_decay(0.5).decay == 0.5


def test_what_is_no_source_is_refused_by_name():
    assert source_type("list") is ItemList
    assert source_type("recsys.candidates.user_knn:FittedUserKNN") is FittedUserKNN
    for kind, sentence in (
        ("no.such.module:Source", "cannot be imported here; install the package"),
        ("recsys.contracts:Nothing", "cannot be imported here"),
        ("recsys.contracts:Event", "is no CandidateSource"),
        ("towers2", "cannot be imported here"),
    ):
        with pytest.raises(BundleError, match=sentence):
            source_type(kind)


def test_user_neighbours_equal_a_loop_over_users(known, queries):
    source = UserKNN(num=5, weight=1.0, decays=[0.8], neighbours=3, users=20).fit(known)
    owned = [set(known.items[known.users == user].tolist()) for user in range(25)]
    newest = [known.timestamps[known.users == user].max() for user in range(25)]
    kept = sorted(range(25), key=lambda user: -newest[user])[:20]
    value = source.scores_for(queries).score(*pairs()).reshape(B, N)
    for query, history in enumerate(queries.history.tolist()):
        weight = dict.fromkeys(range(N), 0.0)
        for position, item in enumerate(history):
            if item in weight:
                weight[item] += 0.8 ** (L - 1 - position)
        similarity = {user: sum(weight[item] for item in owned[user]) / len(owned[user]) ** 0.5 for user in kept}
        nearest = sorted((user for user in kept if similarity[user] > 0), key=lambda user: -similarity[user])[:3]
        sums = [
            sum(similarity[user] / len(owned[user]) ** 0.5 for user in nearest if item in owned[user])
            for item in range(N)
        ]
        np.testing.assert_allclose(value[query], np.array(sums) / max(max(sums), 1e-12), rtol=1e-5, atol=1e-6)


def test_users_of_one_item_are_no_neighbours(known_of):
    assert (
        UserKNN(num=5, weight=1.0, decays=[0.8], neighbours=3, users=9).fit(known_of([0, 1, 1], [0, 1, 1], 4)) is None
    )


def test_a_source_of_ones_own_is_named_by_its_import_path():
    class Mine(CandidateSource):
        pass

    assert Mine.kind == f"{__name__}:{Mine.__qualname__}"
    with pytest.raises(TypeError, match="scores_for"):
        Mine()
