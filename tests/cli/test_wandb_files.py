"""Files for W&B, made offline: the command of an agent composes and builds, the report names tables and keys."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from recsys.cli.experiment import build
from recsys.cli.wandb_report import report_text
from recsys.cli.wandb_sweep import RUN_DIR, sweep_document
from recsys.errors import ConfigError
from recsys.evaluation.chart import TITLES
from recsys.evaluation.comparison import Comparison, FailedJob, JobFigures

SMALL = ("recipe=synthetic", "trainer.progress=false")


def as_an_agent(document: dict[str, Any], **chosen: Any) -> list[str]:
    """Command line that `wandb agent` makes of a document and the values it was given."""
    expanded = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    command = create_sweep_command(list(document["command"]))
    words = [expanded["args_no_hyphens"] if one == "${args_no_hyphens}" else [one] for one in command]
    return [word for part in words for word in part]


def test_the_command_of_an_agent_composes_and_builds(
    root: Path, tmp_path: Path, typed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space = ("retrieval.dropout=interval(0.1,0.5)", "retrieval.learning_rate=tag(log,interval(0.001,0.01))")
    assert typed("wandb-sweep", *SMALL, "hparams_search=ranker", *space, "--trials", "30", "--out", "mine.yaml") == 0
    document = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert (document["program"], document["method"], document["run_cap"]) == ("train.py", "bayes", 30)
    assert document["metric"] == {"name": "validation/pipeline/ndcg@10", "goal": "maximize"}
    assert document["parameters"] == {
        "ranking/model": {"values": ["default", "dcn_v2", "dlrm"]},
        "ranking.sizes.dim": {"values": [16, 32]},
        "ranking.learning_rate": {"values": [0.0003, 0.001]},
        "retrieval.dropout": {"distribution": "uniform", "min": 0.1, "max": 0.5},
        "retrieval.learning_rate": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.01},
    }
    chosen = {"ranking/model": "dlrm", "ranking.sizes.dim": 32, "retrieval.dropout": 0.25}
    command = as_an_agent(document, **chosen)
    assert command[:3] == ["${env}", "${interpreter}", "${program}"]
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        config = compose("train", overrides=command[3:])
    assert (config.run_dir, config.evaluate) == ("runs/wandb_sweep/abc", "validation")
    assert (config.logger.trackers.wandb.mode, config.retrieval.dropout, config.ranking.sizes.dim) == (
        "online",
        0.25,
        32,
    )
    assert "DLRM" in config.ranking.model._target_
    build(config)


def test_a_whole_number_and_a_metric_of_another_stage() -> None:
    document = sweep_document(
        [
            *SMALL,
            "retrieval.dim=range(8,17,8)",
            "ranking.epochs=int(interval(1,3))",
            "optimised_metric=towers/recall@100",
        ],
        method="random",
        trials=4,
    )
    assert document["parameters"] == {
        "retrieval.dim": {"values": [8, 16]},
        "ranking.epochs": {"distribution": "int_uniform", "min": 1, "max": 3},
    }
    assert document["metric"]["name"] == "validation/towers/recall@100"
    assert RUN_DIR in document["command"]


@pytest.mark.parametrize(
    ("overrides", "method", "sentence"),
    [
        (["retrieval.dim=8"], "grid", "nothing to choose"),
        (["retrieval.dropout=interval(0.1,3)"], "bayes", "retrieval.dropout is 3"),
        (["retrieval.dropout=interval(0.1,0.3)"], "grid", "grid takes choices alone, but retrieval.dropout"),
        (["retrieval.dim=8,16", "logger=csv"], "grid", "need its tracker"),
        (["retrieval.dim=8,16"], "tpe", "choose one of bayes, random, grid"),
    ],
)
def test_a_space_that_cannot_run_is_refused(overrides: list[str], method: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        sweep_document([*SMALL, *overrides], method=method, trials=3)
    with pytest.raises(ConfigError, match="proposes runs without end; give --trials"):
        sweep_document(overrides, method="bayes", trials=None)


def test_the_report_has_the_table_the_keys_and_the_next_command(tmp_path: Path) -> None:
    jobs = []
    for number, value in enumerate((0.2, 0.3)):
        (folder := tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (folder / "overrides.yaml").write_text(yaml.safe_dump(["data=synthetic", f"retrieval.dim={8 + number}"]))
        jobs.append(
            JobFigures(
                name=str(number),
                configuration=f"retrieval.dim={8 + number}",
                protocol="VALIDATION of letters",
                targets="a",
                metric="ndcg@10",
                by_seed={name: [value] for name in TITLES},
                goals={"pipeline/ndcg@10": value},
                users=["u", "v"],
                per_user=np.array([value, value]),
            )
        )
    (tmp_path / "1" / "csv").mkdir()
    (tmp_path / "1" / "csv" / "metrics.csv").write_text("epoch,retrieval/split_0/seed_0/validation/loss,step\n")
    failed = FailedJob(name="2: retrieval.dim=15", error="ConfigError: 15 is odd", log="2/train.log")
    text = report_text(tmp_path, Comparison.of(jobs, [failed]))
    lines = text.splitlines()
    assert lines[0] == f"# {tmp_path.name}"
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[2].startswith("| 1: retrieval.dim=9 | .3")
    assert rows[-1] == "| 2: retrieval.dim=15 | failed | ConfigError: 15 is odd | |"
    assert "`retrieval/split_0/seed_0/validation/loss`" in text
    assert "`tables/worst_users`" in text
    assert f"retrieval.dim=9 run_dir={tmp_path}/1 evaluate=test" in text
