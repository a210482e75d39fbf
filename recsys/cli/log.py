"""The event log that a run kept beside its bundle."""

from pathlib import Path

from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.sources.tables import Tables


def read_log(bundle: Path, data: Path | None) -> Dataset:
    """data: description.yaml of another log."""
    return Tables(description=str(data or bundle.resolve().parent / "data" / DESCRIPTION_FILE)).load()
