"""Rules as data: what each kind does to a catalogue, and one sentence for each mistake."""

import numpy as np
import pytest
from slow_twin import objects

import recsys.policy.rules.compiled_rules as compiled_rules
from recsys.contracts import Event, Query
from recsys.errors import ConfigError
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.rules.kinds.exposure import MAX_FACTOR
from recsys.policy.rules.rule_set import MAX_QUOTAS, RuleSet

TYPES = {"year": "number", "genre": "category", "genres": "categories", "regions": "categories", "min_age": "number"}
REQUEST_TYPES = {"user.age": "number", "context.region": "category"}
YAML = """
rules:
  - {name: no-documentaries, must: "not contains(genres, 'Documentary')"}
  - {name: push-recent, boost: 1.2, where: "year >= 1997"}
  - {name: pin-house-film, pin: 0, item: "50", when: "surface == 'home'"}
  - {name: at-most-three-per-genre, cap: 3, of: genres, top: 10}
"""


ITEMS = [
    {
        "item": "50",
        "year": 1999.0,
        "genre": "a",
        "genres": ("Horror", "War", "Horror"),
        "regions": ("eu",),
        "min_age": 16.0,
    },
    {"item": "51", "year": None, "genre": None, "genres": (), "regions": ("eu", "us"), "min_age": None},
    {"item": "52", "year": 1950.0, "genre": "b", "genres": ("Documentary",), "regions": (), "min_age": 0.0},
    {"item": "53", "year": 1997.0, "genre": "a", "genres": ("War", "Documentary"), "regions": ("us",), "min_age": 6.0},
]
CATALOGUE = {name: objects([item[name] for item in ITEMS]) for name in ("item", "genre", "genres", "regions")}
CATALOGUE |= {name: np.array([item[name] for item in ITEMS], dtype=float) for name in ("year", "min_age")}
ROWS = np.arange(4)[None]


def compiled(*rules):
    ruled = RuleSet.parse({"rules": [{"name": f"rule-{place}", **rule} for place, rule in enumerate(rules)]})
    return CompiledRules.compile(ruled, CATALOGUE, TYPES, REQUEST_TYPES)


def ask(**fields):
    return Query(**{"user": "u", "now": 1_700_000_000.0, **fields})  # Tuesday 2023-11-14 22:13:20 UTC


def kept(*rules, **fields):
    return (~compiled(*rules)([ask(**fields)], ROWS).banned[0]).tolist()


def factors(*rules, **fields):
    return compiled(*rules)([ask(**fields)], ROWS).factors[0].tolist()


def test_fresh_items_are_pushed_until_their_budget_of_exposure_is_spent():
    """The caller counts what was shown of them, under a name of its own."""
    rule = {"boost": 3, "where": "year >= 1997", "when": "exposure.fresh < 1000"}
    assert factors(rule, exposure={"fresh": 999.0}) == [3, 1, 1, 3]
    assert factors(rule, exposure={"fresh": 1000.0}) == [1, 1, 1, 1]
    assert factors(rule) == [1, 1, 1, 1], "nobody counts"


@pytest.mark.parametrize(
    "count", [10**400, -(10**400), float("inf"), "3", True], ids=["huge", "less", "inf", "text", "yes"]
)
def test_a_number_of_a_request_that_is_none_is_not_known(count):
    rule = {"boost": 3, "where": "year >= 1997", "when": "exposure.fresh < 1000"}
    assert factors(rule, exposure={"fresh": count}) == [1, 1, 1, 1]


def test_a_must_keeps_the_items_for_which_it_holds():
    assert kept({"must": "not contains(genres, 'Documentary')"}) == [True, False, False, False], "one has no genres"
    assert kept({"must": "not contains(genres, 'Documentary') or missing(genres)"}) == [True, True, False, False]
    assert kept({"must": "year > 1960"}) == [True, False, False, True]


def test_a_must_may_hold_an_item_against_the_request_and_what_is_unknown_does_not_satisfy_it():
    for_age, licensed = {"must": "min_age <= user.age"}, {"must": "contains(regions, context.region)"}
    assert kept(for_age, profile={"age": 6}) == [False, False, True, True]
    assert kept(for_age) == [False] * 4
    assert kept(for_age, profile={"age": "six"}) == [False] * 4
    assert kept(licensed, context={"region": "us"}) == [False, True, False, True]
    assert kept(licensed, for_age, context={"region": "us"}, profile={"age": 6}) == [False, False, False, True]


