"""Cost of serving: measured on the graphs that are served, part of the figures, and only where something asks for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recsys.bundle import Bundle
from recsys.cli.experiment import build
from recsys.errors import ConfigError
from recsys.evaluation.selection import check_budget, goals, minimised, over_budget
from recsys.training import serving_cost

SERVED = (
    *("user_tower.onnx", "ranker.onnx", "index.faiss", "item_table.safetensors", "item_vectors.safetensors"),
    "candidates.safetensors",
)
"""files of a bundle that stay in memory"""


def test_costs_are_minimised_goals_behind_one_of_quality() -> None:
    systems = ("towers", "retrieval", "pipeline")
    chosen = goals(["ndcg@10", "cpu_ms", "serving/memory_mib"], systems)
    assert chosen == (("pipeline", "ndcg@10"), ("serving", "cpu_ms"), ("serving", "memory_mib"))
    assert [minimised("/".join(goal)) for goal in chosen] == [False, True, True]
    for metric in ("cpu_ms", ["memory_mib", "ndcg@10"]):
        with pytest.raises(ConfigError, match="the first figure selects by a paired test; begin with one of ndcg@10"):
            goals(metric, systems)
    with pytest.raises(ConfigError, match="as stage/metric, or a cost, cpu_ms or memory_mib"):
        goals(["ndcg@10", "towers/cpu_ms"], systems)


def test_a_budget_names_costs_and_is_positive() -> None:
    assert check_budget({"cpu_ms": 5, "memory_mib": None}) == {"cpu_ms": 5}
    assert over_budget({"cpu_ms": 5.01, "memory_mib": 3.0}, {"cpu_ms": 5, "memory_mib": 3.0}) == ["cpu_ms 5.01 > 5"]
    with pytest.raises(ConfigError, match=r"budget\.cpu is no cost of serving; did you mean 'cpu_ms'\?"):
        check_budget({"cpu": 5})
    with pytest.raises(ConfigError, match=r"budget\.cpu_ms is 0; choose a number"):
        check_budget({"cpu_ms": 0})


@pytest.mark.slow
def test_the_cost_is_that_of_the_bundle_and_measured_where_something_asks(
    composed: Any, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_cost, "REPEATS", 1)
    plain = (*tiny, "evaluation.baselines={}", "logger=csv", "protocol=leave_one_out")

    def validated(folder: str, *overrides: str) -> dict[str, Any]:
        given = [one for one in plain if "~ranking" not in overrides or not one.startswith("ranking.")]
        config = composed(tmp_path / folder, *given, *overrides)
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        build(config).validate(tmp_path / folder, resolved, echo=lambda _: None)
        return json.loads((tmp_path / folder / "metrics.json").read_text())["validation"]

    free = validated("run")
    assert free["cost"] == {}
    measured = validated("run", "optimised_metric=[ndcg@10,cpu_ms]", "budget.memory_mib=0.001")
    cost = measured["cost"]
    assert measured["goals"] == {"pipeline/ndcg@10": free["value"], "serving/cpu_ms": cost["cpu_ms"]}
    assert measured["budget"] == {"memory_mib": 0.001}
    stages = [cost[f"{name}_cpu_ms"] for name in ("retrieve", "rank", "rules")]
    assert min(stages) > 0
    assert cost["cpu_ms"] >= max(stages)  # each request costs at least each of its stages, and so do their medians
    config = composed(tmp_path / "run", *plain)
    _, bundle = build(config).run(tmp_path / "run", OmegaConf.to_container(config, resolve=True), echo=lambda _: None)
    assert cost["memory_mib"] == pytest.approx(resident_mib(bundle), rel=0.02)
    towers = validated("towers", "~ranking", "budget.cpu_ms=1000")["cost"]
    assert set(towers) == {"cpu_ms", "memory_mib", "retrieve_cpu_ms", "rules_cpu_ms"}
    assert towers["memory_mib"] < cost["memory_mib"]


def resident_mib(bundle: Bundle) -> float:
    return sum(bundle.file(name).stat().st_size for name in SERVED) / 2**20
