"""`recsys wandb-sweep` and `wandb-report`: files for W&B's agents and reports, made without a network."""

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from recsys.errors import DataError
from recsys.stores.atomic_files import write_atomically


def wandb_sweep(
    overrides: Annotated[
        list[str], typer.Argument(help="as of train.py -m: hparams_search=ranker 'retrieval.dropout=interval(0.1,0.5)'")
    ],
    out: Annotated[Path, typer.Option(help="file to write")] = Path("sweep.yaml"),
    method: Annotated[str, typer.Option(help="bayes, random or grid")] = "bayes",
    trials: Annotated[int | None, typer.Option(min=1, help="runs in all; needed unless the method is grid")] = None,
) -> None:
    """Write a search space for `wandb sweep`; every choice and end of a range is checked before."""
    from recsys.cli.wandb_sweep import sweep_document

    document = sweep_document(overrides, method=method, trials=trials)
    write_atomically(out, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    console = Console()
    console.print(f"sweep    {out}: {len(document['parameters'])} keys, {document['metric']['name']}", soft_wrap=True)
    console.print(f"next     wandb sweep {out}", style="bold", soft_wrap=True)


def wandb_report(
    folder: Annotated[Path, typer.Argument(help="folder of a sweep")],
    out: Annotated[Path | None, typer.Option(help="file to write; else report.md in the folder")] = None,
) -> None:
    """Write the draft of a W&B report on a sweep: its table, and the panels to add with their keys."""
    from recsys.cli.wandb_report import report_text
    from recsys.training.sweeps import compare_jobs

    comparison, out = compare_jobs(folder), out or folder / "report.md"
    if not comparison.configurations:
        raise DataError(f"{folder} holds no finished job of a sweep; give the folder that train.py -m printed")
    write_atomically(out, report_text(folder, comparison).encode())
    Console().print(f"report   {out}", soft_wrap=True)
