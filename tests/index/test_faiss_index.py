"""faiss against the exact index: what it finds, how it grows and shrinks, and who may call it.

Shapes: B queries, N items, D dim, K results.
"""

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from recsys.contracts import PAD
from recsys.errors import ConfigError, DataError
from recsys.index import ExactIndex, FaissIndex, IndexBuilder
from recsys.index.exact import recall_against
from recsys.index.ivf_cells import euclidean_assignment
from recsys.index.scores import oracle

N, D = 1_000, 16
COMPLETE = ("Flat", "IVF7,Flat", "IVF7,PQ16x4fs,RFlat", "IVF7,PQ4x4,RFlat", "IVF7,SQ8,RFlat", "HNSW16")
"""with the knobs below each of these finds all"""
KNOBS = {"nprobe": 7, "ef_search": 2 * N, "k_factor": 1000.0, "min_recall": 0.0, "recall_at": 10}


@pytest.fixture(scope="module")
def vectors():
    generator = np.random.default_rng(0)
    return (generator.normal(size=(N, D)) * np.exp(generator.normal(size=(N, 1)) / 2)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).normal(size=(20, D)).astype(np.float32)


def builder(**knobs):
    return IndexBuilder(**{"factory": "Flat", **KNOBS, **knobs})


def built(vectors, factory, **knobs):
    return builder(factory=factory, **knobs).build(vectors)[0]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("factory", COMPLETE)
@pytest.mark.parametrize("k", [1, 10])
def test_an_index_that_visits_all_is_the_oracle(vectors, queries, factory, k):
    index, recall = builder(factory=factory).build(vectors, queries)
    assert recall == 1
    assert_same(index.search(queries, k), oracle(vectors, queries, k))


def test_flat_gives_all_items_when_more_are_asked(vectors, queries):
    assert_same(built(vectors[:30], "Flat").search(queries, 50), oracle(vectors[:30], queries, 50))


@pytest.mark.parametrize("factory", COMPLETE)
def test_adding_and_removing_is_what_the_exact_twin_does(vectors, queries, factory, tmp_path):
    index, twin = built(vectors[:800], factory), ExactIndex(vectors[:800])
    gone = np.argsort(-(vectors @ queries[0]))[:5]
    for one in (index, twin):
        one.remove(gone[gone < 800])
        np.testing.assert_array_equal(one.add(vectors[800:]), np.arange(800, N))
        one.remove(gone[gone >= 800])
        assert len(one) == N
    assert_same(index.search(queries, 10), twin.search(queries, 10))
    index.write(tmp_path / "index.faiss")
    again = FaissIndex.read(tmp_path / "index.faiss")
    assert_same(again.search(queries, 10), twin.search(queries, 10))
    np.testing.assert_array_equal(again.add(vectors[:1]), [N])


@pytest.mark.parametrize("factory", COMPLETE)
@pytest.mark.parametrize("each", [False, True])
def test_only_allowed_rows_are_found(vectors, queries, factory, each):
    allowed = np.random.default_rng(2).random((20, N) if each else N) < 0.5
    index = built(vectors, factory)
    index.remove(np.array([0, 1]))
    allowed[..., :2] = True
    _, rows = index.search(queries, 10, allowed)
    allowed[..., :2] = False
    assert np.take_along_axis(np.broadcast_to(allowed, (20, N)), np.maximum(rows, 0), 1)[rows != PAD].all()
    if factory != "HNSW16":
        assert_same(index.search(queries, 10, allowed), oracle(vectors, queries, 10, allowed))


@pytest.mark.parametrize("factory", COMPLETE)
def test_the_vectors_of_rows_are_exact(vectors, factory):
    rows = np.array([[5, PAD], [999, 0]])
    expected = np.where((rows == PAD)[..., None], 0, vectors[rows])
    np.testing.assert_array_equal(built(vectors, factory).vectors(rows), expected)


def test_ties_go_to_the_lower_row(queries):
    vectors = np.repeat(np.random.default_rng(0).normal(size=(50, D)), 4, axis=0).astype(np.float32)
    for factory in ("Flat", "IVF7,Flat"):
        assert_same(built(vectors, factory).search(queries, 12), oracle(vectors, queries, 12))


def test_places_that_faiss_leaves_empty_are_padding(vectors, queries):
    scores, rows = built(vectors, "IVF7,Flat", nprobe=1).search(queries, N)
    assert rows.min() == PAD
    assert np.isneginf(scores[rows == PAD]).all()
    assert all(len(set(own[own != PAD])) == (own != PAD).sum() for own in rows)


def test_more_cells_find_more_and_all_cells_everything(vectors, queries):
    recalls = [builder(factory="IVF7,Flat", nprobe=nprobe).build(vectors, queries)[1] for nprobe in (1, 3, 7)]
    assert recalls[0] < recalls[1] < recalls[2] == 1


def test_a_broader_graph_search_and_more_rescoring_find_more(vectors, queries):
    graphs = [builder(factory="HNSW4", ef_search=ef).build(vectors, queries)[1] for ef in (10, 400)]
    codes = [builder(factory="IVF7,PQ4x4,RFlat", k_factor=k).build(vectors, queries)[1] for k in (1.0, 20.0)]
    assert graphs[0] < graphs[1]
    assert codes[0] < codes[1]


def test_items_lie_in_the_nearest_cell_after_growth_too(vectors):
    index = built(vectors, "IVF20,Flat")
    ivf = index._index
    nearest = ((vectors[:, None] - ivf.quantizer.reconstruct_n(0, 20)) ** 2).sum(-1).argmin(1)
    index.add(vectors)
    assert [ivf.get_list_size(cell) for cell in range(20)] == (2 * np.bincount(nearest, minlength=20)).tolist()


