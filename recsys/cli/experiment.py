"""Experiments: built from their configuration, and what is printed of them."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from recsys.bundle import Bundle
from recsys.commands import command_of
from recsys.data.impression_splits import ImpressionShares
from recsys.errors import ConfigError
from recsys.evaluation.impressions import ImpressionReport
from recsys.evaluation.report import PICTURES, Report, conclusion, verdicts
from recsys.evaluation.selection import ValidationFigures, check_budget
from recsys.evaluation.wide_table import WideTable
from recsys.training.cascade import CascadeConfig
from recsys.training.click_log import ClickLogExperiment, ImpressionTrainerConfig
from recsys.training.experiment import Experiment
from recsys.training.pruning import CurveReport

GROUPS = (
    *("data", "protocol", "content", "features", "retrieval", "candidates", "index", "trainer", "policy", "rules"),
    *("evaluation", "logger", "limits", "cache"),
)
LAST_SEED = 2**31 - 1
EVALUATE = ("validation", "test")
GROUPS_OF_RANKING = ("data", "protocol", "features", "ranking", "trainer", "logger", "limits", "cache")
"""groups that a task of the ranker alone reads"""
TASKS = ("cascade", "retrieval", "ranking")
TOWERS = "two_tower"
"""the source that task=retrieval trains"""


def build(config: DictConfig, report: CurveReport | None = None) -> Experiment | ClickLogExperiment:
    """Build every part of the experiment from its configuration group.

    report: receives the validation curves of a trial of a search
    """
    _check_numbers(config)
    if config.task not in TASKS:
        raise ConfigError(f"task is {config.task!r}; choose one of {', '.join(TASKS)}")
    leave_out(config)
    return _build_click_log(config, report) if config.task == "ranking" else _build_cascade(config, report)


def leave_out(config: DictConfig) -> None:
    """Remove from a configuration what its task does not train: for task=retrieval all but the towers."""
    if config.task != "retrieval":
        return
    with open_dict(config):
        config.ranking = None
        for name in OmegaConf.select(config, "candidates.sources") or ():
            if name != TOWERS:
                config.candidates.sources[name] = None


def _check_numbers(config: DictConfig) -> None:
    for key, least in (("seed", 0), ("seeds", 1)):
        if type(config[key]) is not int or not least <= config[key] <= LAST_SEED:
            raise ConfigError(f"{key} is {config[key]!r}; choose a whole number from {least} to {LAST_SEED}")
    if type(config.refit) is not bool:
        raise ConfigError(f"refit is {config.refit!r}; choose true or false")
    if config.evaluate not in (None, *EVALUATE):
        raise ConfigError(f"evaluate is {config.evaluate!r}; choose one of {', '.join(EVALUATE)}")


def _build_click_log(config: DictConfig, report: CurveReport | None) -> ClickLogExperiment:
    if limits := check_budget(config.budget):
        raise ConfigError(
            f"budget.{next(iter(limits))} is given, but task=ranking measures no cost of serving; leave it null"
        )
    part = {name: instantiate(config[name], _convert_="all") for name in GROUPS_OF_RANKING}
    if not isinstance(part["ranking"], ImpressionTrainerConfig) or not isinstance(part["protocol"], ImpressionShares):
        raise ConfigError("task=ranking is for a click log; choose recipe=click_log, which sets it with its groups")
    part["trainer"].report = report
    return ClickLogExperiment(
        **{name: part[name] for name in ("data", "protocol", "features", "ranking", "trainer", "limits", "cache")},
        tracking=part["logger"],
        seeds=_seeds(config),
        refit=config.refit,
    )


def _seeds(config: DictConfig) -> tuple[int, ...]:
    return tuple(range(config.seed, config.seed + config.seeds))


def is_ranked(config: DictConfig) -> bool:
    """Whether there is a ranker; ~ranking leaves what a recipe sets of it."""
    return "_target_" in (config.get("ranking") or {})


def _build_cascade(config: DictConfig, report: CurveReport | None) -> Experiment:
    if missing := [group for group in GROUPS if config.get(group) is None]:
        raise ConfigError(f"there is no {missing[0]}; only ranking can be left out, by ~ranking")
    groups = (*GROUPS, "ranking") if is_ranked(config) else GROUPS
    part = {name: instantiate(config[name], _convert_="all") for name in groups}
    part["trainer"].report = report
    return Experiment(
        data=part["data"],
        protocol=part["protocol"],
        content=part["content"],
        features=part["features"],
        cascade=CascadeConfig(
            retrieval=part["retrieval"],
            candidates=part["candidates"],
            index=part["index"],
            ranking=part.get("ranking"),
            trainer=part["trainer"],
        ),
        policy=part["policy"],
        rules=part["rules"],
        evaluation=part["evaluation"],
        tracking=part["logger"],
        limits=part["limits"],
        cache=part["cache"],
        seeds=_seeds(config),
        refit=config.refit,
        optimised_metric=list(metric) if OmegaConf.is_list(metric := config.optimised_metric) else metric,
        budget=check_budget(config.budget),
    )


def show(console: Console, report: Report | ImpressionReport, bundle: Bundle, folder: Path) -> None:
    if isinstance(report, ImpressionReport):
        console.print(WideTable(report.table()))
        console.print(report.deciles())
        _show_files(
            console, bundle, folder, f"{command_of('score')} --bundle {bundle.path} --rows new.csv --out scored.parquet"
        )
        return
    if line := conclusion(report):
        console.print(f"{line}\n", style="bold", markup=False)
    console.print(WideTable(report.table()))
    console.print(WideTable(report.further()))
    if report.objectives:
        console.print(WideTable(report.probabilities()))
    console.print(WideTable(report.exposure()))
    if report.fairness:
        console.print(WideTable(report.user_groups()))
    for line in verdicts(report):
        console.print(f"  {line}")
    console.print(
        f"  {report.validation['optimised_metric']} on VALIDATION, by which configurations are compared: "
        f"{report.validation['value']:.4f}"
    )
    console.print()
    _show_files(console, bundle, folder, f"{command_of('export')} bundle={bundle.path}")


def _show_files(console: Console, bundle: Bundle, folder: Path, following: str) -> None:
    for picture in (folder / name for name in PICTURES if (folder / name).is_file()):
        console.print(f"picture  {picture}", soft_wrap=True)
    console.print(f"bundle   {bundle.path}  {bundle.fingerprint}", soft_wrap=True)
    console.print(f"next     {following}", style="bold", soft_wrap=True)


def show_validation(console: Console, figures: ValidationFigures | ImpressionReport, folder: Path) -> None:
    report = figures if isinstance(figures, ImpressionReport) else figures.report
    console.print(WideTable(report.table()))
    if isinstance(figures, ValidationFigures) and figures.cost:
        console.print(figures.cost_sentence(), soft_wrap=True)
    console.print(f"figures  {folder / 'metrics.json'}: of VALIDATION, TEST was not evaluated", soft_wrap=True)
