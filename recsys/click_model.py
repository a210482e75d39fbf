"""A bundle of a click log in this process: probabilities of rows.

model = ClickModel.load("runs/clicks/bundle")
model.score(polars.read_csv("new.csv"))           # [rows, labels]
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.bundle import Bundle
from recsys.data.click_log import ClickLog, ImpressionColumns, feature_columns, times_of
from recsys.data.description import did_you_mean
from recsys.data.reading import FileFormat
from recsys.data.scanning import Chunk, ChunkedTable
from recsys.errors import BundleError, DataError
from recsys.features.batches import ItemBatch
from recsys.features.encode import encode_table, time_columns
from recsys.features.spec import IDENTITY, FeatureSpec
from recsys.stages import RANKER, OnnxModel
from recsys.tensors import Arrays

CLICK_LOG = "click_log.json"
"""file of a bundle: columns and format of the log it was trained on"""
BATCH_ROWS = 4_096
"""rows that go through the graph at once"""


@dataclass(frozen=True, kw_only=True)
class ClickModel:
    """The ranker of a click log, calibrated, as ONNX."""

    spec: FeatureSpec
    columns: ImpressionColumns
    format: FileFormat
    """of the delimited file that was trained on"""
    graph: OnnxModel

    @staticmethod
    def load(bundle: str | Path) -> "ClickModel":
        """Open a folder that a training with `task: ranking` wrote. BundleError where it is none, or is damaged."""
        return ClickModel.of(Bundle.open(bundle))

    @staticmethod
    def of(bundle: Bundle) -> "ClickModel":
        """Read an opened bundle, or a draft."""
        if not bundle.has(CLICK_LOG):
            raise BundleError(f"{bundle.path} is no bundle of a click log; load it by recsys.Recommender")
        spec = FeatureSpec.from_documents(bundle.document("spec.json"), bundle.document("vocabularies.json"))
        described = bundle.document(CLICK_LOG)
        columns, tuples = described["columns"], ("labels", "groups", "missing")
        names = described["format"].pop("columns")
        return ClickModel(
            spec=spec,
            columns=ImpressionColumns(**columns | {key: tuple(columns[key]) for key in tuples}),
            format=FileFormat(columns=names and tuple(names), **described["format"]),
            graph=OnnxModel(bundle.file(RANKER), ItemBatch.specs(spec.sizes)),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the probabilities."""
        return self.columns.labels

    def score(self, rows: pl.DataFrame) -> np.ndarray:
        """Return probabilities [R, T] float32 of rows with the feature columns of the log; DataError for one that is absent."""
        for name in self.inputs:
            if name not in rows.columns:
                raise DataError(
                    f"there is no column {name!r}{did_you_mean(name, rows.columns)}; the model reads {', '.join(self.inputs)}"
                )
        return self._scored(Chunk(frame=rows, start=0), "rows")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that the model reads."""
        read = {column.name for column in self.spec.items.columns}
        return tuple(name for name in self.columns.inputs if name in read or name == self.columns.timestamp)

    def score_file(self, path: Path, keep: tuple[str, ...]) -> Iterator[pl.DataFrame]:
        """Yield chunks of a file's columns `keep` with p_<label> behind them; the format is that of the training's file."""
        table = ChunkedTable(path=path, format=self.format)
        table.check((*self.inputs, *keep))
        for chunk in table.chunks((*self.inputs, *keep)):
            scored = self._scored(chunk, str(path))
            yield chunk.frame.select(keep).with_columns(
                pl.Series(f"p_{label}", scored[:, column]) for column, label in enumerate(self.labels)
            )

    def _scored(self, chunk: Chunk, where: str) -> np.ndarray:
        if not chunk.frame.height:
            return np.empty((0, len(self.labels)), np.float32)
        columns = feature_columns(self.columns, chunk, where, self.inputs)
        times = None
        if (name := self.columns.timestamp) is not None:
            times = times_of(chunk.frame[name], f"{where}, column {name!r}", self.columns.unit)
        return self.probabilities(encode_impressions(self.spec, columns, times))

    def probabilities(self, impressions: Arrays) -> np.ndarray:
        """Return [R, T] float32 of encoded impressions."""
        num_rows = len(next(iter(impressions.values())))
        batches = (
            {part: _wide(array[start : start + BATCH_ROWS]) for part, array in impressions.items()}
            for start in range(0, num_rows, BATCH_ROWS)
        )
        return np.concatenate([self.graph(ItemBatch(items=batch).tensors()) for batch in batches])


def _wide(array: np.ndarray) -> np.ndarray:
    """Ids as the graph reads them; training keeps them in half the memory."""
    return array.astype(np.int64) if array.dtype.kind == "i" else array


def encode_impressions(spec: FeatureSpec, columns: Mapping[str, np.ndarray], times: np.ndarray | None) -> Arrays:
    """Encode the features of R impressions as rows of the items; times [R] where the spec reads them."""
    derived = {} if times is None else time_columns(times)
    num_rows = len(next(iter(columns.values())))
    nothing = {IDENTITY: np.full(num_rows, None, dtype=object)}
    return encode_table(spec.items, {**nothing, **columns, **derived}, num_rows)


def save_click_log(bundle: Bundle, spec: FeatureSpec, log: ClickLog) -> None:
    """Write all files of a ClickModel but its graph into a draft."""
    document, vocabularies = spec.to_documents()
    bundle.write_document("spec.json", document)
    bundle.write_document("vocabularies.json", vocabularies)
    described: dict[str, Any] = {"columns": asdict(log.columns), "format": asdict(log.table.format)}
    bundle.write_document(CLICK_LOG, described)
