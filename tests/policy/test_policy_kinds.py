"""The contract of diversities and explorations: every file of conf/policy."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from slow_twin import CATALOGUE, TYPES, VECTORS, N

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.policy.diversity import DIVERSITIES, Diversity
from recsys.policy.diversity.mmr import MaximalMarginalRelevance
from recsys.policy.exploration import EXPLORATIONS, Exploration, NoExploration
from recsys.policy.exploration.epsilon import EpsilonGreedy
from recsys.policy.exploration.exploration import ExplorationDraws
from recsys.policy.kind_documents import from_document, to_document
from recsys.policy.pool import EligiblePool
from recsys.policy.slate.selection import QuotaLimits, select

CONF = Path(__file__).parents[2] / "conf" / "policy"
OF = {"of": "genre"}


def configured(group, name, **changes):
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    keys = set(OmegaConf.to_container(node))
    return instantiate(node, **{key: value for key, value in {**OF, **changes}.items() if key in keys})


def names(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def pool(size, k=6, unknown=()):
    utility = np.tile(np.linspace(0.9, 0.1, N), (size, 1))
    utility[:, list(unknown)] = np.nan
    return EligiblePool(
        rows=np.stack([np.roll(np.arange(N), shift) for shift in range(size)]),
        utility=utility,
        eligible=np.ones((size, N), dtype=bool),
        pinned=np.full((size, k), -1),
        sizes=np.full(size, k),
    )


def selected(diversity, own, exploration=None, histories=None, queries=None):
    size, k = own.pinned.shape
    scoring = diversity.scoring(
        own, diversity.similarity(VECTORS, CATALOGUE, TYPES), histories or [[0, 3]] * size, ranked=True
    )
    exploration = exploration or NoExploration()
    draws = ExplorationDraws.none(size, k)
    if queries is not None:
        draws = exploration.draws(queries, own, np.full(own.utility.shape, 0.3), scoring.spans)
    return select(own, QuotaLimits.none(size, N), diversity, scoring, exploration, draws)


def one_of(own, row):
    return EligiblePool(*(array[row : row + 1] for array in own))


@pytest.mark.parametrize("name", names("diversity"))
def test_the_document_of_a_diversity_gives_it_again(name):
    made = configured("diversity", name, window=3)
    document = to_document(made, DIVERSITIES)
    again = from_document("policy.diversity", document, DIVERSITIES, Diversity)
    assert to_document(again, DIVERSITIES) == document
    assert type(again) is type(made)


@pytest.mark.parametrize("name", names("exploration"))
def test_the_document_of_an_exploration_gives_it_again(name):
    made = configured("exploration", name)
    document = to_document(made, EXPLORATIONS)
    again = from_document("policy.exploration", document, EXPLORATIONS, Exploration)
    assert to_document(again, EXPLORATIONS) == document
    assert type(again) is type(made)


@pytest.mark.parametrize("name", names("diversity"))
@pytest.mark.parametrize("changes", [{"window": 0}, {"trade_off": 1.0}])
def test_without_a_window_or_a_trade_off_the_order_is_that_of_utility(name, changes):
    assert selected(configured("diversity", name, **changes), pool(2)).columns.tolist() == [list(range(6))] * 2


@pytest.mark.parametrize("name", names("diversity"))
@pytest.mark.parametrize("trade_off", [0.0, 0.4])
def test_unknown_utilities_come_last(name, trade_off):
    found = selected(configured("diversity", name, trade_off=trade_off), pool(1, k=N, unknown=range(4, N)))
    assert set(found.columns[0, :4].tolist()) == set(range(4))


@pytest.mark.parametrize("name", names("diversity"))
def test_a_slate_alone_is_that_of_a_batch(name):
    own, diversity, histories = pool(4), configured("diversity", name, trade_off=0.3), [[0], [], [5, 6], [7]]
    together = selected(diversity, own, histories=histories)
    for row in range(4):
        alone = selected(diversity, one_of(own, row), histories=histories[row : row + 1])
        assert alone.columns.tolist() == together.columns[row : row + 1].tolist()


@pytest.mark.parametrize("name", [name for name in names("exploration") if name != "none"])
@pytest.mark.parametrize("diversity", names("diversity"))
def test_propensities_are_the_frequencies_of_the_first_position_and_add_up_to_one(name, diversity):
    size, exploration = 4_000, configured("exploration", name, rate=0.5)
    own = EligiblePool(*(np.repeat(array, size, axis=0) for array in pool(1, k=1)))
    queries = [Query(user="u", now=1.0, k=1, request_id=f"{number}") for number in range(size)]
    found = selected(configured("diversity", diversity, trade_off=0.6), own, exploration, queries=queries)
    chances = dict(zip(found.columns[:, 0].tolist(), found.propensities[:, 0].tolist(), strict=True))
    times = Counter(found.columns[:, 0].tolist())
    for column, chance in chances.items():
        assert abs(times[column] - size * chance) <= 5 * np.sqrt(size * chance * (1 - chance)) + 1e-6
    assert sum(chances.values()) == pytest.approx(1, abs=0.02)
    assert sum(chances.values()) <= 1 + 1e-8


@pytest.mark.parametrize("name", names("exploration"))
def test_a_request_is_drawn_again_as_it_was_and_nothing_before_the_first_position(name):
    exploration = configured("exploration", name, rate=0.5, first=2)
    queries = [Query(user="u", now=1.0, k=6, request_id=f"{number}") for number in range(50)]
    own = EligiblePool(*(np.repeat(array, 50, axis=0) for array in pool(1)))
    once, again = (selected(configured("diversity", "mmr"), own, exploration, queries=queries) for _ in range(2))
    for part in ("columns", "propensities", "explored"):
        np.testing.assert_array_equal(getattr(once, part), getattr(again, part))
    assert not once.explored[:, :2].any()
    assert (once.propensities[:, :2] == 1).all()
    assert once.explored.any() == (name != "none")


class OfAnother(MaximalMarginalRelevance):
    """A diversity that this package has not heard of."""


class DrawnByAnother(EpsilonGreedy):
    """An exploration that this package has not heard of."""


def test_a_kind_of_another_package_is_named_by_its_import_path():
    own = OfAnother(trade_off=0.5, window=3, span=None, content=0.0)
    document = to_document(own, DIVERSITIES)
    assert document["kind"] == f"{__name__}:OfAnother"
    assert type(from_document("policy.diversity", document, DIVERSITIES, Diversity)) is OfAnother
    drawn = to_document(DrawnByAnother(rate=0.5, first=0), EXPLORATIONS)
    assert type(from_document("policy.exploration", drawn, EXPLORATIONS, Exploration)) is DrawnByAnother


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nobody.knows:This", "which cannot be imported here; install the package that defines it"),
        ("recsys.policy.pool:EligiblePool", "which is no Diversity; give a subclass of it"),
        ("mrm", "choose one of mmr, maxsum, dpp, proportions, or give module:Class"),
    ],
)
def test_a_kind_that_is_none_is_refused(kind, message):
    with pytest.raises(ConfigError, match=message):
        from_document("policy.diversity", {"kind": kind}, DIVERSITIES, Diversity)
