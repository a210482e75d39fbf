"""The chosen configuration of a sweep as one file that train.py takes, independent of the files that it was composed of."""

import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recsys.cli.configuration import CONF
from recsys.commands import command_of
from recsys.stores.atomic_files import write_atomically

BEST = "best.yaml"
"""file of the folder of a sweep"""
CONFIG_FILE = ".hydra/config.yaml"
"""file of every started job"""
OF_A_RUN = ("run_dir", "evaluate")
"""keys of a job that a training of its own sets anew"""


def write_best(job: Path, sweep: Path, title: str) -> str:
    """Write BEST from the configuration of a job; return the command that trains it in a new run directory."""
    config, train = _unresolved(job / CONFIG_FILE), _unresolved(CONF / "train.yaml")
    own = {key: train[key] if key in OF_A_RUN else value for key, value in config.items()}
    of_hydra = [one for one in train["defaults"] if isinstance(one, dict) and "hydra" in str([*one])]
    document = {"defaults": ["_self_", *of_hydra], **own, "hydra": train["hydra"]}
    command = f"{command_of('train')} {shlex.join(['--config-dir', str(sweep), '--config-name', Path(BEST).stem])}"
    text = f"# {title}\n# {command}\n{OmegaConf.to_yaml(OmegaConf.create(document))}"
    write_atomically(sweep / BEST, text.encode())
    return command


def _unresolved(file: Path) -> dict[str, Any]:
    """Read a configuration whose interpolations stay as they are: run_dir is one of the time."""
    content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return content
