"""Logged requests answered again: the same slates, and the cause of each difference that was made on purpose."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recsys.cli.main import app
from recsys.contracts import Query, Slate
from recsys.errors import DataError
from recsys.items.store import Edit, ItemStore
from recsys.measurement.consistency import LogReplay, served_slates
from recsys.pipeline import light, recommend
from recsys.policy.rules.rule_set import RuleSet
from recsys.policy.rules.store import RuleStore
from recsys.stages import load_rules, read_overlay
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

NUM = 30
OTHER_RULES = "rules:\n  - {name: cheap-only, must: price < 20}\n"
LAST_RULES = "rules:\n  - {name: dear-only, must: price >= 20}\n"


@pytest.fixture(scope="module")
def queries(trained: Any) -> list[Query]:
    rows = range(0, trained.dataset.num_events, trained.dataset.num_events // NUM)
    asked = trained.replay.queries(list(rows)[:NUM], k=5)
    return [replace(query, request_id=f"r{number}") for number, query in enumerate(asked)]


def log_of(folder: Path, queries: list[Query], slates: list[Slate], rung: str = "recommend") -> Path:
    records = [Record.impression(query, slate, rung) for query, slate in zip(queries, slates, strict=True)]
    sink = ParquetSink(folder)
    asyncio.run(sink.write([StoredRecord(sequence=at, record=one) for at, one in enumerate(records)]))
    sink.close()
    return folder


def causes(trained: Any, log: Path, **stores: Path) -> dict[str, int]:
    given = {"rules_store": None, "items_store": None} | stores
    return dict(LogReplay(bundle=trained.bundle, **given).of(served_slates(log, 1_000)).causes)


def test_what_was_served_is_answered_again(trained, queries, tmp_path):
    log = log_of(tmp_path / "log", queries, recommend(queries, trained.stages))
    found = LogReplay(bundle=trained.bundle, rules_store=None, items_store=None).of(served_slates(log, 1_000))
    assert dict(found.causes) == {"same": NUM}
    assert found.largest < 1e-5
    assert (found.compared, found.unexplained) == (NUM, 0.0)


def test_a_lighter_answer_is_compared_with_the_cascade_without_a_ranker(trained, queries, tmp_path):
    log = log_of(tmp_path / "log", queries, recommend(queries, light(trained.stages)), rung="recommend_light")
    assert causes(trained, log) == {"same": NUM}


def test_each_cause_is_told_from_the_others(trained, queries, tmp_path):
    served = recommend(queries, trained.stages)
    of_other = [replace(slate, bundle="0" * 16) for slate in served]
    assert causes(trained, log_of(tmp_path / "release", queries, of_other)) == {"release": NUM}
    assert causes(trained, log_of(tmp_path / "fallback", queries, served, rung="popular")) == {"fallback": NUM}
    turned = [replace(slate, items=slate.items[::-1]) for slate in served]
    assert causes(trained, log_of(tmp_path / "turned", queries, turned)) == {"unexplained": NUM}
    equal = [replace(slate, items=tuple(replace(item, utility=1.0) for item in slate.items)) for slate in served]
    assert causes(trained, log_of(tmp_path / "equal", queries, equal)) == {"unexplained": NUM}


def test_places_that_rounding_exchanged_are_numeric(trained, queries, tmp_path):
    def exchanged(slate: Slate) -> Slate:
        first, second, *others = slate.items
        level = replace(first, item=second.item), replace(second, item=first.item)
        return replace(slate, items=(*level, *others))

    log = log_of(tmp_path / "log", queries, [exchanged(slate) for slate in recommend(queries, trained.stages)])
    assert causes(trained, log) == {"numeric": NUM}


def test_earlier_rules_of_the_store_explain_a_slate(trained, queries, tmp_path):
    store = RuleStore(tmp_path / "rules")
    first = store.publish(OTHER_RULES, who="ann", why="sale")
    store.publish(LAST_RULES, who="ann", why="end of the sale", expected=first.version)
    then = (
        *trained.stages[:-1],
        load_rules(trained.bundle, rules=RuleSet.parse({"rules": [{"name": "cheap-only", "must": "price < 20"}]})),
    )
    log = log_of(tmp_path / "log", queries, recommend(queries, then))
    assert causes(trained, log, rules_store=store.folder) == {"rules": NUM}
    assert set(causes(trained, log)) == {"unexplained"}, "the bundle alone does not know those rules"


def test_items_that_changed_since_explain_only_slates_that_have_them(trained, queries, tmp_path):
    served = recommend(queries, trained.stages)
    shown = {item.item for slate in served for item in slate.items}
    other = next(item for item in trained.dataset.items["item"] if item not in shown)
    store = ItemStore(tmp_path / "items")
    store.put(read_overlay(trained.bundle).schema, [Edit(item=other, columns={"price": 3.0})], who="ann")
    turned = [replace(slate, items=slate.items[::-1]) for slate in served]
    found = causes(trained, log_of(tmp_path / "log", queries, turned), items_store=store.folder)
    assert set(found) == {"unexplained"}


def test_a_rule_that_reads_what_everybody_was_shown_explains_a_slate_whose_log_lacks_it(trained, queries, tmp_path):
    store = RuleStore(tmp_path / "rules")
    text = "rules:\n  - {name: few-of-an-item, exposure: item, least: 0, most: 0.003, strength: 30}\n"
    version = store.publish(text, who="ann", why="fair").version
    served = [replace(slate, items=slate.items[::-1], rules=version) for slate in recommend(queries, trained.stages)]
    log = log_of(tmp_path / "log", queries, served)
    assert causes(trained, log, rules_store=store.folder) == {"exposure": NUM}


def test_small_utilities_are_compared_by_their_own_size(trained, queries, tmp_path):
    """Slates whose utilities are a ten-thousandth, of which other items were served, are not the same by rounding."""
    served = recommend(queries, trained.stages)
    moved = [
        replace(slate, items=tuple(replace(item, utility=item.utility * 1.001) for item in slate.items))
        for slate in served
    ]
    assert causes(trained, log_of(tmp_path / "log", queries, moved)) == {"unexplained": NUM}


def test_the_first_of_two_slates_of_one_id_counts(trained, queries, tmp_path):
    served = recommend(queries[:1], trained.stages)
    shorter = [replace(served[0], items=served[0].items[::-1][:2])]
    log = log_of(tmp_path / "log", [*queries[:1], *queries[:1]], [*served, *shorter])
    assert [len(one.items) for one in served_slates(log, 10)] == [5]
    assert causes(trained, log) == {"same": 1}


def test_items_that_were_withdrawn_since_explain_a_slate(trained, queries, tmp_path):
    served = recommend(queries, trained.stages)
    gone = served[0].items[0].item
    store = ItemStore(tmp_path / "items")
    store.put(read_overlay(trained.bundle).schema, [Edit(item=gone, withdrawn=True)], who="ann")
    found = causes(trained, log_of(tmp_path / "log", queries, served), items_store=store.folder)
    showing = sum(any(item.item == gone for item in slate.items) for slate in served)
    assert found["items"] >= showing > 0
    assert set(found) <= {"items", "same"}


def test_the_sample_is_the_same_each_time_and_an_empty_slate_is_one_of_it(trained, queries, tmp_path):
    banned = tuple(trained.dataset.items["item"])
    empty = [replace(query, exclude=banned) for query in queries[:3]]
    log = log_of(tmp_path / "log", empty, recommend(empty, trained.stages))
    assert [slate.items for slate in served_slates(log, 10)] == [()] * 3
    assert causes(trained, log) == {"same": 3}
    assert served_slates(log, 2) == served_slates(log, 10)[:2]


def test_slates_of_another_bundle_alone_are_refused(trained, queries, tmp_path):
    of_other = [replace(slate, bundle="0" * 16) for slate in recommend(queries, trained.stages)]
    log = log_of(tmp_path / "log", queries, of_other)
    with pytest.raises(DataError, match=f"the newest is of {'0' * 16}: give its folder"):
        served_slates(log, 10, bundle=trained.bundle.fingerprint)


def test_a_log_without_impressions_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no impressions"):
        served_slates(tmp_path, 10)


def test_the_command_prints_causes_and_fails_for_what_has_none(trained, queries, tmp_path):
    served = recommend(queries, trained.stages)
    right = log_of(tmp_path / "right", queries, served)
    wrong = log_of(
        tmp_path / "wrong", queries, [served[0], *(replace(one, items=one.items[::-1]) for one in served[1:])]
    )
    asked = ["--bundle", str(trained.bundle.path), "--out", str(tmp_path / "found.json")]
    done = CliRunner().invoke(app, ["consistency", str(right), *asked])
    assert done.exit_code == 0
    assert f"{NUM:,} of {NUM:,} slates compared, 0.00% differ without a known cause" in done.output
    done = CliRunner().invoke(app, ["consistency", str(wrong), *asked])
    assert done.exit_code == 1
    assert "not consistent, for example request" in done.output
    assert CliRunner().invoke(app, ["consistency", str(wrong), *asked, "--limit", "1"]).exit_code == 0
