"""Rule sets with one planted mistake each: it is found, named, and nothing else is."""

import numpy as np
import pytest
from slow_twin import objects

from recsys.errors import ConfigError
from recsys.policy.rules.lint import CheckedCatalogue, check

NOW = 1_800_000_000.0  # 2027-01-15


CATALOGUE = CheckedCatalogue(
    columns={
        "item": objects(["50", "51", "52", "53"]),
        "year": np.array([1999.0, 1980.0, 1950.0, 1997.0]),
        "genres": objects([("Horror", "War"), ("Comedy",), ("Documentary",), ("War",)]),
        "studio": objects(["Oak", "Elm", "Oak", "Oak"]),
    },
    item_types={"year": "number", "genres": "categories", "studio": "category"},
    request_types={"user.age": "number", "context.device": "category"},
)
GOOD = """\
rules:
  - {name: adults, when: "user.age < 18", must: "not contains(genres, 'Horror')"}
  - name: recent
    boost: 1.2
    where: year >= 1997
  - {name: house, pin: 0, item: "51", when: "hour >= 18", start: 2026-12-01, end: 2027-02-01}
  - {name: genres, cap: 2, of: genres, top: 4}
  - {name: oak, floor: 2, where: "studio == 'Oak'", top: 4}
  - {name: not-thrice, frequency: 3, where: "studio == 'Elm'"}
  - {name: fair, exposure: studio, least: 0.2, most: 0.9}
"""


def told(text):
    return [(one.level, one.rule, one.line, one.message) for one in check(text, CATALOGUE, now=NOW)]


def test_nothing_is_found_where_nothing_is_wrong():
    assert told(GOOD) == []
    assert told("rules: []") == []


MISTAKES = {
    "unknown column": ("year >= 1997", "yeer >= 1997", "error", "recent", 5, "did you mean 'year'?"),
    "unknown value": ("studio == 'Oak'", "studio == 'Oka'", "error", "oak", 8, "the studio 'Oka'; did you mean 'Oak'?"),
    "unknown key": ("boost: 1.2", "bost: 1.2", "error", "recent", 3, "did you mean 'boost'?"),
    "out of range": ("boost: 1.2", "boost: 120", "error", "recent", 4, "boost is 120; write a number from 1 to 10"),
    "wrong type": ("year >= 1997", "year >= '1997'", "error", "recent", 5, "a number cannot be compared with a category"),
    "matches nothing": ("year >= 1997", "year >= 2997", "warning", "recent", 5, "no item of the catalogue meets it"),
    "matches everything": ("year >= 1997", "year >= 197", "warning", "recent", 5, "all 4 items meet it"),
    "shows nothing": ("not contains(genres, 'Horror')", "year < 0", "error", "adults", 2, "nothing could be shown"),
    "expired": ("end: 2027-02-01", "end: 2027-01-01", "warning", "house", 6, "it ended at 2027-01-01T00:00:00Z"),
    "never in the week": ("hour >= 18", "hour >= 24", "error", "house", 6, "it holds at no hour of the week"),
    "ends before it starts": ("start: 2026-12-01", "start: 2027-12-01", "error", "house", 6, "not before it ends"),
    "unknown item": ('item: "51"', 'item: "99"', "error", "house", 6, "pins the item '99', which is not in the catalogue"),
    "when reads the item": ("hour >= 18", "year >= 18", "error", "house", 6, "when: 'year >= 18', column 1: unknown name"),
    "floor above a cap": ("{name: genres, cap: 2, of: genres", "{name: genres, cap: 1, of: studio", "error", "oak", 8,
                          "'genres' allows 1 of these items in the first 4, fewer than 2"),
    "floor above what there is": ("floor: 2", "floor: 4", "error", "oak", 8, "only 3 items meet the condition"),
    "cap of nothing": ("cap: 2", "cap: 4", "warning", "genres", 7, "4 of the first 4 positions caps nothing"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_found_and_named(mistake):
    good, bad, level, rule, line, message = MISTAKES[mistake]
    assert good in GOOD
    found = told(GOOD.replace(good, bad, 1))
    assert len(found) == 1
    assert found[0][:3] == (level, rule, line)
    assert message in found[0][3]


ADDED = {
    "two of one name": ("{name: recent, frequency: 2}", "error", "two rules are called 'recent'"),
    "shadowed pin": ('{name: other, pin: 0, item: "52", when: "hour >= 18"}', "error", "'house' has position 0 already"),
    "pinned twice": ('{name: other, pin: 3, item: "51", when: "hour >= 18"}', "error", "'house' pins '51' already"),
    "contradiction": ('{name: other, bury: 2, where: "year > 1996"}', "error", "it contradicts 'recent'"),
    "said twice": ('{name: other, boost: 2, where: "year > 1996"}', "warning", "the same items as 'recent' once more"),
    "nothing left": ('{name: other, when: "user.age < 18", must: "contains(genres, \'Horror\')"}', "error",
                     "together with 'adults' it leaves no item"),
    "boost of what is removed": ('{name: other, boost: 2, when: "user.age < 18", where: "contains(genres, \'Horror\')"}',
                                 "warning", "'adults' removes every item that meets it"),
    "pin of what is removed": ('{name: other, pin: 2, when: "user.age < 18", item: "50"}', "error", "'adults' removes '50'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", ADDED)
def test_rules_that_hide_or_contradict_each_other_are_named(mistake):
    added, level, message = ADDED[mistake]
    found = told(f"{GOOD}  - {added}\n")
    assert [(one[0], one[2]) for one in found] == [(level, 11)]
    assert message in found[0][3]


def test_rules_that_never_meet_do_not_contradict_each_other():
    later = '{name: other, pin: 0, item: "52", when: "hour >= 18", start: 2027-02-01}'
    assert told(f"{GOOD}  - {later}\n") == []


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file():
    text = GOOD.replace("year >= 1997", "yeer > 1").replace("cap: 2", "cap: 0").replace("floor: 2", "floor: two")
    found = check(text, CATALOGUE, now=NOW)
    assert [one.rule for one in found] == ["recent", "genres", "oak"]
    assert [(one.line, one.column) for one in found] == [(5, 12), (7, 25), (8, 24)]


def test_what_is_no_rule_file_is_refused():
    for text in ("rules: [}", "rule: []", "5"):
        with pytest.raises(ConfigError):
            check(text, CATALOGUE, now=NOW)