def test_the_cell_is_visited_whose_best_item_is_expected_to_be_best(vectors, queries):
    index = built(vectors, "IVF20,Flat", nprobe=1)
    centres = index._index.quantizer.reconstruct_n(0, 20)
    distances = ((vectors[:, None] - centres) ** 2).sum(-1)
    nearest = distances.argmin(1)
    spread = [np.sqrt(distances[nearest == cell, cell].mean()) for cell in range(20)]
    tops = np.array(spread) * np.sqrt(2 * np.log(np.bincount(nearest, minlength=20)) / D)
    visited = (queries @ centres.T + np.linalg.norm(queries, axis=1)[:, None] * tops).argmax(1)
    for own, cell in zip(index.search(queries, 5)[1], visited, strict=True):
        assert set(nearest[own[own != PAD]]) == {cell}


def test_a_wide_cell_is_visited_before_one_with_a_better_centre():
    generator = np.random.default_rng(5)
    axes = np.eye(D)
    tight = axes[0] + 0.01 * generator.normal(size=(100, D))
    wide = 20 * axes[1] + 2 * generator.normal(size=(100, D))
    index = built(np.concatenate([tight, wide]), "IVF2,Flat", nprobe=1)
    asked = axes[:1].astype(np.float32)
    exact = oracle(np.concatenate([tight, wide]), asked, 10)[1]
    assert recall_against(exact, index._index.search(asked, 10)[1]) == 0
    assert recall_against(exact, index.search(asked, 10)[1]) == 1


def test_items_with_equal_vectors_stand_for_each_other(vectors):
    alike = vectors.copy()
    alike[: N // 2] = alike[0]
    built, recall = IndexBuilder(**{**KNOBS, "factory": "Flat", "min_recall": 1.0}).build(alike)
    assert len(built) == N
    assert recall == 1


def test_the_metric_comes_back_when_adding_fails(vectors):
    index = faiss.index_factory(D, "IVF7,Flat", faiss.METRIC_INNER_PRODUCT)
    with pytest.raises(RuntimeError), euclidean_assignment(index):
        raise RuntimeError
    assert index.quantizer.metric_type == faiss.METRIC_INNER_PRODUCT


def test_many_threads_may_search_while_one_adds_and_removes(vectors, queries):
    index = built(vectors[:500], "IVF7,Flat")
    wanted = oracle(vectors[:500], queries, 10)

    def ask(_):
        return index.search(queries, 10, np.arange(500))

    def change(at):
        rows = index.add(vectors[at : at + 10])
        index.remove(rows[::2])

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(ask, range(60))
        list(pool.map(change, range(500, N, 10)))
        for answer in answers:
            assert_same(answer, wanted)
    assert len(index) == N
    assert (index.search(queries, 100)[1] != PAD).all()


def test_the_owner_works_with_the_threads_of_its_maker(vectors):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        assert built(vectors, "Flat")._exclusive(faiss.omp_get_max_threads) == 1
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("factory", ["Flat", "IVF7,Flat", "HNSW16", "IVF7,PQ4x4,RFlat"])
def test_an_index_that_was_written_reads_back_the_same(tmp_path, queries, vectors, factory):
    index = built(vectors, factory, nprobe=3, ef_search=12, k_factor=2.0)
    index.write(tmp_path / "index.faiss")
    assert_same(FaissIndex.read(tmp_path / "index.faiss").search(queries, 10), index.search(queries, 10))


def test_an_index_that_finds_too_little_is_refused(vectors):
    with pytest.raises(ConfigError, match=r"index\.min_recall asks for 0\.99") as refused:
        builder(factory="IVF7,Flat", nprobe=1, min_recall=0.99, recall_at=200).build(vectors)
    assert "'IVF7,Flat' finds 0." in str(refused.value)


@pytest.mark.parametrize("factory", ["Flatt", "IVF7,PQ5"])
def test_an_unknown_factory_is_refused(vectors, factory):
    with pytest.raises(ConfigError, match=rf"index\.factory '{factory}' is not known to faiss"):
        built(vectors, factory)


def test_too_few_items_to_train_on_are_refused(vectors):
    with pytest.raises(ConfigError, match="cannot be trained on 3 items"):
        built(vectors[:3], "IVF7,Flat")


@pytest.mark.parametrize(
    "knobs",
    [{"min_recall": 1.5}, {"min_recall": -0.1}, {"nprobe": 0}, {"recall_at": 0}, {"ef_search": 0}, {"k_factor": 0.5}],
)
def test_a_knob_out_of_range_is_refused_by_name(knobs):
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        builder(**knobs)


def test_what_makes_no_sense_is_refused(vectors, queries):
    index = built(vectors, "Flat")
    with pytest.raises(ConfigError, match="k is -1"):
        index.search(queries, -1)
    with pytest.raises(DataError, match=r"give \[number, 16\]"):
        index.add(np.ones((2, 3)))
    with pytest.raises(DataError, match="there are rows 0 to 999"):
        index.remove(np.array([1_000]))
    with pytest.raises(DataError, match="NaN"):
        index.search(np.full((1, D), np.nan), 3)


@pytest.mark.parametrize("factory", ["Flat", "IVF7,PQ4x4"])
def test_the_recall_of_few_vectors_is_that_of_the_exact_scan(vectors, factory, monkeypatch):
    at_once = builder(factory=factory).build(vectors)[1]
    monkeypatch.setattr("recsys.index.faiss_index.FEW_VECTORS", 0)
    assert builder(factory=factory).build(vectors)[1] == at_once
