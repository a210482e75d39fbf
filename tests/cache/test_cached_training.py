"""Training with the cache of stages: nothing is computed twice, and every figure stays as it is without the cache."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recsys.cache.stage_cache import STAGES_FILE
from recsys.cli.experiment import build
from recsys.evaluation.selection import ValidationFigures

pytestmark = pytest.mark.slow

Validate = Callable[..., tuple[dict[str, Any], dict[str, set[bool]]]]
OF_RETRIEVAL = {"text", "towers", "choices", "sources", "weights", "examples"}


def rows(figures: ValidationFigures) -> dict[str, Any]:
    return figures.report.rows


@pytest.fixture(scope="module")
def validate(tmp_path_factory: pytest.TempPathFactory, composed: Any, tiny: Any) -> Validate:
    """Train by VALIDATION in a new folder, with a cache that all runs of this module share; rows, and stage -> found."""
    stages = tmp_path_factory.mktemp("stages")

    def validated(*overrides: str, cached: bool = True) -> tuple[dict[str, Any], dict[str, set[bool]]]:
        folder = tmp_path_factory.mktemp("run")
        cache = f"cache.folder={stages}" if cached else "cache=off"
        config = composed(folder, *tiny, "evaluation.baselines={}", "logger=csv", cache, *overrides)
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        figures = build(config).validate(folder, resolved, echo=lambda _: None)
        lines = [json.loads(line) for line in _text(folder / STAGES_FILE).splitlines()]
        found: dict[str, set[bool]] = {}
        for line in lines:
            found.setdefault(line["stage"], set()).add(line.get("found", False))
        return rows(figures), found

    validated()
    return validated


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def test_a_second_run_computes_no_stage_and_has_the_figures_of_a_run_without_cache(validate: Validate) -> None:
    again, found = validate()
    fresh, computed = validate(cached=False)
    assert found == {stage: {True} for stage in (*OF_RETRIEVAL, "ranker")}
    assert again == fresh
    assert dict.fromkeys(computed, False) == {stage: True in ones for stage, ones in computed.items()}


def test_another_ranker_trains_no_tower(validate: Validate) -> None:
    _, found = validate("ranking/model=dcn_v2")
    assert found == {**{stage: {True} for stage in OF_RETRIEVAL}, "ranker": {False}}


def test_a_policy_is_tried_without_any_training(validate: Validate) -> None:
    _, found = validate("policy.popularity.discount=0.3")
    assert found == {stage: {True} for stage in (*OF_RETRIEVAL, "ranker")}


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("candidates.sources.popular.grid.days=[3.0]", {"text", "towers"}),
        ("retrieval.dropout=0.05", {"text", "choices"}),
        ("seed=1", {"text", "choices"}),
        ("data.events=3900", set()),
        ("protocol.validation=0.12", {"text"}),
    ],
)
def test_a_stage_whose_inputs_changed_is_computed_again(validate: Validate, override: str, kept: set[str]) -> None:
    _, found = validate(override)
    assert {stage for stage, ones in found.items() if ones == {True}} == kept
