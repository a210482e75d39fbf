"""Figures of VALIDATION: what a run without TEST leaves, and that they are those of the exported graphs."""

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from omegaconf import DictConfig, OmegaConf

from recsys.cli.experiment import build
from recsys.data.splits import TEST, VALIDATION
from recsys.errors import ConfigError
from recsys.evaluation.scoreboard import Scoreboard
from recsys.evaluation.selection import SELECTION_METRICS, VALIDATION_USERS, ValidationFigures, goals
from recsys.stages import load_rules, load_stages
from recsys.training.prepare import prepare

pytestmark = pytest.mark.slow

SYSTEMS = ("towers", "retrieval", "ranker", "pipeline")
PLAIN = ("evaluation.baselines={}", "logger=csv", "ranking.watch=ndcg@10")


def validated(config: DictConfig) -> ValidationFigures:
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    return build(config).validate(Path(config.run_dir), resolved, echo=lambda _: None)


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory, composed: Any, run: Any, tiny: Any) -> Any:
    """A run by VALIDATION alone, what it left, and the same run with TEST."""
    folder = tmp_path_factory.mktemp("validated")
    # one epoch of the strict protocol: VALIDATION and TEST are answered by one fit of retrieval
    config = composed(folder, *tiny, *PLAIN, "protocol=leave_one_out", "optimised_metric=towers/recall@100")
    figures = validated(config)
    left = {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    document = json.loads((folder / "metrics.json").read_text())
    report, bundle = run(config)
    return {
        "folder": folder,
        "figures": figures,
        "left": left,
        "document": document,
        "report": report,
        "bundle": bundle,
    }


def test_the_report_says_what_validation_chose(continued: Any) -> None:
    notes = continued["report"].notes
    (chosen,) = [note for note in notes if note.startswith("chosen on validation: ")]
    assert "item_item operator " in chosen
    assert "linear operator " in chosen
    assert [note for note in notes if note.startswith("the ranker ") and "retrieval" in note]


def test_a_run_by_validation_computes_no_figure_of_test_and_writes_no_bundle(continued: Any) -> None:
    document = continued["document"]
    assert set(document) == {"validation", "test_reads", "seconds", "peak_memory_mib"}
    assert document["test_reads"] == {"run": 0}
    assert tuple(document["validation"]["rows"]) == SYSTEMS
    assert not [
        name for name in continued["left"] if "bundle" in name or "towers_test" in name or name.endswith(".png")
    ]


def test_the_returned_figure_is_the_configured_one(continued: Any) -> None:
    rows, figures = continued["document"]["validation"]["rows"], continued["figures"]
    assert continued["document"]["validation"]["optimised_metric"] == "towers/recall@100"
    assert figures.values == (rows["towers"]["recall@100"],)
    assert continued["document"]["validation"]["goals"] == {"towers/recall@100": figures.values[0]}
    assert continued["document"]["validation"]["value"] == figures.values[0]
    users = pl.read_parquet(continued["folder"] / VALIDATION_USERS)
    assert users.columns == ["user", *(f"{system}/{metric}" for system in SYSTEMS for metric in SELECTION_METRICS)]
    assert users["user"].n_unique() == users.height == rows["towers"]["users"]
    for system in SYSTEMS:
        assert users[f"{system}/ndcg@10"].mean() == pytest.approx(rows[system]["ndcg@10"])


def test_trackers_hold_the_figures_under_their_own_key(continued: Any) -> None:
    with (continued["folder"] / "csv" / "metrics.csv").open(newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["validation/towers/recall@100"]]
    assert len(logged) == 2, "of the run by VALIDATION, and of its continuation"
    rows = continued["document"]["validation"]["rows"]
    for row in logged:
        assert float(row["validation/pipeline/ndcg@10"]) == pytest.approx(rows["pipeline"]["ndcg@10"])


def test_the_continuation_trains_nothing_again_and_counts_its_reading_of_test(continued: Any) -> None:
    report, folder = continued["report"], continued["folder"]
    assert report.validation == continued["document"]["validation"]
    assert report.test_reads == {"run": 1}
    assert report.rows["pipeline"]["ndcg@10"] != report.validation["rows"]["pipeline"]["ndcg@10"]
    kept = [name for name in continued["left"] if name.endswith("trained.pt")]
    assert {Path(name).parent.name for name in kept} >= {"towers_validation", "towers_rank", "ranker"}
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == {
        name: continued["left"][name] for name in kept
    }


def test_the_figures_are_those_of_the_exported_graphs(continued: Any, composed: Any, tiny: Any) -> None:
    """The bundle of the strict protocol was fitted before VALIDATION, so its graphs may answer VALIDATION."""
    config = composed(continued["folder"], *tiny, *PLAIN, "protocol=leave_one_out")
    built = build(config)
    dataset = built.data.load()
    (split,) = built.protocol.splits(dataset)
    assert (split.known(TEST) == split.known(VALIDATION)).all()
    queries = built.evaluation.validation(split, prepare(dataset, split, built.features, built.content).replay)
    stages = load_stages(continued["bundle"])
    value, rules = built._last_policies()["ranker"]
    last = {"ranker": load_rules(continued["bundle"], policy=value, rules=rules), "pipeline": stages[-1]}
    users = pl.read_parquet(continued["folder"] / VALIDATION_USERS)
    for name, ranking in queries.rankings(stages[:-1], last).items():  # type: ignore[arg-type]
        figure = Scoreboard(dataset)
        figure.open_split(queries)
        figure.record(name, ranking, seed=0)
        found = figure.report(seconds=0.0, peak_memory_mib=0.0).per_user[name]["ndcg@10"]
        assert found == pytest.approx(users[f"{name}/ndcg@10"].to_numpy(), abs=1e-6), name
        assert found.any()


def test_an_unknown_figure_is_refused_before_anything_is_read(composed: Any, tmp_path: Path) -> None:
    for metric, sentence in {
        "auc": "optimised_metric is 'auc'; choose one of ndcg@10, ",
        "rankr/ndcg@10": r"has no stage 'rankr'; did you mean 'ranker'\?",
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            build(composed(tmp_path, f"optimised_metric={metric}"))
    with pytest.raises(ConfigError, match="no stage 'pipeline'"):
        build(composed(tmp_path, "~ranking", "optimised_metric=pipeline/ndcg@10"))
    with pytest.raises(ConfigError, match="several different ones"):
        build(composed(tmp_path, "optimised_metric=[ndcg@10,ndcg@10]"))
    for first in ("coverage@10", "entropy@10"):
        with pytest.raises(ConfigError, match="begins with"):
            build(composed(tmp_path, f"optimised_metric=[{first},ndcg@10]"))
    further = ["mrr@10", "towers/serendipity@10", "entropy@10"]
    assert goals(further, ("towers", "retrieval"))[1:] == (("towers", "serendipity@10"), ("retrieval", "entropy@10"))
    assert goals("ndcg@10", ("towers", "retrieval")) == (("retrieval", "ndcg@10"),)
    several = (("towers", "recall@10"), ("retrieval", "ndcg@10"))
    assert goals(["towers/recall@10", "ndcg@10"], ("towers", "retrieval")) == several
