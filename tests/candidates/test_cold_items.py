"""Cold items: ranked among themselves by towers and content, and in the positions that the merge keeps for them.

Shapes: B queries, N items, W width of a union.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.candidates.candidate_source import SourceQuery
from recsys.candidates.candidate_union import CandidateUnion
from recsys.candidates.cold_items import ColdItems, ColdItemsConfig, ColdPositions
from recsys.candidates.merge import top_columns
from recsys.candidates.popularity import PopularItems
from recsys.candidates.sources import CandidateSourcesConfig, MergedSources
from recsys.contracts import PAD
from recsys.errors import ConfigError
from recsys.index import ExactIndex
from recsys.kept_positions import KeptPositions

WARM, COLD = 24, 8
N = WARM + COLD
KINDS = [f"k{item % 4}" for item in range(N)]
"""items of a kind share it with two cold ones: those with the same remainder"""


def config(**options):
    given = {"num": 3, "weight": 0.0, "every": 5, "neighbours": 8, "decay": 0.9, "kept": 100}
    return ColdItemsConfig(**{**given, **options})


@pytest.fixture(scope="module")
def known(known_of):
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 20, 200), np.concatenate([np.arange(WARM), generator.integers(0, WARM, 176)])
    return known_of(users, items, N, timestamps=np.arange(200.0), kind=("category", KINDS))


def history_of(*rows):
    return np.array([rows])


def sources_of(known, **options) -> MergedSources:
    popular = PopularItems(num=N, weight=1.0, days=30.0, kept=N)
    cold = config(**options)
    return CandidateSourcesConfig(total=20, events_per_user=100, sources={"popular": popular, "cold": cold}).fit(known)


def test_what_shares_an_attribute_with_the_history_comes_first_among_cold_items(known):
    fitted = config().fit(known)
    assert fitted.rows.tolist() == list(range(WARM, N))
    nothing = np.zeros((1, 4), dtype=np.float32)
    for kind in range(4):
        rows = fitted.scores_for(SourceQuery(vectors=nothing, history=history_of(kind, kind + 4))).top_k(2)
        assert {KINDS[row] for row in rows[0]} == {f"k{kind}"}


def test_without_content_the_towers_rank_alone(known_of):
    known = known_of([0, 0], [0, 1], 6)
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = config().fit(known).scores_for(SourceQuery(vectors=vectors, history=np.full((3, 1), PAD))).top_k(4)
    products = vectors @ known.index.vectors(np.arange(2, 6)).T
    np.testing.assert_array_equal(found, 2 + np.argsort(-products, axis=1))


def test_the_score_is_half_of_the_reciprocal_rank_of_each(known):
    fitted = config().fit(known)
    vectors = np.random.default_rng(1).normal(size=(1, 4)).astype(np.float32)
    history = history_of(0, 5)
    scores = fitted.scores_for(SourceQuery(vectors=vectors, history=history))
    by_towers = np.argsort(-(vectors @ known.index.vectors(fitted.rows).T)[0])
    by_content = fitted.content.scores_for(SourceQuery(vectors=vectors, history=history)).top_k(N)[0]
    expected = np.zeros(N)
    for rank, column in enumerate(by_towers):
        expected[fitted.rows[column]] += 0.5 * 61 / (61 + rank)
    for rank, row in enumerate(by_content[by_content != PAD]):
        expected[row] += 0.5 * 61 / (61 + rank)
    np.testing.assert_allclose(scores.score(np.zeros(N, dtype=np.int64), np.arange(N)), expected, rtol=1e-6)


def test_items_that_come_after_the_training_are_found_by_the_towers_at_once(known):
    fitted = config().fit(known)
    index = ExactIndex(np.vstack([known.index.vectors(np.arange(N)), [[9.0, 0, 0, 0], [-9.0, 0, 0, 0]]]))
    live = fitted.with_new_items(index, np.array([N + 1, N]))
    query = SourceQuery(vectors=np.array([[1.0, 0, 0, 0]], dtype=np.float32), history=history_of(PAD))
    assert live.scores_for(query).top_k(1).tolist() == [[N]]
    assert N not in fitted.scores_for(query).top_k(N)


def test_an_item_that_comes_after_the_training_competes_with_those_that_have_content_neighbours(known):
    fitted = config().fit(known)
    history = history_of(0, 5)
    index = ExactIndex(np.vstack([known.index.vectors(np.arange(N)), [[9.0, 0, 0, 0]]]))
    query = SourceQuery(vectors=np.array([[1.0, 0, 0, 0]], dtype=np.float32), history=history)
    assert (fitted.content.scores_for(query).top_k(N) != PAD).any()
    assert fitted.with_new_items(index, np.array([N])).scores_for(query).top_k(1).tolist() == [[N]]


def test_a_list_holds_them_whatever_the_weights_are_and_its_beginning_is_untouched(known):
    """A source of events fills the list: the merge alone would show none of them."""
    vectors = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    history = np.random.default_rng(3).integers(0, WARM, (6, 3))
    excluded = np.full((6, 0), PAD)
    sources = sources_of(known)
    plain = replace(sources, sources=sources.sources[:1])
    without, found = (one.search(vectors, history, excluded) for one in (plain, sources))
    assert not (without.rows >= WARM).any()
    np.testing.assert_array_equal(np.flatnonzero((found.rows >= WARM).all(axis=0)), [4, 9, 14])
    np.testing.assert_array_equal(found.rows[:, :4], without.rows[:, :4])
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert found.offered[:, 4, 1].all()


def test_a_stored_source_makes_the_same_list(known):
    vectors = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    asked = vectors, np.random.default_rng(3).integers(0, WARM, (6, 3)), np.full((6, 0), PAD)
    sources = sources_of(known)
    stored = MergedSources.from_documents(*sources.to_documents(), known.index)
    assert isinstance(stored.sources[1].source, ColdItems)
    np.testing.assert_array_equal(stored.search(*asked).rows, sources.search(*asked).rows)
    np.testing.assert_array_equal(stored.search(*asked).scores, sources.search(*asked).scores)


def test_a_cold_item_that_is_excluded_or_hidden_is_in_no_list(known):
    hidden = np.zeros(N, dtype=bool)
    hidden[WARM : WARM + 4] = True
    sources = replace(sources_of(known, every=1, num=20), hidden=hidden)
    excluded = np.arange(WARM + 4, N - 1)[None]
    found = sources.search(np.ones((1, 4), dtype=np.float32), history_of(0, 1), excluded).rows
    assert found[found >= WARM].tolist() == [N - 1]


def slow_keep(merged, chosen, cold, waiting, num, every):
    """One query, by lists."""
    listed = [column for column in chosen if column != PAD]
    kept = []
    for position in range(len(chosen)):
        natural = [column for column in listed if column not in kept]
        if not natural:
            break
        spare = [column for column in waiting if column not in kept]
        due = sum(cold[column] for column in kept) < min(num, (position + 1) // every)
        kept.append(spare[0] if due and spare and not cold[natural[0]] else natural[0])
    return kept


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_it_never_displaces_more_than_it_may_never_repeats_and_never_leaves_the_union(data):
    width, num, every = (data.draw(st.integers(1, high)) for high in (14, 4, 6))
    total, seed = data.draw(st.integers(1, 16)), data.draw(st.integers(0, 999))
    generator = np.random.default_rng(seed)
    size = data.draw(st.integers(1, width))
    rows = np.full((1, width), PAD)
    rows[0, :size] = np.sort(generator.choice(20, size, replace=False))
    cold_rows = np.sort(generator.choice(20, data.draw(st.integers(0, 10)), replace=False))
    cold = np.isin(rows, cold_rows)
    offered = np.stack([rows != PAD, cold & (generator.random(rows.shape) < 0.7)])
    scores = generator.normal(size=offered.shape).astype(np.float32)
    union = CandidateUnion(rows=rows, offered=offered, scores=scores)
    merged = union.merged([1.0, 0.0])
    chosen = top_columns(merged, total)
    positions = ColdPositions(source=1, rows=cold_rows, positions=KeptPositions(num=num, every=every))
    kept, values = positions.keep(union, merged, chosen)
    found, natural = kept[0][kept[0] != PAD], chosen[0][chosen[0] != PAD]
    assert len(found) == len(natural) == len(set(found))
    assert set(found) <= set(range(size))
    for end in range(1, len(found) + 1):
        assert len(set(natural[:end]) - set(found[:end])) <= min(num, end // every)
    moved = [column for column in found if column in set(found) - set(natural) or cold[0, column]]
    assert [c for c in natural if c in found and c not in moved] == [c for c in found if c not in moved]
    assert (np.diff(values[0, : len(found)]) <= 0).all()
    order = sorted(np.flatnonzero(offered[1, 0]), key=lambda column: -scores[1, 0, column])[:num]
    assert list(found) == slow_keep(merged[0], chosen[0], cold[0], order, num, every)


@pytest.mark.parametrize(("key", "value"), [("every", 0), ("neighbours", 0), ("kept", 0), ("num", 0)])
def test_an_option_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"candidates\.cold\.{key} is {value}"):
        config(**{key: value})
