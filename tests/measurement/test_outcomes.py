"""Outcomes of a log: the files are a function of its records, however they came and whatever broke off."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from recsys.data.forgotten import FILE, FORGOTTEN, ForgottenList
from recsys.data.pseudonyms import IDENTITY
from recsys.data.sources.log_files import log_file_bytes, read_log_file
from recsys.errors import ConfigError, DataError
from recsys.measurement import outcomes
from recsys.measurement.outcomes import EVENTS, IMPRESSIONS, USERS, MeasuredLog
from recsys.stores.atomic_files import write_atomically
from serving.events.compaction import compact
from serving.events.parquet import FEEDBACK, SCHEMAS


def measured(log, folder, settings):
    one = MeasuredLog(log=log, folder=folder, settings=settings)
    one.update()
    return one


def files(folder):
    """Path -> bytes of all results."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def log_order(log):
    """Files of the log in the order in which the consumer wrote them."""
    return sorted(log.rglob("*.parquet"), key=lambda file: int(file.stem.partition("-")[0]))


@pytest.fixture(scope="module")
def whole(simulated, settings, tmp_path_factory):
    return measured(simulated.log, tmp_path_factory.mktemp("whole"), settings)


@pytest.mark.parametrize("kind", ["impressions", "feedback"])
def test_the_simulated_log_has_the_columns_of_the_consumer(simulated, kind):
    written = pl.read_parquet(log_order(simulated.log / kind)[0])
    known = SCHEMAS[kind]
    assert dict(written.select(*known).schema) == known
    assert all(name.startswith(("action_", "word_")) for name in written.columns if name not in known)
    assert kind == FEEDBACK or written.columns == list(known)


def test_a_log_read_piece_by_piece_gives_the_same_bytes(simulated, settings, whole, tmp_path):
    log, order = tmp_path / "events", log_order(simulated.log)
    assert len(order) > 12
    for number in range(0, len(order), 9):
        for file in order[number : number + 9]:
            target = log / file.relative_to(simulated.log)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        if any((log / "impressions").rglob("*.parquet")):
            measured(log, tmp_path / "measured", settings)
    assert files(tmp_path / "measured") == files(whole.folder)


def test_a_crash_at_any_write_leaves_nothing_that_another_run_does_not_mend(
    simulated, settings, whole, tmp_path, monkeypatch
):
    real = outcomes.write_atomically

    def dying(left):
        def write(path, data, mode):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            real(path, data, mode)

        return write

    for survived in (1, 7, 12):  # tables of days, their credits, and all but the state
        monkeypatch.setattr(outcomes, "write_atomically", dying([None] * survived))
        with pytest.raises(KeyboardInterrupt):
            measured(simulated.log, tmp_path / "measured", settings)
        assert len(files(tmp_path / "measured")) < len(files(whole.folder))
    monkeypatch.setattr(outcomes, "write_atomically", real)
    measured(simulated.log, tmp_path / "measured", settings)
    assert files(tmp_path / "measured") == files(whole.folder)


def test_merged_files_of_the_log_are_not_read_again(simulated, settings, whole, tmp_path):
    log = shutil.copytree(simulated.log, tmp_path / "events")
    shutil.copytree(whole.folder, tmp_path / "measured")
    assert sum(compact(folder, min_files=2) for folder in (log / "feedback").iterdir()) > 0
    assert MeasuredLog(log=log, folder=tmp_path / "measured", settings=settings).update() == 0
    assert files(measured(log, tmp_path / "again", settings).folder) == files(whole.folder)


def test_each_event_is_credited_once_and_only_within_its_window(simulated, settings, whole):
    log = pl.concat([pl.read_parquet(file) for file in log_order(simulated.log / "feedback")], how="diagonal")
    events = log.unique("id", keep="first", maintain_order=True)
    assert events.height < log.height
    clicks = events.filter(pl.col("word_kind") == "click")
    shown = pl.concat([whole.table(IMPRESSIONS, day) for day in sorted(whole.days(IMPRESSIONS))])
    observed = shown.filter(pl.col("credit_click").is_not_null())
    assert observed["shown_at"].max() <= whole.end - settings.outcomes["click"].window_s
    assert shown.filter(pl.col("credit_click").is_null())["shown_at"].min() > observed["shown_at"].max()
    assert observed["credit_click"].sum() == pytest.approx(slow_clicks(observed, clicks))
    assert observed["credit_click"].sum() > 0.9 * clicks.filter(pl.col("timestamp") < whole.end - 3_600).height