def test_when_says_for_which_requests():
    rule = {"must": "year > 1960", "when": "user.age < 18 and surface == 'home'"}
    assert kept(rule, profile={"age": 12}, surface="home") == [True, False, False, True]
    assert kept(rule, profile={"age": 12}, surface="search") == [True] * 4
    assert kept(rule, surface="home") == [True] * 4


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("hour == 22 and weekday == 1", True),
        ("num_events >= 2", True),
        ("exposure.fresh < 0.05", True),
        ("exposure.other < 0.05", False),
        ("missing(exposure.other)", True),
        ("true", True),
    ],
)
def test_what_every_request_knows(when, holds):
    asked = {"history": tuple(Event(user="u", item="50", timestamp=0.0) for _ in range(2)), "exposure": {"fresh": 0.01}}
    assert factors({"boost": 2, "where": "true", "when": when}, **asked) == [2.0 if holds else 1.0] * 4


def test_answers_that_are_forgotten_are_found_again(monkeypatch):
    monkeypatch.setattr(compiled_rules, "MAX_CACHED_REQUESTS", 2)
    rules = compiled({"must": "year > 1960", "when": "user.age < 18"})
    ages = [12, 30, 15, 12, 44, 12]
    banned = [rules([ask(profile={"age": age})], ROWS).banned.any() for age in ages]
    assert banned == [age < 18 for age in ages]


@pytest.mark.parametrize(
    ("window", "holds"),
    [
        ({"start": "2023-11-14T22:13:20"}, True),
        ({"start": "2023-11-14T22:13:21Z"}, False),
        ({"end": "2023-11-14T22:13:20"}, False),
        ({"end": "2023-11-14T23:13:21+01:00"}, True),
        ({"start": "2023-11-01", "end": "2023-12-01"}, True),
    ],
)
def test_a_rule_holds_from_its_start_until_before_its_end(window, holds):
    assert factors({"boost": 2, "where": "true", **window}) == [2.0 if holds else 1.0] * 4


def test_boosts_and_buries_multiply():
    rules = [
        {"boost": 1.5, "where": "year >= 1997"},
        {"bury": 3, "where": "genre == 'a'"},
        {"boost": 2, "where": "true"},
    ]
    assert factors(*rules) == pytest.approx([1.0, 2.0, 2.0, 1.0])


def test_exposure_moves_against_what_was_shown():
    rule = {"exposure": "genre", "least": 0.2, "most": 0.4}
    assert factors(rule, exposure={"genre=a": 0.8, "genre=b": 0.1, "genre=none such": 0.9}) == [0.5, 1.0, 2.0, 0.5]
    assert factors(rule, exposure={"genre=a": 0.3, "genre=b": 0.0}) == [1.0, 1.0, MAX_FACTOR, 1.0]
    assert factors({**rule, "exposure": "genres"}, exposure={"genres=War": 0.1, "genres=Documentary": 0.1}) == [
        2,
        1,
        2,
        4,
    ]
    assert factors(rule) == [1.0] * 4


def test_strength_is_the_power_of_what_lies_within_the_bounds():
    rule = {"exposure": "genre", "least": 0.2, "most": 0.4, "strength": 2}
    assert factors(rule, exposure={"genre=a": 0.8, "genre=b": 0.1}) == [0.25, 1.0, 4.0, 0.25]
    steep = {**rule, "strength": 50}
    assert factors(steep, exposure={"genre=a": 0.8, "genre=b": 0.1}) == [2.0**-50, 1.0, 2.0**50, 2.0**-50]
    assert factors(rule, exposure={"genre=b": 0.0}) == [1.0, 1.0, MAX_FACTOR**2, 1.0]
    assert (
        RuleSet.parse({"rules": [{"name": "a", **rule}]}).hash
        != RuleSet.parse({"rules": [{"name": "a", "exposure": "genre", "least": 0.2, "most": 0.4}]}).hash
    )


def test_every_item_can_be_limited_by_itself():
    rule = {"exposure": "item", "least": 0.0, "most": 0.001}
    shown = {**{f"item=x{number}": 0.5 for number in range(5_000)}, "item=50": 0.002, "item=53": 0.0005}
    assert factors(rule, exposure=shown) == [0.5, 1.0, 1.0, 1.0]
    assert factors(rule, impressions={"item=50": 0.002}) == [1.0] * 4, "an item whose id looks like a share"


def test_counters_of_a_batch_are_those_of_each_of_its_queries():
    rules = compiled({"exposure": "genres", "least": 0.1, "most": 0.2}, {"exposure": "item", "least": 0, "most": 0.1})
    same = {"genres=War": 0.5, "item=50": 0.3}
    asked = [ask(exposure=same), ask(), ask(exposure={"genres=War": 0.05}), ask(exposure=same)]
    together = rules(asked, np.tile(ROWS, (4, 1))).factors
    assert together.tolist() == [rules([one], ROWS).factors[0].tolist() for one in asked]
    assert together[0, 0] != together[1, 0] != together[2, 0]


