"""Train, evaluate and save one cascade: `recsys train --help` lists every group and option.

A job imports what it trains by; help needs no torch.
"""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from recsys.cli.configuration import CONF
from recsys.cli.imports import put_off_collections
from recsys.errors import ConfigError, exit_on_error

RENAMED_KEYS = {
    "retrieval.num_blocks": "retrieval.user_encoder.num_blocks",
    "retrieval.num_heads": "retrieval.user_encoder.num_heads",
    "retrieval.temperature": "retrieval.loss.temperature",
    **{
        f"ranking.{key}": f"ranking.sizes.{key}"
        for key in (
            *("dim", "num_heads", "cross_rank", "num_cross_layers", "num_experts", "expert_dim"),
            *("dropout", "id_dropout", "feature_dropout"),
        )
    },
    **{
        f"ranking.{key}": f"ranking.sampling.{key}"
        for key in ("requests_per_user", "requests", "validation_requests", "examples_gib", "dense_candidates", "shown")
    },
    "policy.exploration.kind": "policy/exploration",
    **{f"logger.{key}": f"logger.trackers.wandb.{key}" for key in ("project", "mode", "group")},
}
"""keys of 0.1 that are still read on the command line, for one release"""
LAUNCHED = "TORCHELASTIC_RUN_ID"
"""in the environment of the processes that torchrun starts"""
INTERRUPTED = "interrupted; the same command with the same run_dir goes on from here"
LAUNCHERS = ("joblib", "submitit")
"""packages that raise errors of their own where the process of a job dies"""
KILLED = (
    "a process of the sweep was killed, perhaps for lack of memory; the same command with hydra.sweep.dir, the folder of this "
    "sweep, goes on from here, and `recsys compare` shows the jobs that ended"
)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def train(config: DictConfig) -> float | tuple[float, ...]:
    """Return `optimised_metric` on VALIDATION, a tuple of several, NaN for a failed job of a sweep."""
    from recsys.cli.experiment import build, leave_out, show, show_validation
    from recsys.training.run_log import log_console, logged
    from recsys.training.sweeps import attempt

    folder, sweep = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().mode == RunMode.MULTIRUN
    if LAUNCHED in os.environ and _follows(config, sweep):
        return math.nan
    with attempt(folder, INTERRUPTED) if sweep else single(folder):
        console = Console()  # not the module's: a parallel sweep sends this function to other processes
        leave_out(config)
        config.evaluate = config.evaluate or ("validation" if sweep else "test")
        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        curve = None
        if sweep and HydraConfig.get().sweeper.get("pruner") is not None:
            from recsys.cli.trial import trial_curve

            curve = trial_curve(config)
        experiment, echo = build(config, curve), logged(partial(console.print, style="dim"))
        if config.evaluate == "validation":
            figures = experiment.validate(folder, resolved, echo)
            for shown in (console, log_console()):
                show_validation(shown, figures, folder)
            return figures.values if len(figures.values) > 1 else figures.values[0]
        report, bundle = experiment.run(folder, resolved, echo)
        for shown in (console, log_console()):
            show(shown, report, bundle, folder)
        return report.values if len(report.values) > 1 else report.values[0]
    return math.nan


def _follows(config: DictConfig, sweep: bool) -> bool:
    """Take part in the fits of the first process that torchrun started, and return True; False in the first one."""
    from recsys.training import processes

    if sweep:
        raise ConfigError("torchrun trains one cascade by several processes; start a sweep by python train.py -m")
    if processes.is_first():
        # at once: the others wait for some minutes at most
        processes.others(processes.processes_of(1), config.trainer.accelerator)
        return False
    processes.follow(config.trainer.accelerator)
    return True


@contextmanager
def single(folder: Path) -> Iterator[None]:
    """Log a run that is no job of a sweep; an error ends the process with its sentence."""
    from recsys.training.run_log import run_log

    with exit_on_error(INTERRUPTED), run_log(folder):
        yield


def renamed(argument: str) -> str:
    """Return an override whose key has its new name."""
    key, equals, value = argument.partition("=")
    return f"{RENAMED_KEYS.get(key, key)}{equals}{value}"


def main() -> None:
    """Run the entry point; errors that a person can mend end with one sentence and exit code 2."""
    put_off_collections()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = map(renamed, sys.argv[1:])
    with exit_on_error(INTERRUPTED):
        try:
            train()
        except Exception as error:
            if type(error).__module__.split(".")[0] not in LAUNCHERS:
                raise
            print(f"error: {KILLED}", file=sys.stderr)
            sys.exit(2)
