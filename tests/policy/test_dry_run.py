"""Dry runs: known answers of what a change of rules would cost."""

import json
from dataclasses import replace

import numpy as np
import pytest
from slow_twin import CATALOGUE, OBJECTIVES, REQUEST_TYPES, SOURCES, TYPES, VECTORS

from recsys.contracts import CandidateBatch, Query
from recsys.policy.compose import Policy
from recsys.policy.diversity import MaximalMarginalRelevance
from recsys.policy.exploration import EpsilonGreedy
from recsys.policy.popularity import PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules.dry_run import dry_run
from recsys.policy.rules.rule_set import DryRunLimits, RuleSet
from recsys.policy.value import ValueFormula

PLAIN = Policy(
    value=ValueFormula(formula="watch", weights={}),
    popularity=PopularityDial.off(),
    diversity=MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0),
    exploration=EpsilonGreedy(rate=1.0, first=0),
    repeat=Repeat.never(),
)
GROUPS = {"half": [("low",) if row < 2 else ("high",) for row in range(16)]}


def compiled(rules):
    return PLAIN.compile(
        RuleSet.parse({"rules": rules}), CATALOGUE, TYPES, REQUEST_TYPES, VECTORS, OBJECTIVES, SOURCES, "fingerprint"
    )


def asked(users=("u", "v"), values=(0.8, 0.4, 0.2, 0.1), k=2):
    rows = np.tile(np.arange(len(values)), (len(users), 1))
    scores = np.zeros(rows.shape, dtype=np.float32)
    table = np.tile(np.array(values, dtype=np.float32), (len(users), 1))
    queries = [Query(user=user, now=1.0, k=k, profile={"age": 9 if user == "v" else 90}) for user in users]
    return queries, CandidateBatch(
        rows=rows,
        scores=scores,
        source_scores=np.stack([scores] * 2, axis=2),
        degraded=((),) * len(users),
        probabilities=np.stack([table, table], axis=2),
    )


def run(old, new, limits=None, batches=None):
    without = {rule["name"]: compiled([one for one in new if one is not rule]) for rule in new}
    return dry_run(compiled(old), compiled(new), without, batches or [asked()], GROUPS, limits or DryRunLimits())


NO_FIRST = {"name": "no-first", "must": "item != 'i0'"}
NO_SECOND_FOR_V = {"name": "no-second", "must": "item != 'i1'", "when": "user.age < 16"}
DISCOUNT = 1 / np.log2(3)


def test_nothing_changes_between_the_same_rules():
    found = run([NO_FIRST], [NO_FIRST])
    assert (found.slates_changed, found.items_changed, found.value_lost, found.worst) == (0, 0, 0, ())
    assert found.exceeded == ("the rule 'no-first' alone costs 50.0% of the value of what is shown, "
                              "limits.value_lost_by_a_rule allows 5.0%",)  # fmt: skip


def test_known_answers_of_a_rule_that_removes_the_best():
    found = run([], [NO_FIRST])
    before, after = 0.8 + 0.4 * DISCOUNT, 0.4 + 0.2 * DISCOUNT
    assert found.num_slates == 2
    assert found.slates_changed == 1
    assert found.items_changed == 0.5
    assert found.value_lost == pytest.approx((before - after) / before)
    (cost,) = found.rules
    assert (cost.name, cost.slates_changed, cost.items_removed) == ("no-first", 1, 1)
    assert cost.value_lost == pytest.approx(found.value_lost)
    (shift,) = found.shifts
    assert (shift.column, shift.moved) == ("half", 0.5)
    assert shift.largest == (("high", 0.0, 0.5), ("low", 1.0, 0.5))
    assert [one.items_before for one in found.worst] == [("i0", "i1")] * 2
    assert [one.items_after for one in found.worst] == [("i1", "i2")] * 2


def test_each_rule_is_charged_for_its_own():
    found = run([], [NO_FIRST, NO_SECOND_FOR_V])
    costs = {rule.name: rule for rule in found.rules}
    assert costs["no-first"].slates_changed == 1
    assert costs["no-second"].slates_changed == 0.5
    assert costs["no-second"].items_removed == 0.5
    assert [one.user for one in found.worst] == ["v", "u"]


def test_a_boost_is_charged_for_what_it_costs_not_credited_for_its_factor():
    found = run([], [{"name": "third", "boost": 10, "where": "item == 'i2'"}])
    assert found.worst[0].items_after == ("i2", "i0")
    assert found.value_lost > 0


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, ["value_lost", "value_lost_by_a_rule"]),
        ({"value_lost": 0.9, "value_lost_by_a_rule": 0.9}, []),
        ({"value_lost": 0.9, "value_lost_by_a_rule": 0.9, "slates_changed": 0.5}, ["slates_changed"]),
        ({"value_lost": 0.9, "value_lost_by_a_rule": 0.9, "exposure_shift": 0.4}, ["exposure_shift"]),
    ],
)
def test_limits_say_what_they_allow(limits, told):
    exceeded = run([], [NO_FIRST], DryRunLimits(**limits)).exceeded
    assert [sentence.split("limits.")[1].split(" ")[0] for sentence in exceeded] == told


def test_batches_do_not_matter_and_the_report_is_json():
    users = tuple(f"u{number}" for number in range(5))
    together = run([], [NO_FIRST], batches=[asked(users)])
    apart = run([], [NO_FIRST], batches=[asked(users[:2]), asked(users[2:])])
    assert apart == together
    assert json.loads(json.dumps(together.to_document(), allow_nan=False))["num_slates"] == 5


def test_without_the_ranker_the_scores_of_retrieval_are_the_value():
    queries, candidates = asked()
    scores = np.tile(np.array([0.8, 0.4, 0.2, -np.inf], dtype=np.float32), (2, 1))
    unranked = queries, replace(candidates, scores=scores, probabilities=None)
    assert run([], [NO_FIRST], batches=[unranked]).value_lost == pytest.approx(run([], [NO_FIRST]).value_lost)


def test_slates_of_nothing_are_no_gain_where_all_utilities_are_negative():
    found = run([], [{"name": "none", "must": "item == 'i9'"}], batches=[asked(values=(-0.1, -0.2, -0.3, -0.4))])
    assert found.value_lost == 1
    assert found.rules[0].value_lost == 1
