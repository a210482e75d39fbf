"""Overrides of a policy by arms: the same slates as a policy configured so, in batches of any mixture."""

import json
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compose import candidates, compiled, query

from recsys.errors import ConfigError
from recsys.policy.compose import REFUSED_OVERRIDES
from recsys.policy.exploration import EpsilonGreedy
from recsys.policy.overrides import check_overrides, overridden

FORMULA = {"formula": "watch * w", "weights": {"w": 1.0}}
ADULTS = {"name": "adults", "must": "contains(genres, 'war') == false"}
PUSH = {"name": "push", "boost": 3.0, "where": "year >= 2000"}
BURY = {"name": "bury", "bury": 4.0, "where": "year < 2000"}
OVERRIDES = [
    {},
    {"diversity": {"trade_off": 0.3}},
    {"weights": {"w": -1.0}},
    {"discount": 1.5},
    {"exploration": {"kind": "epsilon", "rate": 0.5, "first": 0}},
    {"diversity": {"trade_off": 0.3, "window": 2}, "discount": 0.0},
    {"weights": {"none": 1.0}},
    {"rules": {"add": [BURY], "without": ["push"]}},
    {"rules": {"add": [BURY]}, "diversity": {"trade_off": 0.3}},
]
CONFIGURED = [
    {},
    {"trade_off": 0.3},
    {"weights": {"w": -1.0}},
    {"dial": (1.5, "events")},
    {"explore": EpsilonGreedy(rate=0.5, first=0)},
    {"trade_off": 0.3, "window": 2, "dial": (0.0, "events")},
    {},
    {"rules": [ADULTS, BURY]},
    {"rules": [ADULTS, PUSH, BURY], "trade_off": 0.3},
]


def policy(**changed):
    return compiled(**{**FORMULA, "dial": (0.2, "events"), "trade_off": 0.9, "rules": [ADULTS, PUSH], **changed})


BASE, OWN = policy(), [policy(**changed) for changed in CONFIGURED]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(OVERRIDES) - 1), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_slates_are_those_of_a_policy_so_configured(chosen, seed):
    rng = np.random.default_rng(seed)
    rows = np.array([rng.permutation(8) for _ in chosen])
    offered = candidates(rows, rng.random(rows.shape))
    plain = [query(5, request_id=f"r{number}") for number in range(len(chosen))]
    asked = [query(5, request_id=f"r{number}", policy=OVERRIDES[arm]) for number, arm in enumerate(chosen)]
    for index, (arm, slate) in enumerate(zip(chosen, BASE.compose(asked, offered), strict=True)):
        (expected,) = OWN[arm].compose([plain[index]], offered.at([index]))
        assert slate.items == expected.items
        assert slate.rules == BASE.rules.hash, "the version that is published, by which stores and counters know it"
        assert (REFUSED_OVERRIDES in slate.degraded) == ("none" in OVERRIDES[arm].get("weights", {}))
    shown = BASE.rows(asked, offered)
    for index, arm in enumerate(chosen):
        np.testing.assert_array_equal(shown[index], OWN[arm].rows([plain[index]], offered.at([index]))[0])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "write a mapping"),
        ({"divresity": {}}, "unknown key 'divresity'; did you mean 'diversity'"),
        ({"weights": 3}, r"policy\.weights is 3; write a mapping"),
        ({"weights": {"w": float("nan")}}, "write a finite number"),
        ({"weights": {"w": "much"}}, r"policy\.weights\.w is 'much'"),
        ({"discount": "high"}, r"policy\.discount is 'high'"),
        ({"exploration": {"rate": float("inf")}}, "no plain number"),
        ({"rules": []}, "write a mapping"),
        ({"sources": ["item_item"]}, r"policy\.sources is \['item_item'\]; write a mapping"),
        ({"sources": {"item_item": -1.0}}, r"policy\.sources.*item_item"),
        (
            {"interleave": {"a": {}, "b": {"sources": {"towers": 2.0}}}},
            r"interleave\.b changes sources, which two interleaved slates cannot differ in",
        ),
        ({"rules": {"remove": ["push"]}}, "unknown key 'remove'; write add, without or both"),
        ({"rules": {"without": "push"}}, "write a list of names"),
        ({"rules": {"add": [PUSH] * 21}}, "no list of 20 rules at most"),
        (
            {"rules": {"add": [{"name": "push", "bost": 2.0}]}},
            r"policy\.rules\.add\[0\] has no kind.*did you mean 'boost'",
        ),
    ],
)
def test_what_is_no_override_is_refused_without_a_bundle(document, message):
    with pytest.raises(ConfigError, match=message):
        check_overrides("policy", document)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"weights": {"v": 1.0}}, r"policy\.weights names 'v', which the value formula does not have"),
        ({"discount": 11}, r"^policy.*discount"),
        ({"diversity": {"kind": "dpp"}}, "changes 'kind', which another bundle is needed for"),
        ({"diversity": {"content": 0.5}}, "changes 'content'"),
        ({"diversity": {"trade_off": 2}}, "^policy: diversity.trade_off"),
        ({"exploration": {"kind": "epsilon"}}, "lacks the key"),
        ({"exploration": {"kind": "magic"}}, "choose one of"),
        ({"sources": {"sauce": 2.0}}, r"^policy\.sources names 'sauce', which the bundle does not have"),
        ({"sources": dict.fromkeys(BASE.sources, 0)}, "leaves no source"),
        ({"rules": {"without": ["pusch"]}}, "names 'pusch', which does not serve; did you mean 'push'"),
        ({"rules": {"without": ["adults"]}}, "'adults', which must hold for everybody"),
        ({"rules": {"add": [PUSH]}}, "two rules are called 'push'"),
        ({"rules": {"add": [{**BURY, "where": "yaer < 2000"}]}}, "yaer"),
    ],
)
def test_overrides_that_do_not_fit_the_bundle_are_named(document, message):
    with pytest.raises(ConfigError, match=message):
        overridden(BASE, document)


def test_dates_of_added_rules_become_text_that_an_impression_can_carry():
    written = {"rules": {"add": [{**BURY, "start": date(2026, 11, 1)}]}}
    plain = check_overrides("policy", written)
    assert plain["rules"]["add"][0]["start"] == "2026-11-01T00:00:00Z"
    assert check_overrides("policy", json.loads(json.dumps(plain))) == plain


def test_a_policy_that_was_changed_has_variants_of_its_own():
    assert BASE.variant({"discount": 1.5}) is not None
    changed = policy(explore=EpsilonGreedy(rate=0.5, first=0))
    copied = replace(changed, exploration=BASE.exploration)
    changed.variant({"discount": 1.5})
    assert copied.variant({"discount": 1.5}).exploration is BASE.exploration


def test_a_dial_that_was_off_has_no_shares_to_turn_on():
    with pytest.raises(ConfigError, match=r"a bundle with popularity\.discount 0"):
        overridden(policy(dial=(0.0, "events")), {"discount": 0.5})
