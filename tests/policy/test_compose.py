"""The whole policy against a slow twin in plain Python, its laws as properties, and known answers."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_twin import (
    BOOST,
    CATALOGUE,
    OBJECTIVES,
    PINS,
    POPULARITY,
    REQUEST_TYPES,
    RULES,
    SOURCES,
    TYPES,
    VECTORS,
    N,
    naive_showable,
    naive_slate,
)

from recsys.contracts import PAD, CandidateBatch, Event, Query, Slate
from recsys.errors import BundleError, ConfigError
from recsys.policy.compose import Policy, scale_utility
from recsys.policy.diversity import MaximalMarginalRelevance
from recsys.policy.exploration import NoExploration
from recsys.policy.popularity import PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula

STILL = NoExploration()


def compiled(
    rules=(),
    trade_off=1.0,
    window=0,
    formula="watch",
    weights=None,
    vectors=VECTORS,
    explore=STILL,
    dial=(0.0, "events"),
    kind=MaximalMarginalRelevance,
):
    policy = Policy(
        value=ValueFormula(formula=formula, weights=weights or {}),
        popularity=PopularityDial(discount=dial[0], of=dial[1]),
        diversity=kind(trade_off=trade_off, window=window, span=None, content=0.0),
        exploration=explore,
        repeat=Repeat.never(),
    )
    ruled = RuleSet.parse({"rules": list(rules)})
    return policy.compile(
        ruled, CATALOGUE, TYPES, REQUEST_TYPES, vectors, OBJECTIVES, SOURCES, "fingerprint", POPULARITY
    )


def candidates(rows, values=None, scores=None, degraded=None):
    """values: of watch, [B, C]; None where no ranker came"""
    items = np.array(rows, dtype=np.int64)
    falling = np.broadcast_to(-np.arange(items.shape[1], dtype=np.float32), items.shape)
    kept = np.where(items == PAD, -np.inf, falling if scores is None else scores).astype(np.float32)
    source_scores = np.repeat(kept[..., None], len(SOURCES), axis=2)
    return CandidateBatch(
        rows=items,
        scores=kept,
        source_scores=source_scores,
        degraded=degraded or ((),) * len(items),
        probabilities=None if values is None else watch(values),
    )


def watch(values):
    """probabilities [B, C, T] of these values of watch"""
    table = np.array(values, dtype=np.float32)
    return np.stack([table, np.zeros_like(table)], axis=2)


def query(k=3, seen=(), exclude=(), surface="default", **more):
    history = tuple(Event(user="u", item=item, timestamp=0) for item in seen)
    more = {"now": 1.0, "request_id": "r", **more}
    return Query(user="u", k=k, history=history, exclude=tuple(exclude), surface=surface, **more)


def shown(slate):
    return [item.item for item in slate.items]


def one_slate(policy, rows, values, **of_the_query):
    return policy.compose([query(**of_the_query)], candidates([rows], [values]))[0]


@st.composite
def requests(draw):
    """Rules, a dial, a trade-off, a window, queries and for each its candidates and the value of watch."""
    rules = draw(st.lists(st.sampled_from(RULES), unique_by=lambda rule: rule["name"]))
    num, ids = draw(st.integers(0, 12)), [f"i{row}" for row in range(N)] + ["unknown"]
    value = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 3.0, math.nan])
    queries, rows, values = [], [], []
    for _ in range(draw(st.integers(1, 3))):
        some = draw(st.lists(st.integers(0, N - 1), unique=True, max_size=num))
        rows.append(some + [PAD] * (num - len(some)))
        values.append(draw(st.lists(value, min_size=num, max_size=num)))
        few = st.lists(st.sampled_from(ids), max_size=4)
        surface = draw(st.sampled_from(["home", "search"]))
        more = {
            "profile": draw(st.sampled_from([{}, {"age": 12, "since": 1990}, {"age": 12}, {"age": 40, "since": 1985}])),
            "context": draw(st.sampled_from([{}, {"tired_of": "a"}, {"tired_of": 5}])),
            "impressions": draw(
                st.sampled_from([{}, {"i1": 2.0, "i4": 5.0, "i6": 1.0, "unknown": 9.0, "item=i0": 9.0}])
            ),
            "exposure": draw(st.sampled_from([{}, SHOWN])),
        }
        more["hidden"] = draw(st.sampled_from([{}, {}, {"item": ("i3", "i8")}, {"genre": ("b",)}, HIDDEN]))
        queries.append(query(draw(st.integers(1, 12)), draw(few), draw(few), surface, **more))
    dial = draw(st.sampled_from([(0.0, "events"), (0.5, "events"), (0.5, "exposure"), (2.0, "exposure")]))
    return rules, dial, draw(st.sampled_from([0.0, 0.5, 0.75, 1.0])), draw(st.integers(0, 8)), queries, rows, values


HIDDEN = {"genres": ("a", "d "), "item": ("i5", "unknown"), "year": ("1990",), "gnre": ("a",)}
SHOWN = {"item=i0": 0.5, "item=i4": 0.0625, "item=i7": 0.0, "item=?": 0.1, "i4": 5.0}
"""of all that was shown, and to this user"""


@settings(max_examples=300, deadline=None)
@given(requests())
def test_equals_the_slow_twin(request_):
    rules, dial, trade_off, window, queries, rows, values = request_
    policy = compiled(rules, trade_off, window, dial=dial)
    shape = (len(rows), len(rows[0]))
    got = policy.compose(queries, candidates(np.reshape(rows, shape), np.reshape(values, shape)))
    for slate, asked, some, offered in zip(got, queries, rows, values, strict=True):
        want, yielded, lost = naive_slate(rules, dial, trade_off, window, asked, some, offered)
        relaxed = {reason.removeprefix("rules:relaxed:") for reason in slate.degraded if reason.startswith("rules:")}
        if yielded and relaxed != yielded:
            names = [rule["name"] for rule in rules]
            assert [name in relaxed for name in names] < [name in yielded for name in names], "a guarded one keeps more"
        elif not lost:  # looking ahead keeps more of a floor that cannot be kept whole, under the same names
            assert shown(slate) == [f"i{row}" for row in want]
            assert relaxed == yielded
        assert ("candidates:short" in slate.degraded) == (len(want) < asked.k)


@settings(max_examples=150, deadline=None)
@given(requests())
def test_laws_of_every_slate(request_):
    rules, dial, trade_off, window, queries, rows, values = request_
    policy = compiled(rules, trade_off, window, dial=dial)
    shape = (len(rows), len(rows[0]))
    offered = candidates(np.reshape(rows, shape), np.reshape(values, shape))
    for slate, alone, asked, some in zip(
        policy.compose(queries, offered), policy.rows(queries, offered), queries, rows, strict=True
    ):
        items = shown(slate)
        hidden = {event.item for event in asked.history} | set(asked.exclude)
        kept = {f"i{row}" for row in some if row != PAD and naive_showable(rules, row, asked)}
        assert len(set(items)) == len(items) <= asked.k
        assert not hidden & set(items)
        assert len(items) >= min(asked.k, len(kept))
        assert (len(items) == asked.k) != ("candidates:short" in slate.degraded)
        assert all(item.item in kept or item.sources == ("rules",) for item in slate.items)
        assert Slate.from_json(slate.to_json()) == slate
        assert alone[: len(items)].tolist() == [policy.rules.row_of[item] for item in items]
        assert (alone[len(items) :] == PAD).all(), "the rows alone are those of the slate"
        json.loads(slate.to_json(), parse_constant=pytest.fail)


@settings(max_examples=100, deadline=None)
@given(requests(), st.integers(0, 2**32 - 1))
def test_a_batch_equals_single_calls_exactly(request_, seed):
    rules, dial, trade_off, window, queries, rows, values = request_
    rng = np.random.default_rng(seed)
    policy = compiled(
        rules, trade_off, window, "watch + log1p(watch + 3)", vectors=rng.normal(size=(N, 33)).astype("f4"), dial=dial
    )
    items, table = np.reshape(rows, (len(rows), len(rows[0]))), np.reshape(values, (len(rows), len(rows[0])))
    together = policy.compose(queries, candidates(items, table))
    for index, slate in enumerate(together):
        used = slice(0, int((items[index] != PAD).sum()))
        alone = candidates(items[index : index + 1, used], table[index : index + 1, used])
        assert policy.compose([queries[index]], alone) == [slate]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32) | st.just(math.nan), min_size=1, max_size=N), st.floats(1, 10))
def test_plain_order_is_utility_then_row_with_unknown_last(values, boost):
    rule = {"name": "all", "boost": boost, "where": "true"}
    slate = one_slate(compiled([rule]), list(range(len(values))), values, k=len(values))
    order = sorted(range(len(values)), key=lambda row: (math.isnan(values[row]), -np.nan_to_num(values[row]), row))
    utilities = [item.utility for item in slate.items if not math.isnan(values[int(item.item[1:])])]
    assert utilities == sorted(utilities, reverse=True)
    if len(set(utilities)) == len(set(values) - {math.nan}):
        assert shown(slate) == [f"i{row}" for row in order]
    assert ("value:not-finite" in slate.degraded) == any(math.isnan(value) for value in values)


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(N)), st.integers(1, 3), st.integers(1, N), st.sampled_from([0.3, 1.0]))
def test_a_cap_on_one_category_holds_whenever_it_can(order, limit, top, trade_off):
    rule = {"name": "cap", "cap": limit, "of": "genre", "top": top}
    slate = one_slate(compiled([rule], trade_off, 8), list(order), np.linspace(1, 0, N), k=N)
    counts = Counter(CATALOGUE["genre"][int(item[1:])] for item in shown(slate)[:top])
    attainable = sum(
        number if genre is None else min(number, limit) for genre, number in Counter(CATALOGUE["genre"]).items()
    )
    counts.pop(None, None)
    assert (max(counts.values(), default=0) <= limit) == (attainable >= top)
    assert ("rules:relaxed:cap" in slate.degraded) == (attainable < top)


def test_ties_go_to_the_lower_row():
    assert shown(one_slate(compiled(), [9, 2, 7], [0.5, 0.5, 0.5])) == ["i2", "i7", "i9"]


def test_seen_and_excluded_items_are_backfilled():
    slate = one_slate(compiled(), [0, 1, 2, 3], [0.9, 0.8, 0.7, 0.6], k=2, seen=["i0", "?"], exclude=["i2"])
    assert shown(slate) == ["i1", "i3"]
    assert slate.degraded == ()


def test_without_the_ranker_the_retrieval_score_decides():
    slate = compiled(formula="like").compose([query(k=2)], candidates([[4, 2, 9]]))[0]
    assert shown(slate) == ["i4", "i2"]
    assert slate.degraded == ("rank",)
    assert slate.items[1].utility == -1.0
    assert slate.items[0].probabilities == {}


def test_degradations_are_carried_and_said_once():
    offered = candidates([[4, PAD]], degraded=(("towers", "rank"),))
    assert compiled().compose([query(k=2)], offered)[0].degraded == ("towers", "rank", "candidates:short")


def test_a_boost_lifts_negative_utilities_too():
    recent = int(np.flatnonzero(CATALOGUE["year"] >= 1995)[0])
    old = int(np.flatnonzero(CATALOGUE["year"] < 1995)[0])
    slate = one_slate(compiled([BOOST]), [recent, old], [-0.5, -0.375], k=2)
    assert [(item.item, item.utility) for item in slate.items] == [(f"i{recent}", -0.25), (f"i{old}", -0.375)]
    assert [item.rules for item in slate.items] == [{"boost": "utility x2"}, {}]


def test_a_pin_brings_its_item_or_moves_it():
    policy = compiled([{**PINS[0], "pin": 1}])
    brought = one_slate(policy, [1, 2], [0.5, 0.25])
    assert shown(brought) == ["i1", "i3", "i2"]
    assert (brought.items[1].sources, brought.items[1].utility, brought.items[1].probabilities) == (("rules",), 0.0, {})
    moved = one_slate(policy, [1, 2, 3], [0.5, 0.25, 0.75])
    assert shown(moved) == ["i1", "i3", "i2"]
    assert moved.items[1].utility == 0.75
    assert moved.items[1].sources == SOURCES
    assert [item.rules for item in moved.items] == [{}, {"pin-0": "place 2"}, {}]


def test_a_pin_beyond_the_page_of_another_surface_or_excluded_does_not_count():
    for rules, asked in [
        ([{**PINS[0], "pin": 2}], {}),
        ([{**PINS[0], "when": "surface == 'home'"}], {}),
        ([{**PINS[0], "end": "1970-01-01"}], {}),
        ([{**PINS[0], "start": "1970-01-01T00:00:02"}], {}),
        ([PINS[0]], {"exclude": ["i3"]}),
        ([PINS[0]], {"seen": ["i3"]}),
        ([PINS[0], {"name": "no", "must": "item != 'i3'"}], {}),
    ]:
        assert shown(one_slate(compiled(rules), [1, 2], [0.5, 0.25], k=2, **asked)) == ["i1", "i2"]


def test_pins_move_up_when_items_run_out_and_fill_an_empty_page():
    assert shown(one_slate(compiled(PINS[:3]), [1], [0.5], k=8, surface="home")) == ["i3", "i1", "i8", "i5"]
    empty = compiled(PINS[:3]).compose([query(k=8, surface="home")], candidates(np.zeros((1, 0)), np.zeros((1, 0))))[0]
    assert shown(empty) == ["i3", "i8", "i5"]
    assert empty.degraded == ("candidates:short",)


def test_a_cap_names_the_shown_items_it_moved():
    same = [int(row) for row in np.flatnonzero(CATALOGUE["genre"] == "a")[:2]]
    other = int(np.flatnonzero(CATALOGUE["genre"] == "b")[0])
    rule = {"name": "cap", "cap": 1, "of": "genre", "top": 2}
    slate = one_slate(compiled([rule]), [*same, other], [0.9, 0.8, 0.7])
    assert shown(slate) == [f"i{same[0]}", f"i{other}", f"i{same[1]}"]
    assert [item.rules for item in slate.items] == [{}, {}, {"cap": "held back"}]


def test_padding_and_scores_of_minus_infinity_are_never_shown():
    scores = np.array([[1, -np.inf, 0.5]])
    slate = compiled().compose([query()], candidates([[1, 2, 3]], [[0.1, 0.9, 0.2]], scores))[0]
    assert shown(slate) == ["i3", "i1"]


def test_a_slate_names_what_made_it():
    policy = compiled([BOOST])
    slate = one_slate(policy, [1], [0.5])
    assert (slate.user, slate.request_id, slate.bundle) == ("u", "r", "fingerprint")
    assert slate.rules == RuleSet.parse({"rules": [BOOST]}).hash
    assert slate.items[0].probabilities == {"watch": 0.5, "like": 0.0}


def test_no_queries():
    assert compiled().compose([], candidates(np.zeros((0, 3)))) == []


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="1 queries do not go with"):
        compiled().compose([query()], candidates([[1, 2]], [[0.5]]))
    with pytest.raises(ValueError, match="2 queries do not go with"):
        compiled().compose([query(), query()], candidates([[1, 2]]))


GOOD = {
    "value": {"formula": "a", "weights": {}},
    "diversity": {"kind": "mmr", "trade_off": 1.0, "window": 0, "span": None, "content": 0.0},
    "exploration": {"kind": "none"},
}


def test_document_and_back():
    document = {
        "value": {"formula": "watch + w * like", "weights": {"w": 0.5}},
        "popularity": {"discount": 0.25, "of": "exposure"},
        "diversity": {"kind": "mmr", "trade_off": 0.75, "window": 20, "span": 0.25, "content": 0.5},
        "exploration": {"kind": "epsilon", "rate": 0.125, "first": 3},
        "repeat": {"default": 7.0, "objectives": {"like": "never"}},
    }
    assert Policy.from_document(document).to_document() == document


def test_sections_of_earlier_bundles_are_read():
    earlier = {"kind": "mmr", "trade_off": 0.5, "window": 3, "content": 0.0}
    document = {**GOOD, "diversity": earlier, "exploration": {"kind": "none", "rate": 0.0, "first": 0}}
    read = Policy.from_document(document).to_document()
    assert read["diversity"] == {**earlier, "span": None}
    assert read["exploration"] == {"kind": "none"}


def test_a_bundle_from_before_the_dial_has_it_off_and_repeats_nothing():
    inherited = {
        "popularity": {"discount": 0.0, "of": "events"},
        "repeat": {"default": "never", "objectives": {}},
    }
    assert Policy.from_document(GOOD).to_document() == {**GOOD, **inherited}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "policy is a NoneType"),
        ({"value": {}}, "policy lacks the key 'diversity'"),
        ({"value": {}, "diversty": {}}, "policy has the unknown key 'diversty'; did you mean 'diversity'?"),
        ({**GOOD, "value": {"formula": "a"}}, "policy.value lacks the key 'weights'"),
        ({**GOOD, "diversity": [1]}, "policy.diversity.kind is [1]; choose one of mmr, maxsum, dpp, proportions"),
        ({**GOOD, "diversity": {"kind": "mmr", "trade_off": 1}}, "policy.diversity lacks the key 'window'"),
        ({**GOOD, "diversity": {"kind": "dpp", "windw": 1}}, "the unknown key 'windw'; did you mean 'window'?"),
        ({**GOOD, "popularity": 0.5}, "policy.popularity is 0.5; write a mapping with discount and of"),
        ({**GOOD, "popularity": {"discount": 0.5}}, "policy.popularity lacks the key 'of'"),
        ({**GOOD, "popularity": {"discont": 1, "of": "events"}}, "the unknown key 'discont'; did you mean 'discount'?"),
        ({**GOOD, "popularity": {"discount": 0.5, "of": "event"}}, "popularity.of is 'event'; choose one of events,"),
        ({**GOOD, "popularity": {"discount": -1, "of": "events"}}, "popularity.discount is -1"),
        ({**GOOD, "exploration": {"kind": "epsilon"}}, "policy.exploration lacks the key 'rate'"),
        ({**GOOD, "exploration": {"kind": "some", "rate": 1, "first": 0}}, "exploration.kind is 'some'"),
        ({**GOOD, "exploration": {"kind": "softmax", "rate": 0, "first": 0}}, "exploration.rate is 0"),
    ],
)
def test_a_wrong_document_is_refused(document, message):
    with pytest.raises(ConfigError) as caught:
        Policy.from_document(document)
    assert message in str(caught.value)


def test_vectors_must_fit_the_catalogue():
    with pytest.raises(BundleError, match="16 items"):
        compiled(vectors=VECTORS[:-1])
    broken = VECTORS.copy()
    broken[3, 1] = np.nan
    with pytest.raises(BundleError, match="row 3 is not finite"):
        compiled(vectors=broken)


def test_a_pin_does_not_bring_what_the_user_hides_and_unknown_names_are_flagged():
    policy, rows = compiled(PINS), list(range(8))
    hidden = {"item": ("i3", "gone"), "genre": (CATALOGUE["genre"][5],), "year": ("1990",), "gnre": ("a",)}
    slate = one_slate(policy, rows, [0.5] * 8, k=8, hidden=hidden)
    assert not {"i3", "i5"} & set(shown(slate))
    assert all(CATALOGUE["genre"][int(item[1:])] != CATALOGUE["genre"][5] for item in shown(slate))
    assert [flag for flag in slate.degraded if flag.startswith("hidden:")] == [
        "hidden:item",
        "hidden:year",
        "hidden:gnre",
    ]


@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([0.1, 0.5, 1, 2, 10])), min_size=1, max_size=6))
def test_no_boost_lowers_and_no_bury_raises_a_utility_of_either_sign(pairs):
    values, factors = (np.array([list(one)]) for one in zip(*pairs, strict=True))
    change = scale_utility(values, factors) - values
    assert (change[factors > 1] >= 0).all()
    assert (change[factors < 1] <= 0).all()
    assert (change[factors == 1] == 0).all()


def test_a_negative_objective_puts_down_what_the_user_would_not_want():
    table = np.array([[[0.9, 0.8], [0.5, 0.0], [0.2, 0.6]]], dtype=np.float32)
    for formula, weights in (("watch - 2 * like", {}), ("watch + w * like", {"w": -2})):
        policy = compiled([BOOST], formula=formula, weights=weights)
        slate = policy.compose([query()], replace(candidates([[0, 1, 2]]), probabilities=table))[0]
        assert [item.utility for item in slate.items] == sorted((item.utility for item in slate.items), reverse=True)
        assert shown(slate)[0] == "i1"
        assert slate.items[-1].utility < 0
