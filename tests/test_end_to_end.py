"""A trained bundle on the real server: what it answers, what it refuses, and what it says about both."""

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from recsys.bundle import Bundle
from recsys.contracts import Query
from recsys.errors import BundleError, QueryError, ServingError
from recsys.export.releases import served_release
from recsys.pipeline import recommend
from recsys.policy.rules import RuleSet
from recsys.stages import load_rules, read_spec
from serving.triton.client import Client, _translated
from serving.triton.server import TritonServer

GOOD = {"user": "u1", "now": 1.7e9, "k": 5}
BAD = {
    "no JSON": ("{not json", "not one JSON document"),
    "two documents": ("{} {}", "not one JSON document"),
    "no object": ("[1]", "send a JSON object"),
    "NaN": ('{"user": "u1", "now": NaN, "k": 5}', "NaN is not a finite number"),
    "infinity": ('{"user": "u1", "now": 1e999, "k": 5}', "query.now is inf"),
    "no k": (json.dumps(GOOD | {"k": 0}), "query.k is 0; send a whole number from 1 to"),
    "too large a k": (json.dumps(GOOD | {"k": 100_000}), "query.k is 100000"),
    "unknown field": (json.dumps(GOOD | {"usr": "u1"}), "unknown field 'usr'"),
    "no user": (json.dumps({"now": 1.7e9}), "query lacks the field 'user'"),
    "event without an item": (
        json.dumps(GOOD | {"history": [{"timestamp": 1.0}]}),
        "query.history[0] lacks the field 'item'",
    ),
    "text for a number": (json.dumps(GOOD | {"now": "today"}), "query.now is 'today'; send a finite number"),
}


@pytest.fixture(scope="module")
def someone(trained: Any) -> Query:
    """The last moment of a user with a long history."""
    longest = max(trained.replay.rows_of_user, key=len)
    return trained.replay.query(int(longest[-1]), k=20)


def send(server: TritonServer, *documents: str) -> QueryError | ServingError | None:
    """Raw documents as one batch; the error as the client would tell it."""
    rows = np.array([[document.encode()] for document in documents], dtype=object)
    tensor = triton.InferInput("QUERY", list(rows.shape), "BYTES")
    tensor.set_data_from_numpy(rows)
    connection = triton.InferenceServerClient(server.grpc_url)
    try:
        connection.infer("recommend", [tensor])
    except triton.InferenceServerException as error:
        return _translated(error, "recommend", server.grpc_url, 10)
    finally:
        connection.close()
    return None


@pytest.mark.parametrize("case", BAD)
def test_a_bad_query_is_refused_in_one_sentence(server: TritonServer, case: str) -> None:
    document, sentence = BAD[case]
    error = send(server, document)
    assert isinstance(error, QueryError)
    assert sentence in str(error)
    assert "Traceback" not in str(error)
    assert "\n" not in str(error)


def test_a_bad_row_spoils_its_own_batch_only(server: TritonServer, client: Client, someone: Query) -> None:
    before = client.recommend([someone])
    assert isinstance(send(server, json.dumps(GOOD), "{not json"), QueryError)
    assert send(server, json.dumps(GOOD)) is None
    assert client.recommend([someone]) == before
    assert server.unready() == []


def test_a_stranger_gets_a_full_slate_and_the_reasons(client: Client, stranger: Query) -> None:
    (slate,) = client.recommend([stranger])
    assert len(slate.items) == stranger.k
    assert {"history:empty", "profile:age", "profile:segment", "context:device"} <= set(slate.degraded)


def test_all_is_well_when_nothing_is_missing(trained: Any, client: Client) -> None:
    complete = [
        query
        for query in trained.replay.queries(np.arange(-40, 0) + trained.dataset.num_events, k=5)
        if any(event.actions["click"] for event in query.history)
        and {"age", "segment"} <= query.profile.keys()
        and "device" in query.context
    ]
    assert complete
    assert {slate.degraded for slate in client.recommend(complete)} == {()}


def test_what_is_of_the_wrong_kind_or_says_nothing_is_flagged(client: Client, someone: Query) -> None:
    silent = tuple(dataclasses.replace(event, actions={}) for event in someone.history)
    profile = {"age": "30", "segment": 7}
    (slate,) = client.recommend([dataclasses.replace(someone, history=silent, profile=profile, context={"device": 3})])
    assert slate.degraded == ("history:no-objective", "profile:age", "profile:segment", "context:device")


