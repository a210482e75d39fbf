"""Rules as data: known answers, the row-by-row twin, and one sentence for each mistake."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.policy.rules import RuleSet

TYPES = {"year": "number", "genre": "category", "genres": "categories"}
YAML = """
rules:
  - {name: no-documentaries, filter: "contains(genres, 'Documentary')"}
  - {name: push-recent, boost: 1.2, where: "year >= 1997"}
  - {name: pin-house-film, pin: "50", position: 0, surface: home}
  - {name: at-most-three-per-genre, cap: 3, of: genres, top: 10}
"""


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


ITEMS = [
    {"item": "50", "year": 1999.0, "genre": "a", "genres": ("Horror", "War", "Horror")},
    {"item": "51", "year": None, "genre": None, "genres": ()},
    {"item": "52", "year": 1950.0, "genre": "b", "genres": ("Documentary",)},
    {"item": "53", "year": 1997.0, "genre": "a", "genres": ("War", "Documentary")},
]
CATALOGUE = {name: objects([item[name] for item in ITEMS]) for name in ("item", "genre", "genres")}
CATALOGUE["year"] = np.array([item["year"] for item in ITEMS], dtype=float)


def test_known_answers():
    rules = RuleSet.parse(YAML).compile(CATALOGUE, TYPES)
    assert rules.allowed.tolist() == [True, True, False, False]
    assert rules.factors.tolist() == [1.2, 1.0, 1.0, 1.2]
    assert rules.boosts == ("push-recent",)
    assert rules.boosted.tolist() == [[True, False, False, True]]
    assert [(pin.name, pin.row, pin.position, pin.surface) for pin in rules.pins] == [("pin-house-film", 0, 0, "home")]
    cap = rules.caps[0]
    assert (cap.name, cap.cap, cap.top, cap.num_groups) == ("at-most-three-per-genre", 3, 10, 3)
    assert cap.groups.tolist() == [[0, 1], [3, 3], [2, 3], [1, 2]]


def test_no_rules():
    rules = RuleSet.parse("rules: []").compile(CATALOGUE, TYPES)
    assert rules.allowed.all()
    assert (rules.factors == 1).all()
    assert rules.boosted.shape == (0, 4)
    assert rules.pins == rules.caps == ()


def test_a_condition_may_read_the_item_and_be_constant():
    document = {"rules": [{"name": "a", "filter": "item in ('51', '53')"}, {"name": "b", "boost": 2, "where": "true"}]}
    rules = RuleSet.parse(document).compile(CATALOGUE, TYPES)
    assert rules.allowed.tolist() == [True, False, True, False]
    assert rules.factors.tolist() == [2.0] * 4


def test_a_category_can_be_capped():
    document = {"rules": [{"name": "a", "cap": 1, "of": "genre", "top": 5}]}
    cap = RuleSet.parse(document).compile(CATALOGUE, TYPES).caps[0]
    assert cap.groups.tolist() == [[0], [2], [1], [0]]


CONDITIONS = {
    "year >= 1997": lambda item: item["year"] is not None and item["year"] >= 1997,
    "not year >= 1997": lambda item: item["year"] is None or item["year"] < 1997,
    "contains(genres, 'War') or genre == 'b'": lambda item: "War" in item["genres"] or item["genre"] == "b",
    "missing(genre)": lambda item: item["genre"] is None,
    "genre != 'a'": lambda item: item["genre"] not in (None, "a"),
    "item not in ('50', '51')": lambda item: item["item"] not in ("50", "51"),
}


def boost_row_by_row(rules, item, utility):
    """The slow exact twin: None when a filter removes the item, else its boosted utility."""
    factor = 1.0
    for rule in rules:
        if "filter" in rule and CONDITIONS[rule["filter"]](item):
            return None
        if "boost" in rule and CONDITIONS[rule["where"]](item):
            factor *= rule["boost"]
    return utility / factor if utility < 0 else utility * factor


CONDITION = st.sampled_from(list(CONDITIONS))
FILTER = st.builds(lambda text: {"filter": text}, CONDITION)
BOOST = st.builds(lambda text, boost: {"where": text, "boost": boost}, CONDITION, st.floats(0.1, 10))


@given(st.lists(FILTER | BOOST, max_size=5), st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4))
def test_equals_the_row_by_row_twin(entries, utilities):
    rules = [{"name": f"rule-{place}", **entry} for place, entry in enumerate(entries)]
    compiled = RuleSet.parse({"rules": rules}).compile(CATALOGUE, TYPES)
    boosted = compiled.boost(np.array(utilities, dtype=np.float32), np.arange(4))
    got = [float(value) if allowed else None for value, allowed in zip(boosted, compiled.allowed, strict=True)]
    assert got == [boost_row_by_row(rules, item, value) for item, value in zip(ITEMS, utilities, strict=True)]


@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=2).map(sorted), st.floats(0.1, 10))
def test_a_boost_never_inverts_an_order(pair, boost):
    document = {"rules": [{"name": "all", "boost": boost, "where": "true"}]}
    compiled = RuleSet.parse(document).compile(CATALOGUE, TYPES)
    low, high = compiled.boost(np.array(pair), np.array([0, 1])).tolist()
    assert low <= high
    assert (low >= pair[0] and high >= pair[1]) if boost >= 1 else (low <= pair[0] and high <= pair[1])


def test_hash_is_of_the_content_not_of_its_writing():
    again = """{"rules": [
      {"filter": "contains(genres, 'Documentary')", "name": "no-documentaries"},
      {"name": "push-recent", "where": "year >= 1997", "boost": 1.20},
      {"name": "pin-house-film", "pin": "50", "surface": "home", "position": 0},
      {"top": 10, "name": "at-most-three-per-genre", "cap": 3, "of": "genres"}]}"""
    assert RuleSet.parse(again).hash == RuleSet.parse(YAML).hash == RuleSet.parse(YAML).compile(CATALOGUE, TYPES).hash
    assert len(RuleSet.parse(YAML).hash) == 12
    assert RuleSet.parse(YAML.replace("1.2", "1.3")).hash != RuleSet.parse(YAML).hash
    assert RuleSet.parse(RuleSet.parse(YAML).to_document()) == RuleSet.parse(YAML)


def test_read(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(YAML, encoding="utf-8")
    assert RuleSet.read(path) == RuleSet.parse(YAML)
    path.write_text("rules:\n  - {name: a, filter: [}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"rules.yaml is not YAML: line 2, column 24: "):
        RuleSet.read(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="cannot be read"):
        RuleSet.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        RuleSet.read(tmp_path / "absent.yaml")


PIN = {"name": "a", "pin": "50", "position": 0}
OTHER = {"name": "b", "pin": "51", "position": 0}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "write rules: [] for none"),
        ("rules: {a: 1}", "a list"),
        ("rules: []\nrule: []", "with the key rules"),
        ("rules: [5]", "rules[0] is a int"),
        ("rules: [{name: a}]", "has no kind"),
        ("rules: [{name: a, filter: 'true', boost: 2}]", "has filter and boost; give exactly one"),
        ("rules: [{name: a, boost: 2, were: 'true'}]", "unknown key 'were'; did you mean 'where'?"),
        ("rules: [{name: a, boost: 2, 5: 'true'}]", "unknown key '5'"),
        ("rules: [{name: a, boost: 2}]", "lacks the key 'where'"),
        ("rules: [{filter: 'true'}]", "lacks the key 'name'"),
        ("rules: [{name: 5, filter: 'true'}]", "rules[0].name is 5; write text"),
        ("rules: [{name: '', filter: 'true'}]", "rules[0].name is ''"),
        ("rules: [{name: a, boost: 11, where: 'true'}]", "rules[0].boost is 11; write a number from 0.1 to 10"),
        ("rules: [{name: a, boost: .nan, where: 'true'}]", "rules[0].boost is nan"),
        ("rules: [{name: a, boost: true, where: 'true'}]", "rules[0].boost is True"),
        ("rules: [{name: a, pin: 50, position: 0}]", "rules[0].pin is 50; write text, in quotes"),
        ("rules: [{name: a, pin: '50', position: -1}]", "rules[0].position is -1"),
        ("rules: [{name: a, cap: 0, of: genre, top: 3}]", "rules[0].cap is 0"),
        ("rules: [{name: a, cap: 1, of: genre, top: [3]}]", "rules[0].top is a list"),
        ("rules: [{name: a, filter: 'true'}, {name: a, filter: 'true'}]", "two rules are called 'a'"),
        ("rules: [}", "is not YAML: line 1, column 9"),
        ("rules: 2020-99-99", "is not YAML"),
        ({"rules": [PIN, OTHER]}, "'a' and 'b' pin position 0"),
        ({"rules": [PIN, {**OTHER, "surface": "home"}]}, "pin position 0"),
        ({"rules": [PIN, {**OTHER, "pin": "50", "position": 1}]}, "pin item '50'"),
        ({"rules": [{**PIN, "pin": "99"}]}, "rule 'a' pins the item '99', which is not in the catalogue"),
        ({"rules": [{"name": "a", "filter": "yea > 1"}]}, "rule 'a', filter: 'yea > 1', column 1"),
        ({"rules": [{"name": "a", "boost": 2, "where": "yea > 1"}]}, "did you mean 'year'?"),
        ({"rules": [{"name": "a", "filter": "genres == 'War'"}]}, "write contains"),
        ({"rules": [{"name": "a", "filter": "year"}]}, "write one that gives a boolean"),
        ({"rules": [{"name": "a", "cap": 1, "of": "genrs", "top": 3}]}, "did you mean 'genres'?"),
        ({"rules": [{"name": "a", "cap": 1, "of": "year", "top": 3}]}, "a number; name a category"),
    ],
)
def test_refuses_in_one_sentence(document, message):
    with pytest.raises(ConfigError) as caught:
        RuleSet.parse(document).compile(CATALOGUE, TYPES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pins_of_different_surfaces_do_not_collide():
    document = {"rules": [{**PIN, "surface": "home"}, {**OTHER, "surface": "search"}]}
    assert len(RuleSet.parse(document).compile(CATALOGUE, TYPES).pins) == 2


def test_infinite_numbers_in_yaml_are_refused():
    for boost in (math.inf, -math.inf):
        with pytest.raises(ConfigError, match="boost is"):
            RuleSet.parse({"rules": [{"name": "a", "boost": boost, "where": "true"}]})
