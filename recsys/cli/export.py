"""Turn a bundle into a Triton model repository: `recsys export bundle=runs/demo/bundle`."""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from recsys.bundle import Bundle, sign_bundle
from recsys.cli.configuration import CONF
from recsys.errors import exit_on_error
from recsys.export.releases import CURRENT, served_release
from recsys.export.repository import write_repository
from recsys.index import IndexChoice


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="export")
def export(config: DictConfig) -> None:
    with exit_on_error():
        sign_key = None if config.sign_key is None else Path(config.sign_key)
        if sign_key is not None:
            sign_bundle(Path(config.bundle), sign_key)
        bundle = Bundle.open(config.bundle)
        path = Path(config.repository) if config.repository else Path(config.bundle).parent / "serve"
        search = config.search
        index = None if search.index is None else IndexChoice(kind=search.index, device=search.device)
        names = write_repository(bundle, path, config.profile, sign_key, index)
        console = Console()
        release = served_release(path)
        console.print(f"wrote    {release}: {', '.join(names)} ({config.profile} profile)", soft_wrap=True)
        console.print(f"serves   {path / CURRENT} names it; what runs goes on with the release it started with")
        console.print(f"next     python -m serving up {path}", style="bold", soft_wrap=True)


def main() -> None:
    """Run the entry point; errors that a person can mend end with one sentence and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with exit_on_error():
        sys.exit(export())
