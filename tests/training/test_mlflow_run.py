"""A run in a local database of MLflow, read back: curves, tables, data, and one id over a resume."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from recsys.training.code_state import code_state
from recsys.training.fit_logger import of_fit
from recsys.training.mlflow_run import MlflowRun, mlflow_key
from recsys.training.run_folder import SWEEP_FILE
from recsys.training.tracking import DataUse, RunResults, Tracking

pytestmark = pytest.mark.filterwarnings("ignore:::mlflow", "ignore::DeprecationWarning")

FIT = "retrieval/split_0/seed_0/validation"


def tracking(tmp_path: Path) -> Tracking:
    run = MlflowRun(
        experiment="recsys",
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        artifact_location=str(tmp_path / "artifacts"),
        tags={"team": "search"},
        bundle=False,
    )
    return Tracking(trackers={"mlflow": run}, users="numbers")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[MlflowClient, Run]:
    """A job of a sweep that fails in its first start and ends in its second."""
    tmp_path = tmp_path_factory.mktemp("mlflow")
    (folder := tmp_path / "dims" / "0").mkdir(parents=True)
    (folder.parent / SWEEP_FILE).touch()
    data = DataUse(name="letters", sha256="ab" * 32, counts={"events": 3}, path=tmp_path)
    trackers = tracking(tmp_path)
    trackers.check()
    with suppress(ZeroDivisionError), trackers.tracked(folder, {"retrieval": {"dim": 8}}, data) as loggers:
        of_fit(loggers, FIT)[0].log_metrics({"retrieval/loss": 3.0}, 0)
        raise ZeroDivisionError
    with trackers.tracked(folder, {"retrieval": {"dim": 8}}, data) as loggers:
        of_fit(loggers, FIT)[0].log_metrics({"retrieval/loss": 2.0, "retrieval/ndcg@10+recall@100": 0.5}, 10)
        tables = {"users": pl.DataFrame({"user": ["ann"], "slate of pipeline": ["Alpha · Beta"]})}
        trackers.finish(RunResults(figures={"pipeline": {"ndcg@10": 0.25, "users": 7, "ci95": {}}}, tables=tables))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("recsys")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def test_a_resumed_run_is_one_run_with_all_its_curves(tracked: tuple[MlflowClient, Run]) -> None:
    client, run = tracked
    history = client.get_metric_history(run.info.run_id, f"{FIT}/loss")
    assert [(one.step, one.value) for one in history] == [(0, 3.0), (10, 2.0)]
    assert run.data.metrics[f"{FIT}/ndcg_at_10_and_recall_at_100"] == 0.5
    assert run.info.status == "FINISHED"


def test_it_says_where_it_belongs_and_by_what_it_was_made(tracked: tuple[MlflowClient, Run]) -> None:
    _, run = tracked
    assert (run.data.tags["sweep"], run.data.tags["team"]) == ("dims", "search")
    assert run.data.tags.get("code.commit") == code_state(Path.cwd()).get("commit")
    assert run.data.params["retrieval/dim"] == "8"
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("letters", "ab" * 18)
    assert json.loads(used.dataset.profile) == {"events": 3}


def test_figures_and_tables_are_kept(tracked: tuple[MlflowClient, Run]) -> None:
    client, run = tracked
    assert run.data.metrics["test/pipeline/ndcg_at_10"] == 0.25
    file = client.download_artifacts(run.info.run_id, "tables/users.csv")
    assert Path(file).read_text() == "user,slate of pipeline\nuser 1,Alpha · Beta\n"


@pytest.mark.parametrize(
    ("key", "expected"),
    [("a/ndcg@10+recall@100", "a/ndcg_at_10_and_recall_at_100"), ("a/p(x)", "a/p_x_"), ("plain", "plain")],
)
def test_a_key_has_the_characters_that_mlflow_allows(key: str, expected: Any) -> None:
    assert mlflow_key(key) == expected