def slow_clicks(observed, clicks):
    """Clicks with an impression of their user and item, and of their request where they name one, in the hour before."""
    shown = {}
    for user, item, request, at in observed.select("user", "item", "request_id", "shown_at").iter_rows():
        shown.setdefault((user, item), []).append((at, request))
    limit = observed["shown_at"].max()
    count = 0
    for user, item, request, at in clicks.select("user", "item", "request_id", "timestamp").iter_rows():
        found = [when for when, of in shown.get((user, item), []) if request in (None, of) and 0 <= at - when <= 3_600]
        count += bool(found) and max(found) <= limit
    return count


def test_sums_of_users_add_up_to_the_impressions(settings, whole):
    for day in whole.days(IMPRESSIONS):
        shown, sums = whole.table(IMPRESSIONS, day), whole.table(USERS, day)
        for split in ("all", "surface", "hour", "explored", "popularity", "context.arm"):
            own = sums.filter(pl.col("split") == split)
            assert own["shown"].sum() == shown.height
            assert own["sum:revenue"].sum() == pytest.approx(shown["credit_revenue"].sum())
            top = shown.filter(pl.col("credit_click").is_not_null() & (pl.col("position") < 1))
            assert own["shown:click@1"].sum() == top.height
            assert own["hits:click@1"].sum() == pytest.approx(top["credit_click"].clip(0, 1).sum())
        assert sums.filter(pl.col("split") == "surface")["requests"].sum() == shown["id"].n_unique()


def test_splits_come_from_the_queries_as_they_were_logged(simulated, whole):
    shop, shown = simulated.shop, simulated.visits
    table = pl.concat([whole.table(IMPRESSIONS, day) for day in sorted(whole.days(IMPRESSIONS))])
    rows = table["request_id"].str.strip_prefix("request-").cast(pl.Int64).to_numpy()
    assert table["surface"].to_list() == [["home", "search"][one] for one in shown.surface[rows]]
    assert table["context.arm"].to_list() == [[*shop.arms][one] for one in shop.arm[shown.user[rows]]]
    assert (table["rung"] == "popular").to_list() == shown.outage[rows].tolist()
    assert set(table["new_user"]) == {"yes", "no"}


def test_a_forgotten_user_leaves_the_results(simulated, settings, tmp_path, monkeypatch):
    log = shutil.copytree(simulated.log, tmp_path / "events")
    before = measured(log, tmp_path / "measured", settings)
    (tmp_path / IDENTITY).write_text("ab" * 32)
    (tmp_path / IDENTITY).chmod(0o600)
    ForgottenList(tmp_path / FORGOTTEN, bytes.fromhex("ab" * 32)).add(["u01"], 1e12, ())
    assert (tmp_path / FORGOTTEN / FILE).exists()
    with monkeypatch.context() as crash:
        crash.setattr(MeasuredLog, "_credit", lambda *_: 1 // 0)  # rows are removed, sums are not yet
        with pytest.raises(ZeroDivisionError):
            before.update()
    before.update()
    for kind in (IMPRESSIONS, EVENTS, USERS):
        assert not any((before.table(kind, day)["user"] == "u01").any() for day in before.days(kind))
    assert files(before.folder) == files(measured(log, tmp_path / "anew", settings).folder)


def test_tables_are_encrypted_where_a_key_is_configured(simulated, settings, whole, tmp_path, use_key):
    use_key("key")
    log = tmp_path / "events"
    for file in log_order(simulated.log):
        target = log / file.relative_to(simulated.log)
        write_atomically(target, log_file_bytes(pl.read_parquet(file), target))
    secret = measured(log, tmp_path / "measured", settings)
    file = next((secret.folder / IMPRESSIONS).iterdir())
    assert b"u01" not in file.read_bytes()
    assert read_log_file(file).equals(pl.read_parquet(whole.folder / IMPRESSIONS / file.name))


def test_what_cannot_be_measured_is_refused(simulated, settings, whole, tmp_path):
    with pytest.raises(DataError, match="holds no impressions"):
        measured(tmp_path, tmp_path / "measured", settings)
    with pytest.raises(ConfigError, match="other settings"):
        measured(simulated.log, whole.folder, replace(settings, k=(2,)))
    altered = shutil.copytree(whole.folder, tmp_path / "altered")
    for text, words in (("{", "altered"), (json.dumps({"schema": 0}), "another version")):
        Path(altered, "state.json").write_text(text)
        with pytest.raises(DataError, match=words):
            measured(simulated.log, altered, settings)
