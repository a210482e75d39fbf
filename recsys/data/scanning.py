"""Tables that are read in chunks, so that memory does not grow with the file; recsys/data/reading.py reads whole files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import csv
from pyarrow.parquet import ParquetFile

from recsys.data.description import did_you_mean
from recsys.data.reading import DELIMITED, PARQUET, SPELLED, USUAL, FileFormat
from recsys.errors import DataError

CHUNK_ROWS = 65_536
"""rows of a chunk of a Parquet file"""
CHUNK_BYTES = 2**24
"""of a chunk of a delimited file"""
PACKED = (".gz", ".bz2", ".zst")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rows that lie behind one another in a file."""

    frame: pl.DataFrame
    start: int
    """rows before it"""

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.frame.height)


@dataclass(frozen=True, kw_only=True)
class ChunkedTable:
    """A Parquet file, or a delimited one in UTF-8, whose values are then text and null where empty. The delimiter is a
    comma, or that of the file's suffix, where `format` has none.
    """

    path: Path
    format: FileFormat

    def check(self, needed: Sequence[str]) -> None:
        """Raise DataError for the first column that the file lacks."""
        known = self._names()
        for name in needed:
            if name not in known:
                header = "" if self.format.columns else "; a file without a header needs `columns: [..]`"
                raise DataError(
                    f"{self.path}: there is no column {name!r}{did_you_mean(name, known)}; the file has "
                    f"{', '.join(map(str, known))}{header}"
                )

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """Read some columns in the order of the file; DataError for a row with more or fewer fields than columns."""
        names, start = list(dict.fromkeys(columns)), 0
        with self._reading():
            for batch in self._batches(names):
                frame = pl.DataFrame(pa.Table.from_batches([batch]))
                if frame.height:
                    yield Chunk(frame=frame, start=start)
                start += frame.height

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        if self._ending() in PARQUET:
            with ParquetFile(self.path) as file:
                yield from file.iter_batches(CHUNK_ROWS, columns=names)
        else:
            with self._open_csv(names) as reader:
                yield from reader

    def _names(self) -> list[str]:
        with self._reading():
            if self._ending() in PARQUET:
                with ParquetFile(self.path) as file:
                    return list(file.schema_arrow.names)
            with self._open_csv(None) as reader:
                return list(reader.schema.names)

    def _open_csv(self, names: list[str] | None) -> csv.CSVStreamingReader:
        delimiter = self.format.delimiter or USUAL.get(self._ending(), ",")
        return csv.open_csv(
            self.path,
            read_options=csv.ReadOptions(block_size=CHUNK_BYTES, column_names=self.format.columns),
            parse_options=csv.ParseOptions(
                delimiter=SPELLED.get(delimiter, delimiter),
                quote_char=False if self.format.quoting is False else '"',
            ),
            convert_options=csv.ConvertOptions(
                include_columns=names,
                column_types=None if names is None else dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )

    def _ending(self) -> str:
        if not self.path.is_file():
            raise DataError(
                f"{self.path}: there is no such file; correct `file`, it is taken relative to the YAML file"
            )
        endings = [one.lower() for one in self.path.suffixes]
        ending = next((one for one in reversed(endings) if one not in PACKED), "")
        if ending not in (*DELIMITED, *PARQUET):
            known = ", ".join((*DELIMITED, *PARQUET))
            raise DataError(f"{self.path}: the suffix {ending!r} is not known; write {known}")
        return ending

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn the errors of the readers into DataError."""
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DataError(
                f"{self.path}: cannot be read: {reason}; mend the file, or correct its description"
            ) from None
