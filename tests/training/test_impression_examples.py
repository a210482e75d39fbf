"""The own event log as examples of the ranker: the logged query and what came of it, as slates of a table would give them."""

import asyncio
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from recsys.content.text import TextVectors
from recsys.contracts import PAD, Event, Slate, SlateItem
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.event_log import EventLog
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import RANK, VALIDATION, GlobalTime, whole
from recsys.errors import DataError
from recsys.evaluation.replay import Replay
from recsys.features.spec import Features
from recsys.training.impressions import impression_examples
from recsys.training.prepare import prepare
from recsys.training.shown import Shown
from recsys.training.slates import Slates, shown_examples
from serving.events.partitions import PartitionSink
from serving.events.record import Record, Stored

OFFERED = np.array([*range(0, 20, 2), PAD, PAD])
COLUMNS = {"position": "position", "propensity": "propensity"}


def retrieve(tensors):
    """Every second item, scored by its row."""
    rows = np.tile(OFFERED, (len(tensors["QUERY"]), 1))
    return {"candidate_rows": rows, "candidate_scores": rows[..., None].astype(np.float32)}


retrieve.sources = SimpleNamespace(total=len(OFFERED))


@pytest.fixture(scope="module")
def prepared():
    """Slates as rows of the interactions, and once more as impressions."""
    dataset = Planted(users=30, items=30, rounds=10, slate=4, seed=0, strength=2.0, effects=tuple(EFFECTS)).load()
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0).splits(dataset)[0]
    features = Features(history_length=6, max_values=3, min_count=2, leave_out=list(COLUMNS))
    one = prepare(dataset, split, features, TextVectors(dim=4, min_documents=1, seed=0))
    return dataclasses.replace(one, dataset=dataclasses.replace(dataset, impressions=impressions_of(one)))


def impressions_of(prepared):
    replay, rows = prepared.replay, Slates.of(prepared, np.ones(len(prepared.replay.users), dtype=bool)).rows
    asked = [query.to_json() for query in replay.queries(rows[:, 0], k=4)]
    told = prepared.dataset.interactions
    frame = pl.concat(
        told[slate[slate != PAD].tolist()].select(
            "user",
            "timestamp",
            pl.lit(f"{number:05}").alias("request"),
            pl.Series("query", [asked[number], *[None] * (np.count_nonzero(slate != PAD) - 1)], dtype=pl.String),
            "item",
            pl.col("position").cast(pl.Int64),
            "propensity",
            pl.Series("labels", replay.labels[slate[slate != PAD]]),
        )
        for number, slate in enumerate(rows)
    )
    return frame.sort("timestamp", "request", maintain_order=True)


def examples(prepared, period=RANK, places=True, most=10**9):
    spec, items = prepared.spec(prepared.split.known(RANK))
    return impression_examples(retrieve, prepared, spec, items, period, places=places, most=most)


def of_tables(prepared, period=RANK):
    spec, items = prepared.spec(prepared.split.known(RANK))
    inside = prepared.split.periods == period
    return shown_examples(retrieve, prepared, spec, items, inside, Shown(**COLUMNS), most=10**9)


@pytest.mark.parametrize("period", [RANK, VALIDATION])
def test_impressions_are_the_same_examples_as_slates_of_a_table(prepared, period):
    found, want = examples(prepared, period), of_tables(prepared, period)
    for name in ("candidate_rows", "candidate_scores", "labels", "positions", "weights"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name), err_msg=name)
    for name, array in want.request.items():
        np.testing.assert_array_equal(found.request[name], array, err_msg=name)


def test_a_few_requests_are_whole(prepared):
    few, everything = examples(prepared, most=7), examples(prepared)
    assert len(few) == 7 < len(everything)
    assert {row.tobytes() for row in few.candidate_rows} <= {row.tobytes() for row in everything.candidate_rows}
    assert examples(prepared, places=False).positions is None


def test_a_period_in_which_nothing_was_shown_is_named(prepared):
    late = prepared.dataset.impressions.filter(pl.col("timestamp") >= prepared.split.cuts[RANK])
    without = dataclasses.replace(prepared, dataset=dataclasses.replace(prepared.dataset, impressions=late))
    with pytest.raises(DataError, match=r"nothing was shown in the period RANK, .*; take data\.history=false"):
        examples(without)
    none = dataclasses.replace(prepared, dataset=dataclasses.replace(prepared.dataset, impressions=None))
    with pytest.raises(DataError, match="nobody logged what was shown; take data=event_log"):
        examples(none)


def shown(id, at, items, user="u"):
    """A record of what was shown."""
    query = Replay(world(), whole(world())).latest(user, now=at, k=len(items))
    placed = tuple(
        SlateItem(item=item, utility=1.0, sources=(), probabilities={}, propensity=1 / (1 + place))
        for place, item in enumerate(items)
    )
    slate = Slate(user=user, request_id=id, items=placed, degraded=(), bundle="b", rules="r")
    return Record.impression(dataclasses.replace(query, request_id=id), slate, "recommend")


