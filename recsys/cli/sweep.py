"""Sweeps: their jobs are checked before the first one starts, and compared once all have ended."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from recsys.cli.compare import compare
from recsys.cli.experiment import build
from recsys.cli.imports import resume_collections
from recsys.errors import ConfigError, exit_on_error, sentence_of
from recsys.training.run_folder import exclusive

HELD = ExitStack()
"""claim of this process on the folder of its sweep; not of the callback, which is sent to the processes of jobs"""


class Sweep(Callback):
    """Hydra's callback around the jobs of a sweep. It ends by SystemExit: Hydra makes a warning of any other error."""

    def __init__(self) -> None:
        resume_collections()  # Hydra imports this file, and with it what trainings need, before any job

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Build every job of the search space and claim the folder, or end the sweep before its first job."""
        with exit_on_error():
            if config.hydra.sweeper._target_.endswith(f".{BasicSweeper.__name__}"):
                check_jobs(config, _jobs(config))
            HELD.enter_context(exclusive(Path(config.hydra.sweep.dir)))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show the table of all jobs; the exit code is 2 where all of them failed, else 0."""
        with exit_on_error(), HELD:
            comparison = compare(Path(config.hydra.sweep.dir))
        if not comparison.configurations:
            sys.exit(2)


def check_jobs(config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
    """Compose and build jobs by their overrides; ConfigError for the first with an unknown key or an impossible value."""
    loader = GlobalHydra.instance().config_loader()
    for overrides in jobs:
        try:
            job = loader.load_sweep_config(config, list(overrides))
            if "Slurm" in config.hydra.launcher._target_:  # its jobs run where the devices are
                job.trainer.accelerator, job.trainer.precision = "cpu", "32-true"
            build(job).tracking.check()
        except Exception as error:
            if (sentence := sentence_of(error)) is None:
                raise
            raise ConfigError(f"the sweep cannot run {' '.join(overrides)}: {sentence}") from None


def corners(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the first value of all keys, then every other value of each key once."""
    first = {key: of_key[0] for key, of_key in values.items()}
    yield first
    for key, of_key in values.items():
        yield from ({**first, key: value} for value in of_key[1:])


def _jobs(config: DictConfig) -> Sequence[Sequence[str]]:
    """Return the overrides of each job."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    params = [f"{key}={choices}" for key, choices in (config.hydra.sweeper.params or {}).items()]
    parsed = parser.parse_overrides([*params, *config.hydra.overrides.task])
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return jobs
