"""The own event log as examples of the ranker: the logged query and what came of it, as slates of a table would give them."""

import asyncio
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hydra.utils import instantiate
from safetensors.numpy import load_file

from recsys.content.text import TextVectors
from recsys.contracts import PAD, Event, Slate, SlateItem
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.event_log import EventLogSource
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import RANK, VALIDATION, GlobalTime, whole
from recsys.errors import DataError
from recsys.features.spec import Features
from recsys.replay.replay import Replay
from recsys.training.impressions import impression_examples
from recsys.training.prepare import prepare
from recsys.training.slate_source import SlateSource
from recsys.training.slates import Slates, shown_examples
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

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
    split = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(dataset)[0]
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
            pl.col("timestamp").alias("known_at"),
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


def examples(prepared, period=RANK, weighed=True, most=10**9):
    spec, items = prepared.spec(prepared.split.known(RANK))
    return impression_examples(retrieve, prepared, spec, items, period, weighed=weighed, most=most)


def with_impressions(prepared, frame):
    return dataclasses.replace(prepared, dataset=dataclasses.replace(prepared.dataset, impressions=frame))


def of_tables(prepared, period=RANK):
    spec, items = prepared.spec(prepared.split.known(RANK))
    inside = prepared.split.periods == period
    return shown_examples(retrieve, prepared, spec, items, inside, SlateSource(**COLUMNS), most=10**9)


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
    assert examples(prepared, weighed=False).weights is None


def test_what_may_be_answered_after_the_period_is_not_learnt_in_it(prepared):
    """Else the ranker would know, in RANK, what came of it in VALIDATION."""
    end, frame = prepared.split.cuts[RANK], prepared.dataset.impressions
    late = frame["timestamp"].filter(frame["timestamp"] < end).unique().sort()[-5]
    waiting = frame.with_columns(pl.col("known_at") + (end - late))
    found = examples(with_impressions(prepared, waiting))
    requests = frame.filter((pl.col("timestamp") >= prepared.split.cuts[RANK - 1]) & (pl.col("timestamp") <= late))
    assert 0 < len(found) == requests["request"].n_unique() < len(examples(prepared))


def test_a_chance_that_is_none_is_said(prepared):
    never = prepared.dataset.impressions.with_columns(propensity=pl.lit(0.0))
    with pytest.raises(DataError, match="propensity holds numbers outside"):
        examples(with_impressions(prepared, never))


def test_a_period_in_which_nothing_was_shown_is_named(prepared):
    late = prepared.dataset.impressions.filter(pl.col("timestamp") >= prepared.split.cuts[RANK])
    with pytest.raises(
        DataError, match=r"no impression with an outcome lies in the period RANK, .*; take data\.history=false"
    ):
        examples(with_impressions(prepared, late))
    for nothing in (None, late.clear()):
        with pytest.raises(DataError, match="no impression was logged, or no outcome of one is known yet"):
            examples(with_impressions(prepared, nothing))


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


def loaded(folder, records, wait_s=10.0):
    world().save(folder / "data")
    sink = ParquetSink(folder / "log")
    asyncio.run(sink.write([StoredRecord(sequence=place, record=record) for place, record in enumerate(records)]))
    sink.close()
    description = str(folder / "data" / DESCRIPTION_FILE)
    return EventLogSource(folder=str(folder / "log"), description=description, history=True, wait_s=wait_s).load()


