"""Event log stored beside the bundle of a run."""

from pathlib import Path

from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.tables import Tables


def read_log(bundle: Path, data: Path | None) -> Dataset:
    """Read the log; data: description.yaml of another one."""
    return Tables(description=str(data or bundle.resolve().parent / "data" / DESCRIPTION_FILE)).load()