def test_frequencies_burden_what_was_shown_too_often():
    rules = compiled({"frequency": 3}, {"frequency": 2, "where": "genre == 'a'"})
    asked = [ask(impressions={"50": 2, "52": 3, "53": 5, "?": 9}, exposure={"50": 9}), ask()]
    rows = np.tile(ROWS, (2, 1))
    held = rules(asked, rows).holds[..., list(rules.quotas.rules)]
    assert rules.quotas.item_violations(asked, rows, held).tolist() == [[1, 0, 2, 3], [0, 0, 0, 0]]


def test_caps_number_the_values_of_their_column():
    quotas = compiled({"cap": 3, "of": "genres", "top": 10}, {"cap": 1, "of": "genre", "top": 5}).quotas
    assert quotas.of.tolist() == [[0, 1, 3], [-1, -1, -1], [2, -1, 4], [1, 2, 3]]
    assert quotas.group_quota.tolist() == [0, 0, 0, 1, 1]
    assert quotas.bits.tolist() == [2, 1]


def test_no_rules_and_no_columns():
    applied = compiled()([ask()], np.empty((1, 0), dtype=np.int64))
    assert applied.banned.shape == applied.factors.shape == (1, 0)


def test_hash_is_of_the_content_not_of_its_writing():
    again = """{"rules": [
      {"must": "not contains(genres, 'Documentary')", "name": "no-documentaries"},
      {"name": "push-recent", "where": "year >= 1997", "boost": 1.20},
      {"name": "pin-house-film", "item": "50", "when": "surface == 'home'", "pin": 0},
      {"top": 10, "name": "at-most-three-per-genre", "cap": 3, "of": "genres"}]}"""
    assert RuleSet.parse(again).hash == RuleSet.parse(YAML).hash
    assert len(RuleSet.parse(YAML).hash) == 12
    assert RuleSet.parse(YAML.replace("1.2", "1.3")).hash != RuleSet.parse(YAML).hash
    assert RuleSet.parse(RuleSet.parse(YAML).to_document()) == RuleSet.parse(YAML)
    limited = RuleSet.parse(YAML + "limits: {value_lost: 0.25}")
    assert limited.limits.value_lost == 0.25
    assert RuleSet.parse(limited.to_document()) == limited
    assert limited.hash != RuleSet.parse(YAML).hash


def test_a_date_may_be_written_in_many_ways():
    ways = ("2026-11-01", "'2026-11-01'", "2026-11-01T00:00:00Z", "'2026-11-01T02:00+02:00'")
    texts = [f"rules: [{{name: a, boost: 2, where: 'true', start: {way}}}]" for way in ways]
    assert len({RuleSet.parse(text).hash for text in texts}) == 1


