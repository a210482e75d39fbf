"""`python -m recsys score`: probabilities of the rows of a file, by the bundle of a click log."""

from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.progress import track

from recsys.click_model import ClickModel
from recsys.errors import QueryError
from recsys.stores.atomic_files import atomic_file


def score(
    bundle: Annotated[Path, typer.Option(help="folder of a bundle that a training with task=ranking wrote")],
    rows: Annotated[Path, typer.Option(help="file with the feature columns of the click log, delimited or Parquet")],
    out: Annotated[Path, typer.Option(help="Parquet file to write: p_<label>, a row for each row of the file")],
    keep: Annotated[
        list[str] | None, typer.Option(help="column to write beside them; may be given several times")
    ] = None,
) -> None:
    """Score impressions with the ranker of a click log, in this process and in chunks."""
    if out.is_dir():
        raise QueryError(f"--out {out} is a folder; give the name of a Parquet file")
    chunks = ClickModel.load(bundle).score_file(rows, tuple(keep or ()))
    count, writer = 0, None
    with atomic_file(out) as draft:
        for frame in track(chunks, "scoring", transient=True):
            table = frame.to_arrow()
            writer = writer or pq.ParquetWriter(draft, table.schema)
            writer.write_table(table)
            count += frame.height
        if writer is None:
            raise QueryError(f"{rows} has no rows; give at least one")
        writer.close()
    Console().print(f"wrote {out}: {count:,} rows", soft_wrap=True)