def test_the_light_cascade_says_that_nothing_was_ranked(client: Client, someone: Query) -> None:
    (slate,) = client.recommend([someone], model="recommend_light")
    assert slate.degraded == ("rank",)
    assert slate.items
    assert all(not place.probabilities for place in slate.items)


def test_an_unknown_history_is_said(client: Client, someone: Query) -> None:
    event = {"user": someone.user, "item": "no such item", "timestamp": 1.0}
    query = Query.from_json(json.dumps(json.loads(someone.to_json()) | {"history": [event]}))
    assert "history:unknown" in client.recommend([query])[0].degraded


def test_every_model_has_a_place_for_every_id_that_is_served(trained: Any) -> None:
    """The vocabulary has grown since the ranker's examples were asked for."""
    weights, spec = trained.bundle.arrays("weights.safetensors"), read_spec(trained.bundle)
    (item,) = (column for column in spec.items.columns if column.name == "item")
    place = spec.items.of_kind("category", "categories").index(item)
    for model in ("towers.members.0", "ranker"):
        assert len(weights[f"{model}.item_encoder.embeddings.{place}.weight"]) == item.num_ids


def test_a_slate_names_its_bundle_its_rules_and_its_reasons(trained: Any, client: Client, someone: Query) -> None:
    (slate,) = client.recommend([someone])
    rules = RuleSet.parse(trained.bundle.document("rules.yaml"))
    assert slate.bundle == trained.bundle.fingerprint
    assert slate.rules == rules.hash
    assert slate.user == someone.user
    assert all(place.sources and set(place.probabilities) == {"click", "like", "share", "buy"} for place in slate.items)


def test_seen_and_excluded_items_are_never_shown(trained: Any, client: Client) -> None:
    asked = trained.replay.queries(np.arange(0, trained.dataset.num_events, 90), k=50)
    first = [slate.items[0].item for slate in client.recommend(asked)]
    queries = [replace(query, exclude=(item,)) for query, item in zip(asked, first, strict=True)]
    for query, slate in zip(queries, client.recommend(queries), strict=True):
        assert not {place.item for place in slate.items} & {*query.exclude, *(event.item for event in query.history)}


def test_the_rules_do_what_they_say_and_are_named(trained: Any, client: Client) -> None:
    queries = trained.replay.queries(np.arange(0, trained.dataset.num_events, 300), k=10)
    items = {row["item"]: row for row in trained.dataset.items.iter_rows(named=True)}
    named = set()
    for slate in client.recommend(queries):
        shown = [items[place.item] for place in slate.items]
        categories = [item["category"] for item in shown]
        assert "crime" not in categories
        if "rules:cap-relaxed" not in slate.degraded:
            assert max(categories[:5].count(one) for one in categories[:5]) <= 2
        for place, item in zip(slate.items, shown, strict=True):
            cheap = item["price"] is not None and item["price"] < 10
            assert ("push-the-cheap" in place.rules) == cheap
            named |= set(place.rules)
    assert "push-the-cheap" in named


def test_other_rules_give_other_slates_under_another_hash(trained: Any, someone: Query) -> None:
    retrieve, rank, rules = trained.stages
    unruled = load_rules(trained.bundle, rules=RuleSet.parse({"rules": []}))
    (ruled,), (free,) = (recommend([someone], (retrieve, rank, last)) for last in (rules, unruled))
    assert ruled.rules != free.rules
    assert ruled.bundle == free.bundle
    assert not any(place.rules for place in free.items)


@pytest.fixture
def altered(trained: Any, tmp_path: Path) -> Path:
    """An export with one byte of the vocabularies changed."""
    folder = shutil.copytree(served_release(trained.folder / "serve"), tmp_path / "serve")
    file = folder / "bundle" / "vocabularies.json"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return folder


def test_an_altered_bundle_is_neither_opened_nor_served(altered: Path) -> None:
    file = altered / "bundle" / "vocabularies.json"
    with pytest.raises(BundleError) as refused:
        Bundle.open(altered / "bundle")
    assert str(refused.value).startswith(f"{file} was altered: sha256 ")
    with pytest.raises(ServingError) as failed:
        TritonServer(altered / "models").start()
    assert str(refused.value) in str(failed.value)
