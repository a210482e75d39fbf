"""Interleaved slates: fair to both policies, with every rule kept, the same for the same request."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compose import candidates, compiled, query

from recsys.errors import ConfigError
from recsys.policy.compose import REFUSED_OVERRIDES
from recsys.policy.interleaving import InterleavedPolicy, team_draft
from recsys.policy.overrides import check_overrides, overridden

N = 8
TEAMS = {"control": {}, "turned": {"weights": {"w": -1.0}}}
BOTH = {"interleave": TEAMS}
CAP = {"name": "cap", "cap": 1, "where": "year >= 2000", "top": 4}
MUST = {"name": "adults", "must": "contains(genres, 'war') == false"}
PUSH = {"name": "push", "boost": 3.0, "where": "year >= 2000"}


def policy(**changed):
    return compiled(**{"formula": "watch * w", "weights": {"w": 1.0}, **changed})


def offered(num, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.array([rng.permutation(N) for _ in range(num)])
    return candidates(rows, rng.random(rows.shape))


def queries(num, overrides, k=4):
    return [query(k, request_id=f"r{number}", policy=overrides) for number in range(num)]


@given(
    st.permutations(range(9)), st.permutations(range(9)), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32)
)
def test_a_draft_takes_turns_in_the_order_of_each_list(first, second, own, other, seed):
    lists = [[str(one) for one in part] for part in (first[:own], second[:other])]
    drafted = team_draft(*lists, np.random.default_rng(seed))
    items = [item for item, _ in drafted]
    assert sorted(items) == sorted({*lists[0], *lists[1]})
    for team in (0, 1):
        picked = [item for item, one in drafted if one == team]
        assert picked == sorted(picked, key=lists[team].index)
    for number, (_, team) in enumerate(drafted):
        before = Counter(one for _, one in drafted[:number])
        left = any(item not in items[:number] for item in lists[1 - team])
        assert before[team] <= before[1 - team] or not left  # nobody picks twice ahead of the other
    best = [next(item for item in part if item not in items[:at]) for at, part in enumerate((lists[drafted[0][1]],))]
    assert items[0] == best[0]


def test_coins_are_fair_and_those_of_the_request():
    found = Counter(team_draft("abc", "xyz", np.random.default_rng(seed))[0][1] for seed in range(2_000))
    assert abs(found[0] - found[1]) < 4 * 2_000**0.5
    base, given = policy(), offered(20)
    once = base.compose(queries(20, BOTH), given)
    assert once == base.compose(queries(20, BOTH), given)
    alone = [base.compose([one], given.at([number]))[0] for number, one in enumerate(queries(20, BOTH))]
    assert once == alone


def test_each_item_is_of_the_team_that_picked_it_with_its_own_reasons():
    base, given = policy(), offered(30)
    turned = overridden(base, TEAMS["turned"])
    plain = [replace(one, policy={}) for one in queries(30, BOTH)]
    slates = {"control": base.compose(plain, given), "turned": turned.compose(plain, given)}
    found = base.compose(queries(30, BOTH), given)
    for number, slate in enumerate(found):
        assert len({one.item for one in slate.items}) == len(slate.items) == 4
        for place in slate.items:
            (own,) = (one for one in slates[place.team][number].items if one.item == place.item)
            assert replace(own, team=place.team, propensity=1.0, explored=False) == place
        assert slate.rules == base.rules.hash
    counts = Counter(place.team for slate in found for place in slate.items)
    assert counts["control"] == counts["turned"] == 60
    np.testing.assert_array_equal(
        base.rows(queries(30, BOTH), given), [[base.rules.row_of[one.item] for one in slate.items] for slate in found]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sets(st.sampled_from(range(4))))
def test_rules_hold_as_in_any_slate(seed, chosen):
    """A cap that either slate keeps could be broken by their mixture; pins belong to nobody."""
    pin = {"name": "pin", "pin": 1, "item": compiled().items[3]}
    rules = [one for number, one in enumerate((MUST, CAP, PUSH, pin)) if number in chosen]
    base, given = policy(rules=rules), offered(6, seed)
    control = base.compose([replace(one, policy={}) for one in queries(6, BOTH)], given)
    for number, slate in enumerate(base.compose(queries(6, BOTH), given)):
        rows = [base.rules.row_of[one.item] for one in slate.items]
        effects = base.rules([query(4)], np.array([rows]))
        assert not effects.banned.any()
        if CAP in rules and not any("cap" in flag for flag in (*slate.degraded, *control[number].degraded)):
            assert effects.holds[0, :, rules.index(CAP)].sum() <= 1
        if pin in rules and control[number].items[1].rank < 0:
            assert (slate.items[1].item, slate.items[1].team) == (pin["item"], None)


def test_exposure_is_read_for_both_arms():
    added = {"name": "even", "exposure": "item", "least": 0.005, "most": 0.02, "strength": 2}
    base = policy(rules=[added], dial=(0.2, "exposure"))
    found = base.variant(BOTH)
    assert isinstance(found, InterleavedPolicy)
    assert set(found.exposure_keys(np.arange(N))) == set(base.exposure_keys(np.arange(N)))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"interleave": {"one": {}}}, "write two names"),
        ({"interleave": [1, 2]}, "write two names"),
        (
            {"interleave": {"a": {}, "b": {"rules": {"without": ["x"]}}}},
            "b changes rules, which two interleaved slates",
        ),
        ({"interleave": {"a": {}, "b": {"interleave": {}}}}, "changes interleave"),
        ({"interleave": {"a": {}, "b": {"divresity": {}}}}, "did you mean 'diversity'"),
        ({"interleave": {"a": {}, "b": {}}, "discout": 1}, "did you mean 'discount'"),
    ],
)
def test_what_cannot_be_interleaved_is_refused(document, message):
    with pytest.raises(ConfigError, match=message):
        check_overrides("policy", document)


def test_arms_that_do_not_fit_leave_the_slate_as_it_is():
    base, given = policy(), offered(1)
    (slate,) = base.compose(queries(1, {"interleave": {"a": {}, "b": {"weights": {"none": 1.0}}}}), given)
    assert REFUSED_OVERRIDES in slate.degraded
    assert all(place.team is None for place in slate.items)
    with pytest.raises(ConfigError, match="no part of one policy"):
        overridden(base, BOTH)