def test_what_came_of_a_request_is_its_label(tmp_path):
    """Of one answer the objectives, of two the best, of none 0; an answer that names no request is nobody's."""
    dataset = world()
    one, two, three, four = dataset.items["item"].to_list()[:4]
    assert list(dataset.description.objectives) == ["click", "like", "share", "buy"]
    records = [
        shown("first", 1e9, [one, two, three]),
        shown("second", 1e9 + 10, [two, four]),
        shown("empty", 1e9 + 25, []),
        clicked("a", two, 1e9 + 1, "first", click=1.0, like=1.0),
        clicked("b", two, 1e9 + 2, "first", click=1.0, like=0.0, share=0.0),
        clicked("c", three, 1e9 + 3, "first"),
        clicked("d", four, 1e9 + 12, None, click=1.0),
        clicked("e", one, 1e9 + 11, "first", click=1.0),  # too late
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
        *(shown(f"at {at}", 1e9 + at, items[:2]) for at in (0, 50, 100)),
        clicked("a", items[0], 1e9 + 60, "at 50"),
        clicked("b", items[0], 1e9 + 10_000, "at 0"),  # a clock that is fast makes nothing known
    ]
    kept = loaded(tmp_path, records, wait_s=60.0)
    assert kept.impressions["request"].unique().to_list() == ["at 0"]
    assert "items shown: 2, of which something came of 0" in kept.notes


def test_of_two_requests_of_one_id_the_first_counts(tmp_path):
    items = world().items["item"].to_list()
    mixed = [
        shown("twice", 1e9 + 5, items[3:8]),
        shown("between", 1e9 + 2, items[:1]),
        shown("twice", 1e9, items[:3]),
        shown("end", 1e9 + 99, []),
        clicked("a", items[0], 1e9, None),
    ]
    found = loaded(tmp_path, mixed).impressions
    assert found["item"].to_list() == items[:3] + items[:1]
    assert found["request"].to_list() == ["twice"] * 3 + ["between"]
    assert found["query"].is_not_null().to_list() == [True, False, False, True]


def test_a_log_of_feedback_alone_has_no_impressions(tmp_path):
    assert loaded(tmp_path, [clicked("a", world().items["item"][0], 1e9, None)]).impressions is None


def test_a_run_learns_from_what_it_showed(composed, run, tiny, tmp_path):
    """A log of shown slates and of what the world made of them, from the partitions to a bundle."""
    dataset = Synthetic(users=60, items=40, events=1_500, seed=0).load()
    dataset.save(tmp_path / "data")
    rng, sink = np.random.default_rng(0), ParquetSink(tmp_path / "log")
    replay, records = Replay(dataset, whole(dataset)), []
    for row, query in enumerate(replay.queries(np.arange(dataset.num_events), k=4)):
        met = replay.events[row]
        items = [met.item, *rng.choice(dataset.items["item"].to_numpy(), 3)]
        placed = tuple(
            SlateItem(item=item, utility=0.0, sources=(), probabilities={}, propensity=0.2 + 0.1 * rng.integers(5))
            for item in dict.fromkeys(rng.permutation(items).tolist())
        )
        slate = Slate(user=met.user, request_id=f"r{row}", items=placed, degraded=(), bundle="b", rules="r")
        records.append(Record.impression(dataclasses.replace(query, request_id=f"r{row}"), slate, "recommend"))
        records.append(Record.feedback(f"f{row}", dataclasses.replace(met, request_id=f"r{row}")))
    asyncio.run(sink.write([StoredRecord(sequence=place, record=record) for place, record in enumerate(records)]))
    sink.close()
    options = (
        "data=event_log",
        f"data.folder={tmp_path / 'log'}",
        f"data.description={tmp_path / 'data' / DESCRIPTION_FILE}",
        "data.history=false",
        "data.wait_s=0",
    )
    settings = [option for option in tiny if not option.startswith("data.")]
    places = []
    for shown_as in ("impressions", "weighed_impressions"):
        learnt = (f"ranking.sampling.shown={shown_as}", "ranking.num_positions=4")
        report, bundle = run(composed(tmp_path / shown_as, *settings, *options, *learnt))
        assert 0 < report.rows["ranker"]["ndcg@10"] < 1
        places.append(load_file(bundle.path / "weights.safetensors")["ranker.positions.weight"])
    assert all(one.any() for one in places), "only what was shown has places"
    assert not np.array_equal(*places)
    with pytest.raises(Exception, match=r"needs ranking\.num_positions"):
        instantiate(composed(tmp_path / "none", *settings, *options, "ranking.sampling.shown=impressions").ranking)
