"""All sources together: what they offer, what does not depend on the batch, documents, and how weights are chosen.

Shapes: B queries, L history, D dim, E excluded items, C candidates, S sources.
"""

from dataclasses import replace

import numpy as np
import pytest

from recsys.candidates.cold_start import ColdItemPopularityModel
from recsys.candidates.content import ContentNeighbours
from recsys.candidates.item_item import Cooccurrence, ItemItem
from recsys.candidates.popularity import PopularItems, RecentItems
from recsys.candidates.sources import CandidateSourcesConfig, MergedSources, TuningQueries, candidates_for_catalogue
from recsys.candidates.two_tower_source import TwoTowerSourceConfig
from recsys.candidates.weight_search import scaled_search
from recsys.contracts import PAD
from recsys.errors import ConfigError, DataError
from recsys.index import ExactIndex
from recsys.index.faiss_index import IndexBuilder

NUM_ITEMS, DIM = 40, 13
NAMES = ("two_tower", "item_item", "content", "popular", "fresh", "promising")


def parts(**changed):
    operator = Cooccurrence(damping=0.3)
    return {
        "two_tower": TwoTowerSourceConfig(num=8, weight=1.0),
        "item_item": ItemItem(num=6, weight=0.4, decays=[0.8, 1.0], neighbours=5, operator=operator),
        "content": ContentNeighbours(num=3, weight=0.1, decays=[1.0], neighbours=4, only_cold=True),
        "popular": PopularItems(num=4, weight=0.1, days=10.0, kept=30),
        "fresh": RecentItems(num=2, weight=0.05, kept=9, column=None),
        "promising": ColdItemPopularityModel(num=2, weight=0.05, kept=9, half_life_days=30.0, regularisation=1.0),
    } | changed


def fit(known, total=16, **changed):
    configured = CandidateSourcesConfig(total=total, events_per_user=1000, sources=parts(**changed))
    return configured, fit_again(configured, known)


def fit_again(configured, known):
    return configured.fit(known)


@pytest.fixture
def known(known_of):
    """The last ten items are cold."""
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 25, 300), generator.integers(0, NUM_ITEMS - 10, 300)
    kinds = ("category", [f"k{kind}" for kind in generator.integers(0, 6, NUM_ITEMS)])
    return known_of(users, items, NUM_ITEMS, timestamps=np.arange(300.0), dim=DIM, kind=kinds)


@pytest.fixture
def questions():
    """vectors [B, D], history [B, L], excluded [B, E]"""
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(30, DIM)).astype(np.float32)
    history = generator.integers(PAD, NUM_ITEMS, (30, 5))
    history[0] = PAD
    return vectors, history, np.concatenate([history, generator.integers(PAD, NUM_ITEMS, (30, 2))], axis=1)


def periods(sources, questions, score_function):
    """One period to tune the merge by."""
    vectors, history, excluded = questions
    queries = TuningQueries(
        vectors=vectors, history=history, excluded=excluded, score_function=score_function, first_places=score_function
    )
    return [(sources, queries)]


