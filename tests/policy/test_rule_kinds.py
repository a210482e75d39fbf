"""The contract of rule kinds: every kind, ours and one that is installed."""

import re
from dataclasses import MISSING, fields

import numpy as np
import pytest
import yaml
from slow_twin import objects

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.policy.rules import kinds
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.rules.effects import AtLeast, AtMost, QueryBan
from recsys.policy.rules.kinds import rule_kinds
from recsys.policy.rules.rule_set import RuleSet, parse_rule

KINDS = rule_kinds()
TYPES = {
    **dict.fromkeys(["regions", "genres"], "categories"),
    **dict.fromkeys(["section", "studio"], "category"),
    **dict.fromkeys(["year", "popularity", "published"], "number"),
}
N = 6
CATALOGUE = {
    "item": objects([f"{50 + row}" for row in range(N)]),
    "regions": objects([("eu",), (), ("us", "eu"), ("us",), ("eu",), ()]),
    "genres": objects([("War",), ("Comedy",), (), ("War", "Comedy"), ("Art",), ("Art",)]),
    "section": objects(["news", "sports", "news", None, "news", "sports"]),
    "studio": objects(["oak", "elm", "oak", "oak", None, "elm"]),
    "year": np.array([1999.0, 1950.0, np.nan, 1997.0, 1980.0, 2000.0]),
    "popularity": np.array([1.0, np.nan, 3.0, np.nan, 5.0, 6.0]),
    "published": np.array([1e9, 1e9 - 86_400, np.nan, 1e9 + 86_400, 1e9 - 9e6, 1e9 - 43_200]),
}
NOW = 1_795_000_000.0  # 2026-11-18
QUERIES = [
    Query(user="a", now=NOW, context={"region": "eu"}, impressions={"50": 4}, exposure={"studio=oak": 0.9}),
    Query(user="b", now=1e9, context={"region": "us"}, exposure={"studio=elm": 0.01}),
    Query(user="c", now=NOW),
]


def example(kind):
    """The rule in the docstring of a kind."""
    (text,) = re.findall(r"^\{.*?\}(?= or|$)", KINDS[kind].__doc__, re.MULTILINE)[:1]
    return yaml.safe_load(text)


def compiled(*documents):
    return CompiledRules.compile(
        RuleSet.parse({"rules": list(documents)}), CATALOGUE, TYPES, {"context.region": "category"}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_its_example_is_a_rule_and_its_document_gives_it_again(kind):
    rules = RuleSet.parse({"rules": [example(kind)]})
    assert type(rules.rules[0]) is KINDS[kind]
    again = RuleSet.parse(rules.to_document())
    assert again == rules
    assert again.hash == rules.hash


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_are_refused_by_their_key(kind):
    for one in fields(KINDS[kind]):
        if one.default is MISSING and one.name != kind:
            with pytest.raises(ConfigError, match=rf"rules\[3\] lacks the key '{one.name}'"):
                parse_rule("rules[3]", {key: value for key, value in example(kind).items() if key != one.name})
    with pytest.raises(ConfigError, match=rf"rules\[3\].{kind} is a list; write"):
        parse_rule("rules[3]", {**example(kind), kind: [1]})
    with pytest.raises(ConfigError, match=r"rules\[3\] has the unknown key 'wen'; did you mean 'when'"):
        parse_rule("rules[3]", {**example(kind), "wen": "hour > 3"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_alone_has_the_effects_that_it_has_in_a_batch(kind):
    rules, rows = compiled(example(kind)), np.arange(N)[None]
    together = rules(QUERIES, np.tile(rows, (len(QUERIES), 1)))
    for row, query in enumerate(QUERIES):
        alone = rules([query], rows)
        for part in ("active", "holds", "banned", "factors"):
            np.testing.assert_array_equal(getattr(alone, part)[0], getattr(together, part)[row])


@pytest.mark.parametrize("kind", KINDS)
def test_before_its_start_it_does_nothing(kind):
    rules = compiled({**example(kind), "start": "2030-01-01", "end": "2031-01-01"})
    found = rules(QUERIES, np.tile(np.arange(N), (len(QUERIES), 1)))
    assert not found.active.any()
    assert not found.banned.any()
    assert (found.factors == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_relaxed_is_a_quota_and_nothing_else_is(kind):
    (effect,) = compiled(example(kind)).effects
    assert isinstance(effect, AtMost | AtLeast | QueryBan) == KINDS[kind].relaxable


def test_news_fade_by_half_a_half_life_to_a_tenth():
    rules = compiled({"name": "old", "fade": 1, "by": "published", "where": "section == 'news' or section == 'sports'"})
    found = rules([Query(user="u", now=1e9)], np.arange(N)[None]).factors[0]
    # of age 0, a day, unknown, the future and no section, 104 days, half a day
    np.testing.assert_allclose(found, [1, 0.5, 1, 1, 0.1, 0.5**0.5])


def test_what_fades_by_no_number_is_refused():
    with pytest.raises(
        ConfigError, match="rule 'old' fades by 'studio'; name a number column: year, popularity, published"
    ):
        compiled({"name": "old", "fade": 1, "by": "studio"})


class _Point:
    """An entry point of another package."""

    value = "my_shop.fade:Fade"

    def __init__(self, loaded):
        self.loaded = loaded

    def load(self):
        return self.loaded


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (dict, "my_shop.fade:Fade' of recsys.rule_kinds is no kind of rules; give a Rule class"),
        (type("Fade", (KINDS["fade"],), {}), "my_shop.fade:Fade' of recsys.rule_kinds has the kind 'fade'; rename it"),
    ],
)
def test_an_installed_kind_that_is_none_is_refused_by_its_name(monkeypatch, loaded, message):
    monkeypatch.setattr(kinds, "entry_points", lambda group: [_Point(loaded)])
    with pytest.raises(ConfigError, match=re.escape(message)):
        rule_kinds.__wrapped__()
