"""Facts that `data check` finds, in logs where they are known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.description import Description
from recsys.data.inspection.advice import advise, next_command
from recsys.data.inspection.findings import Findings, find
from recsys.data.inspection.ids import id_variants
from recsys.data.inspection.times import time_facts
from recsys.data.validation import RawTable, validated

DAY = 86_400.0
START = 1_700_006_400.0
"""midnight, UTC"""
NOW = 1_800_000_000.0


def found(
    rows: Sequence[tuple[Any, ...]],
    *,
    items: Mapping[str, list[Any]] | None = None,
    objectives: Mapping[str, str] | None = None,
    order: Any = "time",
    now: float = NOW,
) -> Findings:
    """Findings over rows of (user, item, timestamp, rating)."""
    columns = {"user": pl.String, "item": pl.String, "at": pl.Float64, "rating": pl.Float64}
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    names = {"user": "user", "item": "item"} | ({"timestamp": "at"} if order == "time" else {})
    tables = {"interactions": RawTable(file="events.csv", frame=frame, names=names, separator="|")}
    if items is not None:
        tables["items"] = RawTable(file="items.csv", frame=pl.DataFrame(items), names={"item": "item"}, separator="|")
    described = Description(
        actions=("rating",),
        context={},
        items={} if items is None else {name: "category" for name in items if name != "item"},
        users={},
        objectives=dict(objectives or {"seen": "1", "like": "rating >= 4"}),
        target=next(iter(objectives or {"seen": "1"})),
        title=None,
        order=order,
    )
    dataset = validated(
        name="shop", interactions=tables["interactions"], items=tables.get("items"), users=None, description=described
    )
    return find(tables, dataset, now=now)


def texts(findings: Findings) -> str:
    return "\n".join(f"{one.level}: {one.text}" for one in advise(findings))


def test_rows_users_items_repeats_and_one_time_users_are_counted():
    log = [("a", "x", START, 5.0), ("a", "x", START + 1, 4.0), ("a", "y", START + 2, 1.0), ("b", "x", START, None)]
    findings = found([*log, log[0]])
    (table,) = findings.tables
    assert (table.rows, table.kept) == (5, 4)
    users, items = findings.activity
    assert (users.count, users.once, items.count, items.once) == (2, 1, 2, 1)
    assert users.histogram == (("1", 1), ("2-3", 1))
    assert findings.repeats == 0.25
    like = findings.objectives[1]
    assert (like.reached, like.unknown, like.rate, like.users) == (2, 1, 2 / 3, 1)
    assert "1 rows of the interactions are not used" in texts(findings)


def test_most_users_that_came_once_are_warned_of_with_what_comes_of_it():
    once = [(f"u{index}", f"i{index % 30}", START + index, 3.0) for index in range(70)]
    often = [(f"v{index % 30}", f"i{index % 7}", START + 100 + index, 3.0) for index in range(150)]
    assert "70% of the users (70) came once" in texts(found(once + often))
    assert "came once" not in texts(found(often))


def test_a_crawler_is_far_above_the_others_and_a_busy_person_is_none():
    people = [(f"u{index % 300}", f"i{index % 41}", START + index, 3.0) for index in range(3_000)]
    crawler = [("crawler", f"i{index}", START + index, 3.0) for index in range(1_001)]
    assert found(people + crawler).crawlers == (("crawler", 1_001),)
    assert "'crawler' with 1,001" in texts(found(people + crawler))
    assert found(people + crawler[:900]).crawlers == ()


def test_users_that_are_called_like_nobody_are_named():
    rows = [(f"u{index}", "i", START + index, 3.0) for index in range(300)]
    nobody = [("Guest", "i", START + 400, 3.0), *(("-1", f"i{index}", START + 500, 3.0) for index in range(20))]
    assert found(rows + nobody).nobody == (("-1", 20), ("Guest", 1))
    assert "the user 'Guest' has 1 events" in texts(found(rows + nobody))
    assert found([*rows, ("0", "i", START, 3.0)]).nobody == ()


def test_new_users_and_items_of_the_newest_fifth_are_told_from_known_ones():
    old = [(f"u{index % 8}", f"i{index % 5}", START + index, 3.0) for index in range(80)]
    new = [(f"u{index % 8}" if index < 5 else f"n{index}", "i1", START + 100 + index, 3.0) for index in range(20)]
    assert found(old + new).newcomers == {"user": 0.75, "item": 0.0}
    assert "75% of the newest fifth of the events are of users that no older event knows" in texts(found(old + new))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=5, max_size=40))
def test_newcomers_are_those_of_a_slow_count(pairs):
    rows = [(f"u{user}", f"i{item}", START + index, 3.0) for index, (user, item) in enumerate(pairs)]
    older = len(rows) - max(1, round(0.2 * len(rows)))
    known = {row[0] for row in rows[:older]}
    newest = rows[older:]
    slow = sum(row[0] not in known for row in newest) / len(newest)
    assert found(rows).newcomers["user"] == pytest.approx(slow)  # type: ignore[index]


@pytest.mark.parametrize(
    ("ids", "difference"),
    [
        (["a ", "a", "b"], "blanks"),
        (["Anna", "anna", "b"], "upper and lower case"),
        (["caf\u00e9", "cafe\u0301", "b"], "Unicode form"),
        (["17850.0", "17850", "b"], "a trailing .0"),
        (["007", "7", "b"], "leading zeros"),
    ],
)
def test_ids_that_look_alike_are_found_with_their_difference(ids, difference):
    (variants,) = id_variants("user", pl.Series(ids))
    assert (variants.difference, variants.ids, set(variants.example)) == (difference, 2, set(ids[:2]))


def test_ids_that_look_alike_in_two_tables_and_unknown_ones_are_warned_of():
    rows = [("u", item, START + index, 3.0) for index, item in enumerate(["x", "y", "z"])]
    findings = found(rows, items={"item": ["X", "x", "y", "unused"], "kind": ["a", "b", "a", None]})
    (link,) = findings.links
    assert (link.ids, link.unknown, link.example, link.event_share, link.unused) == (3, 1, "z", 1 / 3, 2)
    assert "item ids differ by upper and lower case alone, for instance 'X' and 'x'" in texts(findings)
    assert "1 of 3 items of the interactions (33% of the events), first 'z', have no row in items.csv" in texts(
        findings
    )
    (kind,) = [one for one in findings.columns if one.table == "items"]
    assert kind.distinct == 2
    assert kind.filled == pytest.approx(3 / 5)  # z has an empty row


def test_rows_without_an_id_are_counted_as_dropped_and_ids_are_compared_as_they_are_read():
    rows = [("u ", "17850", START, 3.0), ("null", "17850", START + 1, 3.0), ("v", "9", START + 2, 3.0)]
    findings = found(rows, items={"item": ["17850.0", "9.0", None], "kind": ["a", "b", "c"]})
    assert [(one.rows, one.kept) for one in findings.tables] == [(3, 2), (3, 2)]
    assert [(one.unknown, one.unused) for one in findings.links] == [(0, 0)]
    assert findings.variants == ()


def test_objectives_that_never_or_always_happen_are_warned_of():
    rows = [(f"u{index}", f"i{index}", START + index, 5.0) for index in range(120)]
    sentences = texts(found(rows, objectives={"seen": "1", "like": "rating >= 4", "hate": "rating < 1"}))
    assert "objective hate (rating < 1) is reached by no event" in sentences
    assert "objective like (rating >= 4) is reached by every event" in sentences
    assert "objective seen" not in sentences


@pytest.mark.parametrize(
    ("times", "resolution"),
    [
        ([0, DAY, 5 * DAY], "days"),
        ([0, 3_600, DAY], "hours"),
        ([60, 600], "minutes"),
        ([1, 2], "seconds"),
        ([0.5, 1], "fractions of a second"),
    ],
)
def test_the_resolution_is_the_coarsest_unit_of_all(times, resolution):
    assert time_facts(pl.Series([START + one for one in times]), NOW).resolution == resolution


def test_range_gap_days_and_hours_are_counted():
    moments = [START + day * DAY + hour * 3_600 for day in (0, 1, 2, 12) for hour in (0, 13)]
    facts = time_facts(pl.Series(moments), NOW)
    assert facts.days == pytest.approx(12 + 13 / 24)
    assert facts.gap == (START + 2 * DAY + 13 * 3_600, 10 * DAY - 13 * 3_600)
    assert facts.bars == (2, 2, 2, *[0] * 9, 2)
    assert (facts.hours[0], facts.hours[13], sum(facts.hours)) == (4, 4, 8)


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=50))
def test_every_event_stands_in_one_bar(times):
    facts = time_facts(pl.Series(sorted(times)), NOW)
    assert sum(facts.bars) == len(times)
    assert len(facts.bars) <= 61
    assert not facts.hours or sum(facts.hours) == len(times)


def test_one_time_the_future_and_holes_are_warned_of():
    same = [(f"u{index}", f"i{index}", START, 3.0) for index in range(60)]
    assert "all events have one time" in texts(found(same))
    later = [(user, item, START + 5 * DAY, rating) for user, item, _, rating in same[:2]]
    sentences = texts(found(same + later, now=START))
    assert "2 events lie in the future" in sentences
    minutes = [(f"u{index}", f"i{index}", START + 60 * index + 30 * DAY * (index > 500), 3.0) for index in range(1_000)]
    assert "no event for 30 days" in texts(found(minutes))
    assert "no event for" not in texts(found(minutes[:400]))
    assert "1970" in texts(found([(user, item, 20_000_000.0, rating) for user, item, _, rating in same]))
    assert "1970" not in texts(found([(user, item, 20_231_114.0, rating) for user, item, _, rating in same]))


@pytest.mark.parametrize(("order", "protocol"), [("user", "leave_one_out"), ("none", "random"), ("file", None)])
def test_the_next_command_names_a_protocol_that_the_log_allows(order, protocol):
    rows = [("u", f"i{index}", 0.0, 3.0) for index in range(5)]
    command = next_command(found(rows, order=order), "shop.yaml")
    assert command.startswith("python train.py data=tables data.description=shop.yaml")
    assert ("protocol" in command) == (protocol is not None)
    assert protocol is None or command.endswith(f"protocol={protocol}")


def test_a_healthy_log_has_no_warning():
    random = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", START + 900 * index + int(random.integers(900)), float(random.integers(1, 6)))
        for index, (user, item) in enumerate(
            zip(random.integers(200, size=3_000), random.permutation(3_000) % 997, strict=True)
        )
    ]
    assert "warning" not in texts(found(rows))