def same(one, other):
    for name in ("rows", "scores", "full_scores", "offered"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_sources_offer_what_their_quotas_allow_and_nothing_excluded(known, questions):
    sources = fit(known)[1]
    merged = sources.search(*questions)
    assert sources.names == NAMES
    offers = merged.offered.sum(axis=1)
    assert (offers <= [8, 6, 3, 4, 2, 2]).all()
    assert (offers[1:] > 0).any(axis=0).all()
    cold = merged.rows >= NUM_ITEMS - 10
    for of_cold in (NAMES.index("content"), NAMES.index("promising")):
        assert merged.offered[cold][:, of_cold].any()
        assert not merged.offered[~cold][:, of_cold].any()
    for own, out in zip(merged.rows, questions[2], strict=True):
        assert not set(own[own != PAD]) & set(out)


def test_every_score_is_that_of_its_source_for_the_whole_catalogue(known, questions):
    merged = fit(known)[1].search(*questions)
    query, place = np.nonzero(merged.rows != PAD)
    cosines = questions[0] @ known.index.vectors(np.arange(NUM_ITEMS)).T
    np.testing.assert_allclose(
        merged.full_scores[query, place, 0], cosines[query, merged.rows[query, place]], rtol=1e-5, atol=1e-5
    )
    weights = np.float32([1.0, 0.4, 0.1, 0.1, 0.05, 0.05])
    np.testing.assert_allclose(
        merged.scores[query, place], merged.full_scores[query, place] @ weights, rtol=1e-5, atol=1e-6
    )
    assert (merged.full_scores[..., 1:] <= 1).all()


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_a_query_alone_gets_bit_for_bit_what_it_gets_in_a_batch(known, questions, factory):
    builder = IndexBuilder(factory=factory, nprobe=4, ef_search=16, k_factor=1, min_recall=1.0, recall_at=5)
    index, _ = builder.build(known.index.vectors(np.arange(NUM_ITEMS)))
    sources = fit(replace(known, index=index))[1]
    together = sources.search(*questions)
    for number in range(len(questions[0])):
        alone = sources.search(*(part[number : number + 1] for part in questions))
        for name in ("rows", "scores", "full_scores", "offered"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[number])


def test_sources_survive_their_documents(known, questions):
    sources = fit(known)[1]
    document, arrays = sources.to_documents()
    again = MergedSources.from_documents(document, arrays, sources.index)
    assert [one["name"] for one in document["sources"]] == list(NAMES)
    assert again.chosen == sources.chosen
    same(again.search(*questions), sources.search(*questions))


def test_a_source_may_be_left_out(known, questions):
    sources = fit(known, item_item=None, fresh=None, promising=None)[1]
    assert sources.names == ("two_tower", "content", "popular")
    assert sources.search(*questions).offered.shape[-1] == 3


def test_a_source_that_finds_nothing_to_read_is_absent(known_of):
    assert fit(known_of([0, 0, 1], [0, 1, 1], 4, dim=DIM))[1].names == ("two_tower", "item_item", "popular")


def test_one_source_alone_fills_all_places(known, questions):
    sources = fit(known)[1].weighted((1.0, 0.4, 0.1, 0.0, 0.0, 0.0, *[0.2] * 6))
    towers, popular = sources.select_source("two_tower"), sources.select_source("popular")
    assert (towers.names, popular.names) == (("two_tower",), ("popular",))
    assert (towers.search(*questions).rows != PAD).all(), "16 of at least 33 that are not excluded"
    listed = sources.sources[3].source.rows.tolist()
    for own, out in zip(popular.search(*questions).rows, questions[2], strict=True):
        assert own.tolist() == ([row for row in listed if row not in out] + [PAD] * 16)[:16]


def test_choices_carry_over_to_another_fit(known, questions):
    configured, sources = fit(known)
    chosen = configured.tune(periods(sources, questions, lambda rows: rows[:, 0].astype(float)))
    assert chosen.chosen != sources.chosen
    again = fit_again(configured, known).with_choices_of(chosen)
    assert again.chosen == chosen.chosen
    same(again.search(*questions), chosen.search(*questions))


def test_choices_of_other_sources_are_refused(known):
    with pytest.raises(ConfigError, match=r"candidates\.sources\.promising has nothing to read in one of the periods"):
        fit(known, promising=None)[1].with_choices_of(fit(known)[1])


def test_no_source_and_no_event_are_refused(known):
    with pytest.raises(ConfigError, match=r"candidates\.sources has no source"):
        CandidateSourcesConfig(total=5, events_per_user=1000, sources={"two_tower": None})
    with pytest.raises(DataError, match="no positive event"):
        replace(known, users=known.users[:0], items=known.items[:0], timestamps=known.timestamps[:0])


def test_an_item_that_came_later_is_found_by_the_towers_alone(known, questions):
    vectors, history, excluded = questions
    sources = fit(known)[1]
    index = ExactIndex(np.concatenate([known.index.vectors(np.arange(NUM_ITEMS)), 9 * vectors[:1]]))
    history = np.concatenate([history, np.full((30, 1), NUM_ITEMS)], axis=1)
    members = (
        replace(sources.sources[0], source=replace(sources.sources[0].source, index=index)),
        *sources.sources[1:],
    )
    merged = replace(sources, index=index, sources=members).search(vectors, history, excluded)
    assert merged.rows[0, 0] == NUM_ITEMS
    assert merged.offered[0, 0].tolist() == [True] + [False] * 5
    assert not merged.full_scores[0, 0, 1:].any()


def test_what_happens_later_and_to_cold_items_changes_no_item_item(known):
    """The catalogue's cold items look otherwise: only content may say so."""
    parts = known.table.encoded | {"ids": known.table.encoded["ids"].copy()}
    parts["ids"][NUM_ITEMS - 10 : NUM_ITEMS, 1] = 2
    other = fit(replace(known, table=replace(known.table, encoded=parts)))[1]
    ours, theirs = fit(known)[1].to_documents()[1], other.to_documents()[1]
    differing = {name for name in ours if not np.array_equal(ours[name], theirs[name])}
    assert {name.split(".")[0] for name in differing} == {"content", "promising"}


def ndcg_of(target):
    """A score function: the discounted position of one target a query, 0 where it is missing."""

    def score_function(rows):
        query, place = np.nonzero(rows == target[:, None])
        return np.bincount(query, 1 / np.log2(2 + place), minlength=len(target))

    return score_function


def test_choosing_finds_the_source_that_is_right(known, questions):
    """The target is what item_item with decay 1 likes best, so that its weight and decay are to be found."""
    questions = (questions[0] / 1000, *questions[1:])
    configured, sources = fit(known)
    target_sources = fit(known, two_tower=None, content=None, popular=None, fresh=None, promising=None)[1]
    slow_member = target_sources.sources[0]
    slow_member = replace(slow_member, source=replace(slow_member.source, decay=1.0))
    target = replace(target_sources, sources=(slow_member,)).search(*questions).rows[:, 0]
    score_function = ndcg_of(np.where(target == PAD, NUM_ITEMS, target))
    chosen = configured.tune(periods(sources, questions, score_function))
    assert chosen.chosen["item_item"]["decay"] == 1.0
    assert max(chosen.weights) in (chosen.weights[1], chosen.weights[len(NAMES) + 1])
    assert score_function(chosen.search(*questions).rows).sum() > score_function(sources.search(*questions).rows).sum()
    same(configured.tune(periods(sources, questions, score_function)).search(*questions), chosen.search(*questions))


def test_a_list_that_suits_one_period_and_not_the_other_gets_less_weight(known, questions):
    """The popular items are the targets of the first period, those of item_item the targets of both."""
    configured, sources = fit(known, content=None, fresh=None, promising=None)
    first, both = (sources.select_source(name).search(*questions).rows[:, :3] for name in ("popular", "item_item"))

    def score_of(*targets):
        def score(rows):
            pairs = ((rows[:, place, None] == one) & (one != PAD) for one in targets for place in range(3))
            return np.sum([pair.any(axis=1) for pair in pairs], axis=0, dtype=float)

        return score

    lucky, plain = score_of(first, first, both), score_of(both)
    alone = configured.tune(periods(sources, questions, lucky))
    together = configured.tune(
        [
            *periods(sources, questions, lucky),
            *periods(sources, questions, plain),
            *periods(sources, questions, plain),
            *periods(sources, questions, plain),
        ]
    )
    assert plain(together.search(*questions).rows).sum() > plain(alone.search(*questions).rows).sum()
    assert lucky(together.search(*questions).rows).sum() < lucky(alone.search(*questions).rows).sum()


def test_where_nothing_matters_the_first_values_stay(known, questions):
    configured, sources = fit(known)
    assert configured.tune(periods(sources, questions, lambda rows: np.zeros(len(rows)))).chosen == sources.chosen


def test_the_score_function_reads_what_search_would_return(known, questions):
    configured, sources = fit(known, total=12)
    seen = []
    configured.tune(periods(sources, questions, lambda rows: seen.append(rows) or np.zeros(len(rows))))
    wanted = sources.search(*questions).rows  # before it each source alone, by decay
    assert any(np.array_equal(rows, wanted) for rows in seen)


def test_a_search_finds_the_ratios_of_the_weights_and_scores_nothing_twice():
    tried = []

    def objective(weights):
        tried.append(weights)
        shares = np.array(weights) / sum(weights)
        return -np.square(shares - [0.5, 0.1, 0.0, 0.4]).sum()

    weights, value = scaled_search((1.0, 0.0, 1.0, 0.0), objective)
    np.testing.assert_allclose(np.array(weights) / sum(weights), [0.5, 0.1, 0.0, 0.4], atol=0.06)
    assert value == max(map(objective, set(tried)))
    assert len(set(tried)) * 2 == len(tried), "once while searching, once in the line above"


def test_a_weight_that_is_kept_does_not_vanish_and_no_search_leaves_all_at_0():
    weights, _ = scaled_search((1.0, 1.0), lambda weights: -weights[0] - weights[1], kept=[0])
    assert weights[0] > 0
    assert weights[1] == 0
    assert any(scaled_search((1.0, 1.0), lambda weights: -sum(weights))[0])
    assert scaled_search((0.3, 0.0), lambda weights: 1.0) == ((0.3, 0.0), 1.0)


def test_a_short_list_fills_the_top_by_its_places_and_leaves_the_rest_to_another_source(known, questions):
    """Targets: the first two of the popular items, then the next eight of item_item; no weights of scores alone order these."""
    configured, sources = fit(known, content=None, fresh=None, promising=None, total=20)
    lists = {name: sources.select_source(name).search(*questions).rows for name in ("popular", "item_item")}
    targets = [
        list(dict.fromkeys([*first[:2], *(row for row in rest if row not in first[:2])]))[:10]
        for first, rest in zip(lists["popular"], lists["item_item"], strict=True)
    ]

    def score(rows):
        gains = [
            sum(1 / (1 + at) ** 2 for at, row in enumerate(own[:2]) if row in wanted[:2])
            + sum(row in wanted for row in own[:10])
            for own, wanted in zip(rows.tolist(), targets, strict=True)
        ]
        return np.array(gains, dtype=float)

    tuned = configured.tune(periods(sources, questions, score))
    assert tuned.chosen["popular"]["place_weight"] > 0
    assert score(tuned.search(*questions).rows).sum() > score(sources.search(*questions).rows).sum()


def test_queries_with_many_exclusions_are_asked_apart_with_the_same_candidates(known, questions, monkeypatch):
    _, sources = fit(known)
    vectors, history, excluded = questions
    excluded = np.concatenate([excluded, np.full((30, NUM_ITEMS), PAD)], axis=1)
    excluded[3, -NUM_ITEMS:] = np.arange(NUM_ITEMS)
    excluded[7, 7 : NUM_ITEMS // 2] = np.arange(7, NUM_ITEMS // 2)
    together = sources.search(vectors, history, excluded)
    monkeypatch.setattr("recsys.candidates.candidate_union.MAX_OFFERS", 100)
    same(sources.search(vectors, history, excluded), together)
    assert (together.rows[3] == PAD).all()
    assert (together.rows[4] != PAD).any()


def test_a_user_gives_only_the_newest_events_to_what_counts_pairs(known_of):
    """User 0 has 30 events, of which those on items 27, 28 and 29 are the newest."""
    known = known_of(np.zeros(30, int), np.arange(30), 40, timestamps=np.arange(30.0), dim=DIM)
    configured = CandidateSourcesConfig(total=9, events_per_user=3, sources=parts())
    sources = fit_again(configured, known)
    neighbours, popular = (one.source for one in sources.sources if one.name in ("item_item", "popular"))
    assert np.flatnonzero(np.diff(neighbours.indptr)).tolist() == [27, 28, 29]
    assert len(popular.rows) > 3, "what counts no pairs reads all"


@pytest.mark.parametrize(
    ("items", "total"), [(1, 200), (1_682, 200), (2_000, 200), (8_000, 400), (12_500, 500), (50_000, 500), (10**7, 500)]
)
def test_candidates_grow_with_the_catalogue(items, total):
    assert candidates_for_catalogue(items) == total


def test_what_sources_offer_grows_with_the_candidates(known, monkeypatch):
    monkeypatch.setattr("recsys.candidates.sources.SMALL_CATALOGUE", NUM_ITEMS / 4)
    _, given = fit(known, total=16)
    _, sources = fit(known, total=None)
    assert candidates_for_catalogue(NUM_ITEMS) == 400
    assert sources.total == NUM_ITEMS, "no more than there are"
    assert [one.num for one in sources.sources] == [2 * one.num for one in given.sources]


def test_users_without_a_history_get_weights_of_their_own(known, questions):
    """Those with one want what item_item likes, the others the popular items: no weights for all serve both."""
    vectors, history, excluded = (np.concatenate([part] * 4) for part in questions)
    history[::2] = PAD
    configured, sources = fit(known, content=None, fresh=None, promising=None)
    asked = (vectors, history, excluded)
    lists = {name: sources.select_source(name).search(*asked).rows[:, 0] for name in ("popular", "item_item")}
    is_new = (history == PAD).all(axis=1)
    score = ndcg_of(np.where(is_new, lists["popular"], lists["item_item"]))
    tuned = configured.tune(periods(sources, asked, score))
    chosen = tuned.chosen
    assert score(tuned.search(*asked).rows)[is_new].mean() > 0.99
    assert max(chosen["popular"]["new_user_weight"], chosen["popular"]["new_user_place_weight"]) > 0
    alone = configured.tune(
        periods(sources, [part[~is_new] for part in asked], lambda rows: score_of(score, rows, is_new))
    )
    for name in sources.names:
        assert chosen[name]["weight"] == alone.chosen[name]["weight"]
        assert chosen[name]["place_weight"] == alone.chosen[name]["place_weight"]
    again = MergedSources.from_documents(*tuned.to_documents(), tuned.index)
    same(again.search(*asked), tuned.search(*asked))


def score_of(score, rows, is_new):
    """Score the queries with a history alone."""
    whole = np.full((len(is_new), rows.shape[1]), PAD)
    whole[~is_new] = rows
    return score(whole)[~is_new]


def test_few_queries_of_a_kind_share_the_weights_of_all(known, questions):
    vectors, history, excluded = questions
    history = history.copy()
    history[:5] = PAD
    configured, sources = fit(known)
    tuned = configured.tune(periods(sources, (vectors, history, excluded), lambda rows: rows[:, 0].astype(float)))
    assert tuned.new_user_weights == tuned.weights
