"""Counts of the log by hour: once each, the same bytes after a crash, and only what the bundle answered.

Shapes: G groups.
"""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recsys.data.simulation.faults import Faults
from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.simulated_log import SimulatedLog
from recsys.data.simulation.visits import reactions, visits
from recsys.data.sources.planted import START
from recsys.errors import DataError
from recsys.features.spec import FeatureSpec, TableSpec
from recsys.measurement.drift import windows
from recsys.measurement.drift.reference import Reference
from recsys.measurement.drift.served import GROUPS, Cells
from recsys.measurement.drift.windows import DEGRADED, HOUR_S, JUDGED, REQUESTS, STALE, DriftLog

KINDS = {"context.device": "category", "profile.age": "number", "history_length": "number"}
SPEC = FeatureSpec(
    items=TableSpec(name="items", columns=()),
    profile=TableSpec(name="profile", columns=()),
    context=TableSpec(name="context", columns=()),
    history_length=4,
    actions={"kind": "word"},
    objectives={"click": "kind == 'click'"},
    target="click",
)
SHOP = SimulatedShop(users=80, items=40, days=3, slate=3, seed=2, activity=(8.0, 2.0), outages=[(1.0, 1.5)])


def write(folder, faults=None, shop=SHOP, **settings):
    shown = visits(shop)
    SimulatedLog(history=4, files_per_day=3, **settings).write(folder, shop, shown, reactions(shop, shown), faults)
    return shown


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift") / "events"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def reference():
    cells = {"context.device": ["d0", "d1", "d2"] * 40, "profile.age": list(np.linspace(-1, 1, 120))}
    users = [f"u{number}" for number in range(120)]
    columns = {**cells, "history_length": [0, 1, 2, 3, 4, 4] * 20}
    return Reference.fit([(Cells(users=users, times=np.full(120, START), columns=columns), KINDS)], 4, ("click",))


def counts_of_log(log, folder, reference, bundle="simulated"):
    return DriftLog(log=log, folder=folder, bundle=bundle, spec=SPEC, reference=reference)


def files_of(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.parquet"))}


def requests_of(log):
    rows = pl.concat([pl.read_parquet(file) for file in sorted((log / "impressions").glob("*/*.parquet"))])
    return rows.filter(pl.col("query").is_not_null())


def test_counts_are_those_of_the_log_found_again_row_by_row(log, reference, tmp_path):
    drift = counts_of_log(log, tmp_path, reference)
    requests = requests_of(log)
    assert drift.update() == requests.height
    first, end = int(START // HOUR_S), drift.end
    window = drift.window(30, end)
    inside = requests.filter((pl.col("timestamp") // HOUR_S) > end - 30)
    assert window.requests == inside.height
    devices = [json.loads(text)["context"]["device"] for text in inside["query"]]
    column = reference.columns["context.device"].column
    counted = dict(zip(column.labels, window.counts["context.device"].sum(axis=0), strict=True))
    assert {name: counted[name] for name in ("d0", "d1", "d2")} == {
        name: devices.count(name) for name in ("d0", "d1", "d2")
    }
    lengths = [len(json.loads(text)["history"]) for text in inside["query"]]
    known = reference.columns["history_length"].column
    assert (
        window.counts["history_length"].sum(axis=0).tolist()
        == np.bincount(known.bins_of(lengths)[1], minlength=known.num_bins).tolist()
    )
    assert sum(window.strata) == inside.height
    whole = drift.window(end - first + 1, end)
    assert whole.requests == requests.height
    by_segment = [whole.counts[f"profile.age@context.device={device}"].sum() for device in ("d0", "d1", "d2")]
    assert sum(by_segment) == requests.height


def test_items_are_counted_as_often_as_they_were_shown(log, reference, tmp_path):
    drift = counts_of_log(log, tmp_path, reference)
    drift.update()
    rows = pl.concat([pl.read_parquet(file) for file in sorted((log / "impressions").glob("*/*.parquet"))])
    expected = dict(rows.group_by("item").len().iter_rows())
    items = drift.window(24 * 4, drift.end).items
    assert items == expected
    assert list(items.values()) == sorted(expected.values(), reverse=True)


def test_read_in_parts_and_after_a_crash_the_files_are_the_same(log, reference, tmp_path, monkeypatch):
    whole = counts_of_log(log, tmp_path / "whole", reference)
    whole.update()
    files = sorted((log / "impressions").glob("*/*.parquet"))
    parts = tmp_path / "parts" / "events"
    crashed, written = counts_of_log(parts, tmp_path / "parts" / "drift", reference), []
    write_file = windows.write_atomically

    def crash(file, *content):
        written.append(file)
        if len(written) in (2, 3):
            raise OSError("no space left")
        write_file(file, *content)

    monkeypatch.setattr(windows, "write_atomically", crash)
    for number, file in enumerate(files):
        copy = parts / file.relative_to(log)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        for feedback in (log / "feedback").glob(f"{file.parent.name}/*.parquet"):
            other = parts / feedback.relative_to(log)
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(feedback.read_bytes())
        try:
            crashed.update()
        except OSError:
            assert number in (1, 2)
    assert crashed.update() == 0
    assert len(written) > 3
    assert files_of(crashed.folder) == files_of(whole.folder)


def test_another_bundle_is_not_counted(log, reference, tmp_path):
    drift = counts_of_log(log, tmp_path, reference, bundle="another")
    assert drift.update() == 0
    days = len(list((log / "impressions").glob("day=*")))
    assert len(drift.days()) == days  # kept as read: a later call does not read these days again
    with pytest.raises(
        DataError, match=r"no request of .* was answered by the bundle another; give the one that serves"
    ):
        _ = drift.end


def test_a_folder_without_impressions_is_refused(reference, tmp_path):
    with pytest.raises(DataError, match="holds no impressions; name the folder that the event log is written to"):
        counts_of_log(tmp_path / "nothing", tmp_path, reference).update()


def test_a_damaged_day_is_named(log, reference, tmp_path):
    drift = counts_of_log(log, tmp_path, reference)
    drift.update()
    file = next(iter(drift.folder.glob("*.parquet")))
    file.write_bytes(b"damaged")
    with pytest.raises(DataError, match=f"{file.name} cannot be read .* it is counted again"):
        drift.window(24 * 4, drift.end)


def test_slates_with_a_flag_are_counted(log, reference, tmp_path):
    """The outage of half a day says so in every slate."""
    drift = counts_of_log(log, tmp_path, reference)
    drift.update()
    flagged = requests_of(log).filter(pl.col("degraded").list.len() > 0)
    assert flagged.height
    window = drift.window(24 * 4, drift.end)
    assert window.counter(DEGRADED).sum() == flagged.height
    assert window.counter(REQUESTS).shape == (GROUPS,)


def test_histories_that_lack_events_of_the_log_are_stale(reference, tmp_path):
    fresh, stale = tmp_path / "fresh" / "events", tmp_path / "stale" / "events"
    shop = replace(SHOP, outages=())
    write(fresh, shop=shop, late=0.0, twice=0.0)
    write(stale, Faults(stale=(0.0, 1.0)), shop=shop, late=0.0, twice=0.0)
    found = {}
    for folder in (fresh, stale):
        drift = counts_of_log(folder, folder.parent / "drift", reference)
        drift.update()
        window = drift.window(24 * 4, drift.end)
        found[folder.parent.name] = (window.counter(STALE).sum(), window.counter(JUDGED).sum())
    assert found["fresh"][0] <= 0.01 * found["fresh"][1]
    assert found["stale"][0] > 0.9 * found["stale"][1] > 50
