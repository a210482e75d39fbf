"""Tables of a run: known answers for slates, losses and the most confident wrong rows."""

import numpy as np
import polars as pl
import pytest

from recsys.contracts import PAD
from recsys.data.dataset import canonical
from recsys.data.description import Description
from recsys.data.splits import FIT, TEST, Split
from recsys.evaluation.impressions import ImpressionReport, impression_measures
from recsys.evaluation.report import Report
from recsys.evaluation.run_tables import WORST, impression_tables, report_tables, user_tables, worst_rows
from recsys.evaluation.scoreboard import Scoreboard
from recsys.metrics import K
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.replay import Replay

EVENTS = [("u", "a", FIT), ("v", "a", FIT), ("v", "b", FIT), ("u", "b", TEST), ("v", "c", TEST)]


@pytest.fixture(scope="module")
def queries() -> EvaluationQueries:
    users, items, periods = zip(*EVENTS, strict=True)
    description = Description(
        actions=("met",),
        context={},
        items={"name": "text"},
        users={},
        objectives={"met": "met"},
        target="met",
        title="name",
        order="time",
    )
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": np.arange(5.0), "met": 1.0})
    table = pl.DataFrame({"item": list("abcd"), "name": ["Alpha", "Beta", None, "Delta"]})
    dataset = canonical(name="letters", interactions=frame, items=table, users=None, description=description)
    split = Split(name="window", periods=np.int8(periods), cuts=None, horizon=np.inf, strict=False, ordered=True)
    return EvaluationQueries.of(dataset, split, Replay(dataset, split), TEST)


def ranking(queries: EvaluationQueries, slates: dict[str, str]) -> np.ndarray:
    """Rankings [B, K] of slates by user, which are letters."""
    rows = np.full((len(queries), K), PAD)
    for position, user in enumerate(queries.replay.names[queries.users]):
        shown = [queries.replay.rows_of_items[item] for item in slates[user]]
        rows[position, : len(shown)] = shown
    return rows


def test_users_have_history_targets_slate_and_those_who_lose_most_come_first(queries: EvaluationQueries) -> None:
    rankings = {
        "popular": ranking(queries, {"u": "b", "v": "c"}),
        "weak": ranking(queries, {"u": "d", "v": "d"}),
        "pipeline": ranking(queries, {"u": "cd", "v": "dc"}),
    }
    tables = user_tables(queries, rankings, "pipeline")
    assert sorted(tables["users"].rows()) == [
        ("u", "Alpha", "Beta", "c · Delta", 0.0),
        ("v", "Alpha · Beta", "c", "Delta · c", pytest.approx(1 / np.log2(3))),
    ]
    worst = tables["worst_users"]
    assert worst.columns[3:] == ["slate of pipeline", "slate of popular", "ndcg@10 of pipeline", "ndcg@10 of popular"]
    assert worst["user"].to_list() == ["u", "v"]
    assert worst["slate of popular"].to_list() == ["Beta", "c"]


def test_a_user_who_loses_nothing_is_no_error(queries: EvaluationQueries) -> None:
    rankings = {name: ranking(queries, {"u": "b", "v": "c"}) for name in ("popular", "pipeline")}
    assert user_tables(queries, rankings, "pipeline")["worst_users"].is_empty()
    assert list(user_tables(queries, {"pipeline": rankings["pipeline"]}, "pipeline")) == ["users"]


def test_a_report_has_a_table_of_everything_it_prints(queries: EvaluationQueries) -> None:
    board = Scoreboard(queries.replay.dataset)
    board.open_split(queries)
    board.record_baseline("popular", ranking(queries, {"u": "b", "v": "c"}), parameters={})
    board.record("pipeline", ranking(queries, {"u": "cd", "v": "dc"}), seed=0)
    report = board.report(seconds=1.0, peak_memory_mib=1.0)
    assert isinstance(report, Report)
    tables = report_tables(report)
    assert {"systems", "exposure", "verdicts", "users", "worst_users"} <= set(tables)
    assert tables["systems"]["ndcg@10"].to_list() == [report.rows[name]["ndcg@10"] for name in ("popular", "pipeline")]
    assert tables["exposure"]["system"].to_list() == ["popular", "pipeline"]
    assert "user_tables" not in report.to_document()


def test_the_most_confident_wrong_rows_come_first_and_unknown_labels_are_no_error() -> None:
    labels = np.array([[1, 0], [0, 1], [np.nan, 0], [1, 1]], dtype=np.float32)
    predicted = np.array([[0.9, 0.1], [0.8, 0.3], [0.99, 0.2], [0.1, 0.9]])
    worst = worst_rows(labels, predicted, ("click", "buy"), np.array([10, 20, 30, 40]))
    clicks = worst.filter(pl.col("label") == "click")
    assert clicks.select("row", "observed", "predicted").rows() == [(40, 1.0, 0.1), (20, 0.0, 0.8), (10, 1.0, 0.9)]
    assert worst.filter(pl.col("label") == "buy")["row"].to_list()[0] == 20
    many = worst_rows(np.ones((100, 1)), np.linspace(0, 1, 100)[:, None], ("click",), np.arange(100))
    assert many["row"].to_list() == list(range(WORST))


def test_a_click_log_has_labels_and_deciles() -> None:
    labels = np.tile([[0.0], [1.0]], (50, 1))
    measures = impression_measures(labels, np.tile([[0.2], [0.7]], (50, 1)), ("click",), {})
    report = ImpressionReport(
        name="clicks",
        protocol="split by time",
        rows={"validation": 100},
        seeds=(0,),
        validation=[measures],
        test=[],
        target="click",
        served="",
        seconds=1.0,
        peak_memory_mib=1.0,
    )
    tables = impression_tables(report, worst_rows(labels, labels, ("click",), np.arange(100)))
    assert tables["labels"].select("period", "label", "auc").rows() == [("validation", "click", 1.0)]
    assert tables["deciles"]["rows"].sum() == 100
    assert len(tables["worst_rows"]) == WORST
