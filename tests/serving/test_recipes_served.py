"""Every recipe that is shipped: trained in small, exported, loaded by Triton, one slate; and what answers without models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.bundle import Bundle
from recsys.contracts import Query
from recsys.export.repository import write_repository
from recsys.stages import RANKER, load_live_retrieve, load_live_rules, recently_popular
from serving.gateway.fallback_slates import FallbackSlates
from serving.triton.client import Client
from serving.triton.server import TritonServer

SMALL = (
    "retrieval.dim=16",
    "retrieval.user_encoder.num_heads=2",
    "retrieval.epochs=1",
    "evaluation.baselines={}",
    "trainer.progress=false",
    "trainer.threads=1",
    "logger=csv",
    "refit=false",
)
RANKED = ("ranking.epochs=1", "ranking.sizes.dim=8", "ranking.sizes.expert_dim=8", "ranking.sampling.requests=200")
RANKER_ALONE = {"click_log"}
"""recipes that make no slates: tests/cli/test_cli_score.py"""
WORLD = ("data.users=120", "data.items=80", "data.events=4000")
FILMS = """
name: films
interactions:
  {file: events.parquet, user: user, item: item, timestamp: timestamp, actions: {rating: number}}
items: {file: films.parquet, item: item, columns: {title: text, genres: categories, year: number}}
objectives: {watch: "1", like: rating >= 4}
target: watch
title: title
"""
ITEMS = 40


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A data set with the columns that the rules and the policy of MovieLens read."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    names = [f"film {number}" for number in range(ITEMS)]
    events = {
        "user": [f"user {number}" for number in rng.integers(50, size=1_500)],
        "item": rng.choice(names, 1_500),
        "timestamp": 1.6e9 + np.sort(rng.integers(0, 10_000_000, 1_500)),
        "rating": rng.integers(1, 6, 1_500),
    }
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    genres = [rng.choice(["war", "love", "space"], 2, replace=False).tolist() for _ in names]
    columns = {"item": names, "title": names, "genres": genres, "year": rng.integers(1950, 2000, ITEMS)}
    pl.DataFrame(columns).write_parquet(folder / "films.parquet")
    (folder / "films.yaml").write_text(FILMS)
    return "data=tables", f"data.description={folder / 'films.yaml'}"


@pytest.fixture(scope="module")
def baskets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Purchases of households in baskets, with the objective that the policy of The Complete Journey reads."""
    folder, rng = tmp_path_factory.mktemp("baskets"), np.random.default_rng(0)
    lines = {
        "user": [f"household {number}" for number in rng.integers(40, size=1_500)],
        "item": [f"product {number}" for number in rng.integers(ITEMS, size=1_500)],
        "timestamp": 1.6e9 + np.sort(rng.integers(0, 300, 1_500)) * 86_400,
    }
    pl.DataFrame(lines).write_parquet(folder / "lines.parquet")
    (folder / "baskets.yaml").write_text(
        "interactions: {file: lines.parquet, user: user, item: item, timestamp: timestamp}\n"
        'objectives: {buy: "1"}\ntarget: buy\n'
    )
    return "data=tables", f"data.description={folder / 'baskets.yaml'}"


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Users walk along a circle of items."""
    file, rng = tmp_path_factory.mktemp("walks") / "walks.txt", np.random.default_rng(0)
    steps = (rng.integers(ITEMS) + np.cumsum(rng.integers(1, 4, rng.integers(6, 12))) for _ in range(60))
    file.write_text(
        "".join(f"{user} {' '.join(str(step % ITEMS) for step in walk)}\n" for user, walk in enumerate(steps))
    )
    return (f"data.path={file}",)


RECIPES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "complete_journey": (RANKED, "baskets"),
    "movielens_100k": (RANKED, "films"),
    "movielens_100k_sets": ((), "films"),
    "sequence": (
        (*RANKED, "retrieval.user_encoder.num_blocks=1", "retrieval.negatives=10", "retrieval.members=1"),
        "walks",
    ),
    "synthetic": ((*RANKED, *WORLD), None),
    "synthetic ~ranking": (WORLD, None),
}
"""recipe -> overrides, and the data where the recipe makes none"""


@pytest.fixture(scope="module", params=RECIPES)
def trained_recipe(
    request: pytest.FixtureRequest,
    composed: Any,
    run: Callable[[Any], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Bundle]:
    overrides, data = RECIPES[request.param]
    named = request.getfixturevalue(data) if data else ()
    recipe, *left_out = request.param.split()
    folder = tmp_path_factory.mktemp("recipe")
    _, bundle = run(composed(folder, f"recipe={recipe}", *left_out, *SMALL, *overrides, *named))
    return request.param, bundle


def test_every_shipped_recipe_is_among_them(root: Path) -> None:
    recipes = {file.stem for file in (root / "conf" / "recipe").glob("*.yaml")}
    assert recipes - RANKER_ALONE <= RECIPES.keys()


def test_a_recipe_is_served(trained_recipe: tuple[str, Bundle], tmp_path: Path) -> None:
    name, bundle = trained_recipe
    assert bundle.has(RANKER) == (name not in ("movielens_100k_sets", "synthetic ~ranking"))
    write_repository(bundle, tmp_path, "cpu")
    query = Query(user="nobody", now=1.7e9, k=5, request_id="one slate")
    with TritonServer(tmp_path / "current" / "models") as server, Client(server.grpc_url) as client:
        (slate,) = client.recommend([query])
    assert len(slate.items) == 5
    assert slate.bundle == bundle.fingerprint


def test_a_recipe_answers_when_no_model_does(trained_recipe: tuple[str, Bundle], tmp_path: Path) -> None:
    _, bundle = trained_recipe
    recent = recently_popular(bundle)
    retrieve = load_live_retrieve(bundle, tmp_path / "items")
    fallbacks = FallbackSlates(retrieve, load_live_rules(bundle, tmp_path / "rules", tmp_path / "items"), recent)
    slate = fallbacks.popular(Query(user="nobody", now=1.7e9, k=5, request_id="one slate"))
    assert len(slate["items"]) == 5
    offered = {source for one in slate["items"] for source in one["sources"]}
    assert offered == {"popular"} & set(retrieve.sources.names), "only what is a source is named as one"
