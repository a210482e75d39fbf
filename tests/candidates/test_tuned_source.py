"""Sources whose parameters are chosen on validation, and the merge that is no worse than any of its sources.

Shapes: B queries, L history, D dim, E excluded items, N items.
"""

from functools import partial

import numpy as np
import pytest

from recsys.candidates.item_item import Cosine, Ease, ItemItem
from recsys.candidates.popularity import PopularItems
from recsys.candidates.sources import CandidateSourcesConfig, MergedSources, TuningQueries, WeightedSource
from recsys.candidates.tuned_source import TunedSource
from recsys.candidates.two_tower_source import TwoTowerSourceConfig
from recsys.contracts import PAD
from recsys.errors import ConfigError

N, D, B = 30, 5, 40
ITEM_ITEM = partial(ItemItem, num=6, weight=0.4, decays=(1.0, 0.5), neighbours=8)
EASE = partial(Ease, denoising=0.0, activity=0.0, nearness=0.0, half_life_minutes=1.0, most_items=100)
OPERATORS = {"cosine": Cosine(shrinkage=0.0), "ease": EASE(regularisation=1.0), "stiff": EASE(regularisation=1e6)}
POPULAR = partial(PopularItems, num=4, weight=0.1, kept=N)


def tuned(**operators):
    return TunedSource(source=ITEM_ITEM, grid={"operator": operators})


def config(**sources):
    return CandidateSourcesConfig(total=12, events_per_user=1000, sources=sources)


@pytest.fixture
def known(known_of):
    generator = np.random.default_rng(3)
    users = np.repeat(np.arange(50), 8)
    return known_of(users, generator.integers(0, N, len(users)), N, timestamps=np.arange(400.0), dim=D)


@pytest.fixture
def queries():
    generator = np.random.default_rng(4)
    history = generator.integers(0, N, (B, 6))
    return generator.normal(size=(B, D)).astype(np.float32), history, history


def target_of(fitted, queries):
    """The first candidate of a source alone, as the target of each query."""
    alone = WeightedSource(name="alone", num=5, weight=1.0, source=fitted)
    vectors, history, excluded = queries
    index = known_index(fitted, vectors)
    return MergedSources(index=index, sources=(alone,), total=5).search(vectors, history, excluded).rows[:, 0]


def tuning(queries, score):
    vectors, history, excluded = queries
    return TuningQueries(vectors=vectors, history=history, excluded=excluded, score_function=score, first_places=score)


def known_index(_, vectors):
    from recsys.index import ExactIndex

    return ExactIndex(np.zeros((N, vectors.shape[1]), np.float32))


def ndcg_of(target):
    def score(rows):
        query, position = np.nonzero((rows == target[:, None]) & (rows != PAD))
        return np.bincount(query, 1 / np.log2(2 + position), minlength=B)

    return score


@pytest.mark.parametrize("best", list(OPERATORS))
def test_the_point_whose_candidates_hold_the_targets_is_chosen(known, queries, best):
    score = ndcg_of(target_of(ITEM_ITEM(operator=OPERATORS[best]).fit(known), queries))
    configured = config(two_tower=TwoTowerSourceConfig(num=5, weight=1.0), item_item=tuned(**OPERATORS))
    choices = configured.choose(known, tuning(queries, score))
    assert choices == {"item_item": {"operator": best}}
    chosen = configured.with_choices(choices).fit(known).sources[1].source
    np.testing.assert_array_equal(chosen.weights, ITEM_ITEM(operator=OPERATORS[best]).fit(known).weights)


def test_a_point_is_compared_at_its_best_decay(known, queries):
    """The target is right at decay .5 alone, the second of the grid."""
    fitted = ITEM_ITEM(operator=OPERATORS["cosine"]).fit(known).with_decay(0.5)
    score = ndcg_of(target_of(fitted, queries))
    choices = config(item_item=tuned(ease=OPERATORS["ease"], cosine=OPERATORS["cosine"])).choose(
        known, tuning(queries, score)
    )
    assert choices == {"item_item": {"operator": "cosine"}}


def test_equal_points_keep_the_first_and_nothing_else_is_chosen(known, queries):
    configured = config(
        two_tower=TwoTowerSourceConfig(num=5, weight=1.0), item_item=tuned(**OPERATORS), popular=POPULAR(days=1.0)
    )
    assert configured.choose(known, tuning(queries, lambda rows: np.zeros(B))) == {"item_item": {"operator": "cosine"}}


def test_a_point_for_smaller_catalogues_is_left_out(known, queries):
    score = ndcg_of(target_of(ITEM_ITEM(operator=OPERATORS["ease"]).fit(known), queries))
    large = EASE(regularisation=1.0, most_items=N - 1)
    assert config(item_item=tuned(ease=large, cosine=OPERATORS["cosine"])).choose(known, tuning(queries, score)) == {
        "item_item": {"operator": "cosine"}
    }
    assert config(item_item=tuned(ease=large)).choose(known, tuning(queries, score)) == {}
    with pytest.raises(ConfigError, match="inverts a matrix of 30 items"):
        config(item_item=tuned(ease=large)).fit(known)


def test_a_grid_of_plain_values_is_named_by_them_and_null_leaves_one_out():
    source = TunedSource(source=POPULAR, grid={"days": [7.0, 30.0]})
    assert source.points == [{"days": "7.0"}, {"days": "30.0"}]
    assert source.at({"days": "30.0"}).days == 30.0
    assert tuned(cosine=OPERATORS["cosine"], ease=None).points == [{"operator": "cosine"}]


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ({"days": []}, "has no values for days"),
        ({"operator": {"ease": None}}, "has no values for operator"),
        ({"day": [1.0]}, "does not fit it"),
        ({"days": [1.0, -1.0]}, r"candidates\.popular\.days"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_trained(grid, sentence):
    with pytest.raises(ConfigError, match=sentence):
        TunedSource(source=POPULAR, grid=grid)


@pytest.mark.parametrize("right", ["item_item", "popular"])
def test_the_merge_is_no_worse_than_the_best_of_its_sources(known, queries, right):
    """The scores of the towers are a thousand times those of the others, so that no grid around their weight helps."""
    vectors, *rows = queries
    queries = (1_000 * vectors, *rows)
    sources = {"item_item": ITEM_ITEM(operator=OPERATORS["ease"], neighbours=N), "popular": POPULAR(days=1.0, num=12)}
    score = ndcg_of(target_of(sources[right].fit(known), queries))
    configured = config(two_tower=TwoTowerSourceConfig(num=12, weight=1.0), **sources)
    merged = configured.tune([(configured.fit(known), tuning(queries, score))])
    assert score(merged.search(*queries).rows).mean() >= 0.999
