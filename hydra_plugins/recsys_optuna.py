"""Hydra's entry to recsys/cli/search.py. Hydra takes plugins from packages of this name alone, and imports all as it starts."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from recsys.errors import ConfigError


class OptunaSweeper(Sweeper):
    """Sweeper of conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, **_: Any) -> None:
        """Take the keys of the file, which the search reads from the configuration."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        try:
            from recsys.cli.search import Search  # Optuna is imported where it searches
        except ModuleNotFoundError as error:
            raise ConfigError(f"hydra/sweeper=optuna needs a package: {error}; install optuna") from None
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        Search(self.config, self.hydra_context.config_loader, self.launcher, arguments).run()