def world():
    return Synthetic(users=20, items=20, events=100, seed=0).load()


def clicked(id, item, at, request, **actions):
    return Record.feedback(id, Event(user="u", item=item, timestamp=at, actions=actions, request_id=request))


def loaded(folder, records, wait_s=0.0):
    world().save(folder / "data")
    sink = PartitionSink(folder / "log")
    asyncio.run(sink.write([Stored(sequence=place, record=record) for place, record in enumerate(records)]))
    sink.close()
    description = str(folder / "data" / DESCRIPTION_FILE)
    return EventLog(folder=str(folder / "log"), description=description, history=True, wait_s=wait_s).load()


def test_what_came_of_a_request_is_its_label(tmp_path):
    """Of one answer the objectives, of two the best, of none 0; an answer that names no request is nobody's."""
    dataset = world()
    one, two, three, four = dataset.items["item"].to_list()[:4]
    assert list(dataset.description.objectives) == ["click", "like", "share", "buy"]
    records = [
        shown("first", 1e9, [one, two, three]),
        shown("second", 1e9 + 10, [two, four]),
        shown("empty", 1e9 + 11, []),
        clicked("a", two, 1e9 + 1, "first", click=1.0, like=1.0),
        clicked("b", two, 1e9 + 2, "first", click=1.0, like=0.0, share=0.0),
        clicked("c", three, 1e9 + 3, "first"),
        clicked("d", four, 1e9 + 12, None, click=1.0),
    ]
    found = loaded(tmp_path, [*records, *records[:1]]).impressions
    assert found["request"].to_list() == ["first"] * 3 + ["second"] * 2
    assert found["item"].to_list() == [one, two, three, two, four]
    assert found["position"].to_list() == [0, 1, 2, 0, 1]
    assert found["propensity"].to_list() == [1, 1 / 2, 1 / 3, 1, 1 / 2]
    nothing, best, untold = [0] * 4, [1, 1, 0, np.nan], [np.nan] * 4
    np.testing.assert_array_equal(found["labels"].to_numpy(), [nothing, best, untold, nothing, nothing])
    assert [text is not None for text in found["query"]] == [True, False, False, True, False]
    assert json.loads(found["query"][0])["request_id"] == "first"


def test_what_may_still_be_answered_is_left_out(tmp_path):
    items = world().items["item"].to_list()
    records = [
        shown("old", 1e9, items[:2]),
        shown("new", 1e9 + 50, items[:2]),
        clicked("a", items[0], 1e9 + 100, "new"),
    ]
    kept = loaded(tmp_path, records, wait_s=60.0)
    assert kept.impressions["request"].unique().to_list() == ["old"]
    assert "items shown: 2, of which something came of 0" in kept.notes


def test_a_log_of_feedback_alone_has_no_impressions(tmp_path):
    assert loaded(tmp_path, [clicked("a", world().items["item"][0], 1e9, None)]).impressions is None


def test_a_run_learns_from_what_it_showed(composed, run, tiny, tmp_path):
    """A log of shown slates and of what the world made of them, from the partitions to a bundle."""
    dataset = Synthetic(users=60, items=40, events=1_500, seed=0).load()
    dataset.save(tmp_path / "data")
    rng, sink = np.random.default_rng(0), PartitionSink(tmp_path / "log")
    replay, records = Replay(dataset, whole(dataset)), []
    for row, query in enumerate(replay.queries(np.arange(dataset.num_events), k=4)):
        met = replay.events[row]
        items = [met.item, *rng.choice(dataset.items["item"].to_numpy(), 3)]
        placed = tuple(
            SlateItem(item=item, utility=0.0, sources=(), probabilities={}, propensity=0.5)
            for item in dict.fromkeys(rng.permutation(items).tolist())
        )
        slate = Slate(user=met.user, request_id=f"r{row}", items=placed, degraded=(), bundle="b", rules="r")
        records.append(Record.impression(dataclasses.replace(query, request_id=f"r{row}"), slate, "recommend"))
        records.append(Record.feedback(f"f{row}", dataclasses.replace(met, request_id=f"r{row}")))
    asyncio.run(sink.write([Stored(sequence=place, record=record) for place, record in enumerate(records)]))
    sink.close()
    options = (
        "data=event_log",
        f"data.folder={tmp_path / 'log'}",
        f"data.description={tmp_path / 'data' / DESCRIPTION_FILE}",
        "data.history=false",
        "ranking.shown=impressions",
        "ranking.num_positions=4",
    )
    settings = (option for option in tiny if not option.startswith("data."))
    report, _ = run(composed(tmp_path / "run", *settings, *options))
    assert 0 < report.rows["ranker"]["ndcg@10"] < 1
    assert any("items shown:" in note for note in report.notes)
