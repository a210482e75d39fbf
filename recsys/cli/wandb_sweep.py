"""Search spaces of Hydra as the documents that `wandb sweep` reads, for agents on any machine."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from recsys.cli.configuration import CONF
from recsys.cli.experiment import build
from recsys.cli.sweep import corners
from recsys.errors import ConfigError, sentence_of

METHODS = ("bayes", "random", "grid")
RUN_DIR = "run_dir=runs/wandb_sweep/${oc.env:WANDB_RUN_ID}"
"""a folder for each run of an agent, which sets the variable; `recsys compare runs/wandb_sweep` reads them all"""
OF_AGENTS = {"logger": "logger=online", "evaluate": "evaluate=validation", "run_dir": RUN_DIR}
"""overrides of every job, unless others are given"""


def sweep_document(overrides: Sequence[str], *, method: str, trials: int | None) -> dict[str, Any]:
    """Return the document of W&B; ConfigError for a space that cannot run."""
    if method not in METHODS:
        raise ConfigError(f"--method is {method!r}; choose one of {', '.join(METHODS)}")
    if trials is None and method != "grid":
        raise ConfigError(f"--method {method} proposes runs without end; give --trials")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        fixed, space = _parsed(overrides)
        config, figure = _checked(fixed, space)
    if method == "grid" and (ranges := [key for key, one in space.items() if "distribution" in one]):
        raise ConfigError(f"--method grid takes choices alone, but {ranges[0]} is an interval; choose random or bayes")
    if "wandb" not in config.logger.trackers:
        raise ConfigError("the runs of W&B's agents need its tracker; leave logger=... out, it is online")
    return {
        "program": "train.py",
        "project": config.logger.trackers.wandb.project,
        "method": method,
        **({"run_cap": trials} if trials else {}),
        "metric": {"name": figure, "goal": "maximize"},
        "parameters": space,
        "command": ["${env}", "${interpreter}", "${program}", *fixed, "${args_no_hyphens}"],
    }


def _parsed(overrides: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the overrides of every job, and the values of each searched key, those of `hydra.sweeper.params` first."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    given = parser.parse_overrides(list(overrides))
    fixed = {one.get_key_element(): str(one.input_line) for one in given if not one.is_sweep_override()}
    fixed = {**OF_AGENTS, **fixed}
    params = compose("train", overrides=[*fixed.values()], return_hydra_config=True).hydra.sweeper.params or {}
    searched = [*parser.parse_overrides([f"{key}={choices}" for key, choices in params.items()]), *given]
    space = {one.get_key_element(): parameter(one) for one in searched if one.is_sweep_override()}
    if not space:
        raise ConfigError("the sweep has nothing to choose; give a key as choice(...), interval(...) or range(...)")
    return [*fixed.values()], space


def parameter(override: Override) -> dict[str, Any]:
    """Return the values of a key as W&B names them; those of choices are the texts of overrides, or numbers."""
    sweep = override.value()
    if not isinstance(sweep, IntervalSweep):
        return {"values": [_number(text) for text in override.sweep_string_iterator()]}
    whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
    if "log" in sweep.tags:
        kind = "q_log_uniform_values" if whole else "log_uniform_values"
    else:
        kind = "int_uniform" if whole else "uniform"
    return {"distribution": kind, "min": sweep.start, "max": sweep.end}


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _checked(fixed: Sequence[str], space: Mapping[str, Mapping[str, Any]]) -> tuple[DictConfig, str]:
    """Build the job of every choice and end of a range; return the configuration of the first and its figure to maximise."""
    ends = {key: one.get("values") or (one["min"], one["max"]) for key, one in space.items()}
    found: list[tuple[DictConfig, str]] = []
    for values in corners(ends):
        job = [*fixed, *(f"{key}={value}" for key, value in values.items())]
        try:
            config = compose("train", overrides=job)
            found.append((config, build(config).selecting_curve))
        except Exception as error:
            if (sentence := sentence_of(error)) is None:
                raise
            raise ConfigError(f"the sweep cannot run {' '.join(job)}: {sentence}") from None
    return found[0]
