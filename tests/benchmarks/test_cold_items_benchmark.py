"""The cold-item benchmark on a world of a few films: nothing of a withheld item is known before it is asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.claims.retrieval import cold_in_list, cold_items
from benchmarks.claims.retrieval.cold_items import COLD, COLD_IN_ALL, OURS, PEER, WARM, WITHOUT
from benchmarks.lib import cold_world
from benchmarks.lib.cold_content import ContentNeighbours
from benchmarks.lib.cold_world import World
from recsys.content.text import TextVectors
from recsys.contracts import PAD
from recsys.data.dataset import Dataset
from recsys.data.description import ITEM
from recsys.data.splits import TEST, VALIDATION, GlobalTime
from recsys.errors import DataError
from recsys.features.spec import Features
from recsys.replay.interactions import Histories

USERS, FILMS, EVENTS = 60, 50, 1500


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    (folder / cold_world.NAME).mkdir()
    films = [f"{film:07}::The {film % 7} of {film} ({1990 + film % 9})::{'ABC'[film % 3]}|D" for film in range(FILMS)]
    (folder / cold_world.NAME / "movies.dat").write_text("\n".join(films) + "\n", encoding="utf-8")
    pairs = rng.permutation(USERS * FILMS)[:EVENTS]
    rated = [
        f"{pair // FILMS}::{pair % FILMS:07}::{pair % 11}::{10**9 + 3600 * place}" for place, pair in enumerate(pairs)
    ]
    (folder / cold_world.NAME / "ratings.dat").write_text("\n".join(rated) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECSYS_DATA", str(folder))
        return cold_world.load(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def worlds(dataset: Dataset) -> dict[int, World]:
    split = GlobalTime(rank=0.2, validation=0.2, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[0]
    features = Features(history_length=10, max_values=4, min_count=1, leave_out=[])
    content = TextVectors(dim=4, min_documents=1, seed=0)
    return {
        period: World.of(dataset, split, period, features, content, cold_world.DRAWS[period][0])
        for period in (VALIDATION, TEST)
    }


def met(world: World, rows: np.ndarray) -> np.ndarray:
    """[N] bool, items that these rows of the log hold."""
    return np.bincount(world.prepared.replay.items[rows], minlength=len(world.cold)) > 0


@pytest.mark.parametrize("period", [VALIDATION, TEST])
def test_nothing_of_a_withheld_item_is_known(worlds: dict[int, World], period: int) -> None:
    world = worlds[period]
    assert 0 < world.cold.sum() < len(world.cold) / 2
    assert not world.cold[world.questions.histories.items].any()
    assert not (met(world, world.known) & world.cold).any()
    assert world.cold[world.questions.targets.items].any()
    assert (world.questions.histories.lengths > 0).all()


def test_choices_are_made_on_other_items_than_figures(worlds: dict[int, World]) -> None:
    assert not (worlds[VALIDATION].cold & worlds[TEST].cold).any()
    replay = worlds[VALIDATION].prepared.replay
    assert not worlds[TEST].cold[replay.items].any(), "what the test withholds does not exist in validation"
    assert met(worlds[TEST], worlds[TEST].known)[worlds[VALIDATION].cold].any(), "and what validation withheld is back"


def test_recall_counts_places_among_the_items_that_are_ranked(worlds: dict[int, World]) -> None:
    world = worlds[TEST]
    scores = np.zeros((len(world.questions), len(world.cold)), dtype=np.float32)
    scores[world.questions.targets.users, world.questions.targets.items] = 1
    assert (world.recall(scores, world.cold, among=world.cold) == 1).all()
    assert world.recall(scores - 2 * world.cold, world.cold).mean() < 1
    assert (world.recall(-scores, world.warm, among=world.cold) == 0).all()


@pytest.mark.parametrize("words", [0.0, 0.3])
def test_neighbours_equal_their_slow_twin(worlds: dict[int, World], words: float) -> None:
    world, knobs = worlds[TEST], ContentNeighbours(decay=0.8, power=2.0, idf=1.0, words=words)
    found = knobs.scores(world.prepared.dataset, world.questions)
    single = ContentNeighbours(decay=1.0, power=1.0, idf=1.0, words=words)
    one = world.questions.only(np.array([3]))
    history = one.histories.items
    for item in (0, 7):
        alike = [similar(world, single, other)[item] for other in history]
        ages = np.arange(len(history))[::-1]
        assert found[3, item] == pytest.approx(
            sum(0.8**age * own**2 for age, own in zip(ages, alike, strict=True)), 1e-4
        )


def similar(world: World, knobs: ContentNeighbours, row: int) -> np.ndarray:
    """[N] the similarity of all items to one, as somebody sees it who met that item alone."""
    alone = replace(world.questions.only(np.array([0])), histories=Histories.of([[row]]))
    return knobs.scores(world.prepared.dataset, alone)[0]


def test_the_core_leaves_nobody_with_less() -> None:
    ratings = pl.DataFrame({"user": [*"aabbcd"], "movie": [*"xyxyzx"]})
    kept = cold_world.core(ratings, 2)
    assert kept.sort("user", "movie").rows() == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


def test_parts_that_are_drawn_are_disjoint_and_of_about_the_share() -> None:
    items = pl.Series(ITEM, [f"i{row}" for row in range(5000)])
    drawn = np.stack([cold_world.draw(items, number) for number in range(5)])
    assert (drawn.sum(axis=0) == 1).all()
    np.testing.assert_allclose(drawn.mean(axis=1), cold_world.SHARE, atol=0.02)


def test_figures_compare_means_over_users_and_seeds() -> None:
    def recalls(cold: float, warm: float) -> dict[str, np.ndarray]:
        return {COLD: np.array([cold, 0.0]), COLD_IN_ALL: np.array([cold]), WARM: np.array([warm])}

    found = {PEER: [recalls(0.2, 0.1)], OURS: [recalls(0.4, 0.5), recalls(0.8, 0.4)], WITHOUT: [recalls(0.1, 0.5)]}
    figures = cold_items.figures(found)
    assert figures["cold_recall@20_over_content_knn"].value == 3.0
    assert figures["warm_recall@20_change_percent"].value == -10.0
    assert not figures["warm_recall@20_change_percent"].reached


def test_missing_data_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    with pytest.raises(DataError, match="is no folder; put movietweetings-100k there"):
        cold_world.data_folder()


def test_a_list_is_measured_on_cold_and_warm_targets_apart(worlds: dict[int, World]) -> None:
    world = worlds[TEST]
    targets = world.questions.targets
    rows = np.full((len(world.questions), 20), PAD)
    for user in range(len(world.questions)):
        own = targets.items[targets.indptr[user] : targets.indptr[user + 1]]
        listed = own[world.cold[own]][:20]
        rows[user, : len(listed)] = listed
    found = cold_in_list.measures(world, rows)
    assert (found[cold_in_list.COLD] == 1).all()
    assert not found[cold_in_list.WARM].any()
    assert not found[cold_in_list.WARM_NDCG].any()


def test_the_claim_on_lists_stands_by_the_end_of_the_interval_and_by_what_warm_items_lose() -> None:
    def values(cold: list[float], ndcg: float) -> cold_in_list.PerUser:
        warm = {cold_in_list.WARM: np.full(4, 0.5), cold_in_list.WARM_NDCG: np.full(4, ndcg)}
        return {cold_in_list.COLD: np.array(cold), **warm}

    bare = values([0.0] * 4, 0.5)
    clear = cold_in_list.figures({cold_in_list.KEPT: values([0.5] * 4, 0.4975), cold_in_list.WITHOUT: bare})
    assert [one.value for one in clear.values()] == [0.5, -0.5]
    assert all(one.reached for one in clear.values())
    lucky = cold_in_list.figures({cold_in_list.KEPT: values([1.0, 0, 0, 0], 0.49), cold_in_list.WITHOUT: bare})
    assert [one.value for one in lucky.values()] == [0.0, -2.0]
    assert not any(one.reached for one in lucky.values())