def test_read(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(YAML, encoding="utf-8")
    assert RuleSet.read(path) == RuleSet.parse(YAML)
    path.write_text("rules:\n  - {name: a, must: [}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"rules.yaml is not YAML: line 2, column 22: "):
        RuleSet.read(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="cannot be read"):
        RuleSet.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        RuleSet.read(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "write rules: [] for none"),
        ("rules: {a: 1}", "a list"),
        ("rules: []\nrule: []", "with the key rules"),
        ("rules: []\nlimits: {value_lots: 1}", "unknown key 'value_lots'; did you mean 'value_lost'?"),
        ("rules: []\nlimits: {value_lost: 5}", "limits.value_lost is 5; write a number from 0 to 1"),
        ("rules: []\nlimits: 5", "limits is a int"),
        ("rules: [5]", "rules[0] is a int"),
        ("rules: [{name: a}]", "has no kind"),
        ("rules: [{name: a, bost: 2, where: 'true'}]", "has no kind; give exactly one of boost, bury"),
        ("rules: [{name: a, bost: 2, where: 'true'}]", "did you mean 'boost'?"),
        ("rules: [{name: a, must: 'true', boost: 2}]", "has boost and must; give exactly one"),
        ("rules: [{name: a, boost: 2, were: 'true'}]", "unknown key 'were'; did you mean 'where'?"),
        ("rules: [{name: a, boost: 2, 5: 'true'}]", "unknown key '5'"),
        ("rules: [{name: a, boost: 2}]", "lacks the key 'where'"),
        ("rules: [{must: 'true'}]", "lacks the key 'name'"),
        ("rules: [{name: 5, must: 'true'}]", "rules[0].name is 5; write text"),
        ("rules: [{name: '', must: 'true'}]", "rules[0].name is ''"),
        ("rules: [{name: a, boost: 11, where: 'true'}]", "rules[0].boost is 11; write a number from 1 to 10"),
        ("rules: [{name: a, boost: 0.5, where: 'true'}]", "rules[0].boost is 0.5; write a number from 1 to 10"),
        ("rules: [{name: a, bury: .nan, where: 'true'}]", "rules[0].bury is nan"),
        ("rules: [{name: a, boost: .inf, where: 'true'}]", "rules[0].boost is inf"),
        ("rules: [{name: a, boost: true, where: 'true'}]", "rules[0].boost is True"),
        ("rules: [{name: a, pin: 0, item: 50}]", "rules[0].item is 50; write text, in quotes"),
        ("rules: [{name: a, pin: -1, item: '50'}]", "rules[0].pin is -1"),
        ("rules: [{name: a, pin: 1}]", "needs exactly one of the keys 'item' and 'where'"),
        ("rules: [{name: a, pin: 1, item: '50', where: 'true'}]", "needs exactly one of the keys 'item' and 'where'"),
        ("rules: [{name: a, cap: 0, of: genre, top: 3}]", "rules[0].cap is 0"),
        ("rules: [{name: a, cap: 1, of: genre, top: [3]}]", "rules[0].top is a list"),
        ("rules: [{name: a, cap: 1, top: 3}]", "needs exactly one of the keys 'of' and 'where'"),
        ("rules: [{name: a, floor: 4, where: 'true', top: 3}]", "rules[0].floor is 4, but there are only 3 positions"),
        ("rules: [{name: a, exposure: genre, least: 0.5, most: 0.1}]", "rules[0].least is 0.5, more than most"),
        ("rules: [{name: a, exposure: genre, least: 0.5, most: 2}]", "rules[0].most is 2; write a number from 0 to 1"),
        (
            "rules: [{name: a, exposure: genre, least: 0, most: 1, strength: 0}]",
            "rules[0].strength is 0; write a number from 1 to 50",
        ),
        ("rules: [{name: a, must: 'true', start: soon}]", "rules[0].start is 'soon'; write a date such as 2026-11-01"),
        ("rules: [{name: a, must: 'true', start: 2026-02-01, end: 2026-01-01}]", "not before it ends"),
        ("rules: [{name: a, must: 'true'}, {name: a, must: 'true'}]", "two rules are called 'a'"),
        ("rules: [{name: a, must: 'true', start: 0206-11-01}]", "write a year from 1970"),
        ("rules: [{name: a, must: 'true', end: '0001-01-01T00:00+05:00'}]", "write a date such as 2026-11-01"),
        ("rules: [{name: a, must: 'true', must: 'false'}]", "the key 'must' stands there a second time"),
        ("rules: []\nrules: []", "line 2, column 1: the key 'rules' stands there a second time"),
        ("rules: [}", "is not YAML: line 1, column 9"),
        ("rules: 2020-99-99", "is not YAML"),
        (
            {"rules": [{"name": "a", "pin": 0, "item": "99"}]},
            "rule 'a' pins the item '99', which is not in the catalogue",
        ),
        ({"rules": [{"name": "a", "must": "yea > 1"}]}, "rule 'a', must: 'yea > 1', column 1"),
        ({"rules": [{"name": "a", "boost": 2, "where": "yea > 1"}]}, "did you mean 'year'?"),
        ({"rules": [{"name": "a", "must": "user.aeg > 1"}]}, "did you mean 'user.age'?"),
        (
            {"rules": [{"name": "a", "must": "true", "when": "year > 1"}]},
            "rule 'a', when: 'year > 1', column 1: unknown name",
        ),
        (
            {"rules": [{"name": "a", "must": "true", "when": "exposure < 5"}]},
            "unknown name 'exposure'; did you mean 'exposure.*'?",
        ),
        ({"rules": [{"name": "a", "must": "genres == 'War'"}]}, "write contains"),
        ({"rules": [{"name": "a", "must": "year"}]}, "write one that gives a boolean"),
        ({"rules": [{"name": "a", "cap": 1, "of": "genrs", "top": 3}]}, "did you mean 'genres'?"),
        ({"rules": [{"name": "a", "cap": 1, "of": "year", "top": 3}]}, "a number; name a category"),
        ({"rules": [{"name": "a", "exposure": "year", "least": 0, "most": 1}]}, "a number; name a category"),
        ({"rules": [{"name": f"f{n}", "frequency": 1} for n in range(MAX_QUOTAS + 1)]}, "keep at most 60"),
    ],
)
def test_refuses_in_one_sentence(document, message):
    with pytest.raises(ConfigError) as caught:
        CompiledRules.compile(RuleSet.parse(document), CATALOGUE, TYPES, REQUEST_TYPES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
