"""conf/debug: one batch is learnt by heart, a profile lies in the run folder, a fast run makes one step of every fit."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recsys.cli.experiment import build

WORLD = ("recipe=synthetic", "data.users=60", "data.items=40", "data.events=2000", "retrieval.dim=16")
FITS = ("towers_validation", "towers_rank", "ranker")


@pytest.fixture
def validated(composed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Print of a run up to VALIDATION with a preset."""

    def validated(*overrides: str) -> str:
        config = composed(tmp_path, *WORLD, *overrides)
        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        build(config).validate(tmp_path, resolved, lambda _: None)
        return capsys.readouterr().out

    return validated


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart_by_towers_and_ranker(validated: Any) -> None:
    losses = dict(re.findall(r"(\w+): training loss ([\d.]+) after", validated("debug=overfit")))
    assert tuple(losses) == FITS
    assert max(map(float, losses.values())) < 0.1


@pytest.mark.slow
def test_a_profile_of_every_fit_lies_in_the_run_folder(validated: Any, tmp_path: Path) -> None:
    printed = dict(re.findall(r"(\w+): profile in (\S+)", validated("debug=profiler")))
    assert tuple(printed) == FITS
    for name, file in printed.items():
        assert Path(file).is_relative_to(tmp_path)
        assert Path(file).parent.name == name
        assert "run_training_batch" in Path(file).read_text()


@pytest.mark.slow
def test_a_fast_run_makes_one_step_of_every_fit(validated: Any, tmp_path: Path) -> None:
    printed = validated("debug=fast_dev_run", "trainer.options.profiler=simple")
    assert re.findall(r"(\w+): 1 epochs", printed) == list(FITS)
    for name in FITS:
        (profile,) = tmp_path.glob(f"checkpoints/*/{name}/*profile*")
        (row,) = [line for line in profile.read_text().splitlines() if "run_training_batch" in line]
        assert re.search(r"\|\s*1\s*\|", row), row
