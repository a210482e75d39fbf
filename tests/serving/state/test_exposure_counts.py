"""Shares of what was shown, against a sum over every single showing."""

import asyncio
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Query, Slate, SlateItem
from recsys.errors import ConfigError, ServingError
from recsys.policy.rules import RuleSet
from serving.events.record import Record, StoredRecord
from serving.state.exposure_counts import SLOTS, ExposureColumns, ExposureCounts

VALUES = {
    "genres": {"a": ("war",), "b": ("war", "drama"), "c": ()},
    "studio": {"a": ("x",), "b": ("y",), "c": ("y",)},
    "never": {"z": ("zero",)},
}
STEP_S = 10.0
COUNTS = ExposureCounts(values=lambda: VALUES, half_life_s=8 * STEP_S)


def impression(items, timestamp):
    shown = tuple(SlateItem(item=item, utility=0.0, sources=(), probabilities={}) for item in items)
    slate = Slate(user="u", request_id="r", items=shown, degraded=(), bundle="b", rules="c")
    return Record.impression(Query(user="u", now=timestamp, request_id="r"), slate, "recommend")


IMPRESSIONS = st.lists(
    st.builds(
        impression,
        st.lists(st.sampled_from(["a", "b", "c", "unlisted"]), max_size=4, unique=True),
        st.integers(0, 100 * int(STEP_S)).map(float),
    ),
    max_size=15,
)


def held_after(batches):
    """What the slots hold after the batches."""
    held = dict.fromkeys(COUNTS.keys)
    for batch in batches:
        for key, step in COUNTS.count(batch).items():
            held[key] = step.with_earlier(held[key]).to_bytes()
    return held


def slow_shares(impressions):
    """One showing after the other."""
    shown = [(one.timestamp // STEP_S, item) for one in impressions for item in one.shown_items()]
    found = {}
    for column, values_of in VALUES.items():
        known = [(step, values_of[item]) for step, item in shown if item in values_of]
        newest = max((step for step, item in shown if any(item in one for one in VALUES.values())), default=0)
        weights = [0 if step <= newest - SLOTS else 0.5 ** ((newest - step) / 8) for step, _ in known]
        for value in {value for values in values_of.values() for value in values} if sum(weights) else ():
            has = [weight for weight, (_, values) in zip(weights, known, strict=True) if value in values]
            found[f"{column}={value}"] = math.fsum(has) / math.fsum(weights)
    return found


@given(IMPRESSIONS, st.integers(0, 15), st.randoms(use_true_random=False))
def test_shares_are_those_of_every_single_showing_in_any_order_and_batches(impressions, cut, random):
    shuffled = list(impressions)
    random.shuffle(shuffled)
    held = held_after([impressions[:cut], impressions[cut:]])
    assert held == held_after([[one] for one in shuffled])
    shares, slow = COUNTS.shares(list(held.values())), slow_shares(impressions)
    assert shares.keys() == slow.keys()
    np.testing.assert_allclose([shares[key] for key in slow], list(slow.values()), rtol=1e-12)


def test_a_value_that_was_never_shown_has_nothing_and_half_a_life_later_counts_half():
    shares = COUNTS.shares(list(held_after([[impression(["a"], 0.0), impression(["c"], 8 * STEP_S)]]).values()))
    assert shares == {"genres=war": 1 / 3, "genres=drama": 0, "studio=x": 1 / 3, "studio=y": 2 / 3}


def test_a_store_tells_the_shares_of_its_log(store):
    batch = [
        StoredRecord(sequence=place + 1, record=impression(items, 10.0 * place))
        for place, items in enumerate([["a", "b"], ["c"], ["b", "unlisted"]])
    ]

    async def ask():
        async with store.opened() as states:
            await states.write(batch[:2])
            await states.write(batch)
            return await states.exposure()

    wanted = {key: value for key, value in slow_shares([one.record for one in batch]).items() if "never" not in key}
    assert asyncio.run(ask()) == pytest.approx(wanted)


def test_another_half_life_starts_with_new_counts_and_damaged_counts_are_said():
    assert not set(COUNTS.keys) & set(ExposureCounts(values=dict, half_life_s=81.0).keys)
    assert len(set(COUNTS.keys)) == SLOTS
    with pytest.raises(ServingError, match="the record of exposure counts is damaged"):
        COUNTS.shares([b"?"])
    with pytest.raises(ConfigError, match=r"state\.half_life_s is 0"):
        ExposureCounts(values=dict, half_life_s=0)


def test_only_columns_that_rules_name_are_counted(trained):
    columns = ExposureColumns(trained.bundle)
    assert columns(RuleSet.parse({"rules": []}).rules) == {}
    fair = {"name": "fair", "exposure": "category", "least": 0.1, "most": 0.5}
    items = trained.dataset.items
    assert columns(RuleSet.parse({"rules": [fair, {"name": "dear", "must": "price > 1"}]}).rules) == {
        "category": {
            item: () if value is None else (value,)
            for item, value in zip(items["item"], items["category"], strict=True)
        }
    }
    with pytest.raises(ConfigError, match="name a category or categories column"):
        columns(RuleSet.parse({"rules": [{**fair, "exposure": "price"}]}).rules)


def test_the_items_themselves_are_counted_where_a_rule_or_the_dial_of_the_policy_reads_them(trained):
    itself = {item: (item,) for item in trained.dataset.items["item"]}
    rule = {"name": "nobody-too-much", "exposure": "item", "least": 0, "most": 0.01}
    assert ExposureColumns(trained.bundle)(RuleSet.parse({"rules": [rule]}).rules) == {"item": itself}

    def discounting(name):
        document = trained.bundle.document(name)
        dial = {"popularity": {"discount": 0.1, "of": "exposure"}}
        return {**document, **dial} if name == "policy.yaml" else document

    bundle = SimpleNamespace(document=discounting, file=trained.bundle.file)
    assert ExposureColumns(bundle)(RuleSet.parse({"rules": []}).rules) == {"item": itself}
