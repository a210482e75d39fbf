"""The reference of a bundle: what is expected follows the hours, and training and serving count the same.

Shapes: G groups, B bins.
"""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from recsys.data.sources.planted import DAY, START
from recsys.errors import BundleError
from recsys.measurement.drift.reference import DOCUMENT, Reference
from recsys.measurement.drift.served import (
    GROUPS,
    STRATA,
    Cells,
    cells_of_requests,
    cells_of_slates,
    document_of,
    kinds_of_requests,
    strata_of,
)
from recsys.measurement.drift.windows import DriftLog
from recsys.pipeline import recommend
from recsys.training.reference import cells_of_rows
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

WEEK = 7 * DAY


def weekly_cells(weeks=10, users=60):
    """Device b on the weekend, a on other days; age is missing every tenth time."""
    times = START + np.arange(0, weeks * WEEK, DAY / 24)
    devices = ["b" if time % WEEK >= 2 * DAY and time % WEEK < 4 * DAY else "a" for time in times]
    ages = [None if number % 10 == 0 else float(number % 7) for number in range(len(times))]
    names = [f"u{number % users}" for number in range(len(times))]
    return Cells(users=names, times=times, columns={"context.device": devices, "profile.age": ages})


KINDS = {"context.device": "category", "profile.age": "number"}


@pytest.fixture(scope="module")
def reference():
    return Reference.fit([(weekly_cells(), KINDS)], 5, ("click",))


def test_the_hours_of_a_window_say_what_is_expected(reference):
    own, cells = reference.columns["context.device"], weekly_cells()
    weekend = np.array([device == "b" for device in cells.columns["context.device"]])
    a, b = (own.column.labels.index(value) for value in "ab")
    everything = own.expected(np.bincount(strata_of(cells.times), minlength=STRATA)).mean(axis=0)
    assert everything[b] == pytest.approx(2 / 7, abs=0.01)
    of_weekend = own.expected(np.bincount(strata_of(cells.times[weekend]), minlength=STRATA)).mean(axis=0)
    of_others = own.expected(np.bincount(strata_of(cells.times[~weekend]), minlength=STRATA)).mean(axis=0)
    assert of_weekend[b] > 0.5 > 0.2 > of_others[b]
    assert of_others[a] > 0.8


def test_a_row_a_group_leaves_that_group_out(reference):
    own = reference.columns["profile.age"]
    even = np.ones(STRATA)
    without = replace(own, groups=own.groups * (np.arange(GROUPS) != 3)[:, None])
    np.testing.assert_allclose(own.expected(even)[3], without.expected(even)[3], rtol=0.02)
    np.testing.assert_allclose(own.expected(even).sum(axis=1), 1.0)


def test_segments_are_the_values_of_categories_with_few_of_them(reference):
    assert reference.segments == ("context.device",)
    ages = reference.columns["profile.age"].segments
    assert set(ages) == {"context.device=a", "context.device=b"}
    assert sum(ages.values()).sum() == len(weekly_cells().users)
    assert not reference.columns["context.device"].segments


def test_a_bundle_keeps_its_reference_and_an_older_one_has_none(trained, tmp_path):
    own = Reference.read(trained.bundle)
    assert set(own.columns) >= {"context.device", "profile.age", "history_length", "utility", "probability.click"}
    assert own.until == trained.replay.now.max()
    older = replace(trained.bundle, path=tmp_path, source=tmp_path)
    with pytest.raises(BundleError, match="has no reference statistics; train it again"):
        Reference.read(older)
    assert trained.bundle.has(DOCUMENT)


def test_requests_of_the_log_and_their_queries_have_the_same_cells(trained):
    """Training reads the length of a history alone; serving counts the events that reach an objective."""
    spec, rows = trained.stages[0].spec, np.arange(0, trained.dataset.num_events, 97)
    names = tuple(kinds_of_requests(spec))
    queries = trained.replay.queries(rows, k=5)
    reached = [replace(query, history=_reaching(query.history, spec)) for query in queries]
    served = cells_of_requests([document_of(query) for query in reached], names, spec.history_length)
    fitted = cells_of_rows(trained.replay, rows, spec, names)
    assert served.columns == fitted.columns
    assert list(served.users) == list(fitted.users)
    assert np.array_equal(served.times, fitted.times)


def _reaching(events, spec):
    actions = {name: np.array([event.actions.get(name, np.nan) for event in events]) for name in spec.actions}
    if not events:
        return ()
    labels = np.nan_to_num(spec.labels(actions, len(events))).max(axis=1)
    return tuple(event for event, label in zip(events, labels, strict=True) if label > 0)


def test_what_is_served_and_logged_is_counted_as_the_reference_counts(trained, tmp_path):
    """Slates that the bundle makes, written by the consumer's own sink, read back by the monitor."""
    rows = np.arange(0, trained.dataset.num_events, trained.dataset.num_events // 50)
    queries = [
        replace(query, request_id=f"r{number}") for number, query in enumerate(trained.replay.queries(rows, k=5))
    ]
    slates = recommend(queries, trained.stages)
    records = [Record.impression(query, slate, "recommend") for query, slate in zip(queries, slates, strict=True)]
    sink = ParquetSink(tmp_path / "events")
    asyncio.run(sink.write([StoredRecord(sequence=at, record=one) for at, one in enumerate(records)]))
    sink.close()
    spec = trained.stages[0].spec
    drift = DriftLog.of(tmp_path / "events", tmp_path, trained.bundle, spec)
    assert drift.update() == len(queries)
    reference = drift.reference
    requests = cells_of_requests(
        [document_of(query) for query in queries], reference.request_columns, spec.history_length
    )
    slate_cells = cells_of_slates(queries, slates, reference.objectives)
    days = (max(query.now for query in queries) - min(query.now for query in queries)) / DAY
    window = drift.window(24 * (int(days) + 2), drift.end)
    for name, own in reference.columns.items():
        cells = requests if name in requests.columns else slate_cells
        expected = np.zeros((GROUPS, own.column.num_bins), dtype=np.int64)
        at, bins = own.column.bins_of(cells.columns[name])
        np.add.at(expected, (cells.groups[at], bins), 1)
        assert np.array_equal(window.counts[name], expected), name
