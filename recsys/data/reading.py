"""Reading of table files, with detection of the format that is not given.

W columns. Lines count from 1, the first line of the file, as editors count them.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.decoding import COMPRESSED, decoded, decompressed
from recsys.errors import DataError

DELIMITED, PARQUET = (".csv", ".tsv", ".txt", ".dat", ".data", ".tab", ".psv"), (".parquet", ".pq")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", "::": "double colons"}
USUAL = {".tsv": "\t", ".tab": "\t", ".psv": "|"}
"""delimiter by file ending, where it is no comma"""
SPELLED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|", "space": " "}
STAND_IN = "\x1f"
"""replaces a delimiter of several characters, which the parser does not support"""
SAMPLE_LINES = 100
CHUNK_ROWS = 50_000
DATA_LIKE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|\d{4}-\d\d-\d\d([ T].*)?|[0-9a-f]{8}-[0-9a-f-]{27}")


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """Format of a delimited file; None is detected."""

    delimiter: str | None = None
    encoding: str | None = None
    columns: tuple[str, ...] | None = None
    """names of all columns, for a file without a header"""
    quoting: bool | None = None
    """double quotes enclose values; else they are part of them"""


@dataclass(frozen=True, kw_only=True)
class FileTable:
    """Content of a file with its format."""

    frame: pl.DataFrame
    """text columns of a delimited file, null where empty; a Parquet file's own types"""
    format: FileFormat
    """the detected format; empty for Parquet"""
    headerless: bool
    """the first line looks like data: it is the first row, and columns are named by number"""
    first_line: str
    """raw first line, for messages"""
    notes: tuple[str, ...]


def read_table(path: Path, given: FileFormat | None = None, *, needed: Collection[str] = ()) -> FileTable:
    """Read a file of a known ending, compressed or not, without dropping or merging rows.

    needed: required columns, which decide an ambiguous detection. DataError names file, line and column.
    """
    given = given or FileFormat()
    ending = _ending(path)
    if ending in PARQUET:
        return _parquet(path)
    text, encoding, notes = decoded(path, decompressed(path), given.encoding)
    text, marked = _sep_line(text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\x1a"))
    if not text.strip():
        raise DataError(f"{path}: the file is empty; write a header and at least one row")
    delimiter = _spelled(path, given.delimiter) or marked or _found_delimiter(text, needed)
    if delimiter != USUAL.get(ending, ",") and given.delimiter is None:
        notes += (f"{path}: read with {DELIMITERS.get(delimiter, repr(delimiter))} between the values",)
    source = _Source(path=path, text=text.replace(delimiter, STAND_IN) if len(delimiter) > 1 else text,
                     delimiter=delimiter, line=2 if marked else 1)  # fmt: skip
    lines = _parsed(source, given.quoting, given.columns)
    return _table(source, lines, given, needed, encoding, notes)


def _ending(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; correct `file`, it is taken relative to the YAML file")
    endings = [one.lower() for one in path.suffixes]
    ending = next((one for one in reversed(endings) if one not in COMPRESSED), "")
    if ending not in (*DELIMITED, *PARQUET):
        raise DataError(
            f"{path}: the suffix {ending!r} is not known; write {', '.join((*DELIMITED, *PARQUET))}, packed "
            f"({', '.join(COMPRESSED)}) or not"
        )
    return ending


def _parquet(path: Path) -> FileTable:
    packed = path.suffix.lower() in COMPRESSED
    try:
        frame = pl.read_parquet(io.BytesIO(decompressed(path)) if packed else path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{path}: cannot be read as parquet: {reason}; write it anew") from None
    return FileTable(frame=frame, format=FileFormat(), headerless=False, first_line="", notes=())


@dataclass(frozen=True, kw_only=True)
class _Source:
    path: Path
    text: str
    """lines end with a newline alone"""
    delimiter: str
    line: int
    """number of the first line of the text"""

    @property
    def character(self) -> str:
        return self.delimiter if len(self.delimiter) == 1 else STAND_IN

    def at(self, line: int) -> str:
        return f"{self.path}, line {line}"


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """Rows of a text, first line included, under one interpretation of quotes."""

    first: list[str]
    quoting: bool
    wrong: tuple[tuple[int, int], ...] = ()
    """(line, number of fields) of rows with another number than the first"""
    num_blank: int = 0
    fields: Sequence[int] = ()
    """of every line, where each line is a row"""
    spans: tuple[tuple[int, int], ...] = ()
    """first and last line of rows whose quotes hold line breaks"""
    open_line: int | None = None
    """line of a quote that is not closed"""
    last_line: int = 0
    frames: Callable[[list[str]], pl.DataFrame]
    """names [W] -> all rows, callable where none is wrong"""

    @property
    def whole(self) -> bool:
        return not self.wrong and self.open_line is None


def _sep_line(text: str) -> tuple[str, str | None]:
    """Remove the line `sep=;` that spreadsheets write first; return text and delimiter."""
    first, _, rest = text.partition("\n")
    found = re.fullmatch(r'"?sep=(.)"?', first, flags=re.IGNORECASE)
    return (rest, found[1]) if found else (text, None)


def _spelled(path: Path, delimiter: str | None) -> str | None:
    if delimiter is None:
        return None
    spelled = SPELLED.get(delimiter, delimiter)
    if not spelled or "\n" in spelled or '"' in spelled:
        raise DataError(f"{path}: delimiter is {delimiter!r}; write the separator of the values, for instance ';'")
    return spelled


def _found_delimiter(text: str, needed: Collection[str]) -> str:
    """Detect the delimiter that gives the required columns, the most consistent lines and the most fields."""
    sample = [line for line in islice(io.StringIO(text), 2 * SAMPLE_LINES) if line.strip()][:SAMPLE_LINES]
    scores = {one: max(_scores(sample, one, needed)) for one in (*DELIMITERS, " ")}
    if not scores[" "][0]:
        del scores[" "]
    best = max(scores, key=lambda one: scores[one])
    return best if scores[best][2] > 1 else ","


def _scores(sample: Sequence[str], delimiter: str, needed: Collection[str]) -> Iterator[tuple[bool, float, int]]:
    plain = [line.rstrip("\n").split(delimiter) for line in sample]
    read = [plain]
    if len(delimiter) == 1:
        read.append([row for row in csv.reader(sample, delimiter=delimiter) if row])
    for rows in read:
        width = len(rows[0])
        same = sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0
        yield bool(needed) and {*needed} <= {_name(one) for one in rows[0]}, same, width


def _name(text: str) -> str:
    return text.strip().removeprefix('"').removesuffix('"').strip()


def _parsed(source: _Source, quoting: bool | None, columns: Sequence[str] | None) -> _Lines:
    """Parse with quotes that enclose values or are part of them: as given, else the interpretation that fits.

    Where both fit, quotes enclose unless values contain line breaks: lines within a value that have as many delimiters as
    a row indicate a dump without quoting, where the quotes of two rows would hide the rows between them.
    """
    if quoting is False or '"' not in source.text:
        return _checked(source, _plain(source), columns)
    ways = [_quoted(source, {})]
    if not ways[0].whole and '\\"' in source.text:
        ways.insert(0, _quoted(source, {"escapechar": "\\", "doublequote": False}))
    enclosed = next((way for way in ways if way.whole), ways[-1])
    if quoting:
        return _checked(source, enclosed, columns)
    plain = _plain(source)
    dumped = [span for span in enclosed.spans if _are_rows(plain, source.line, *span)]
    if enclosed.whole and not (enclosed.spans and plain.whole) and 2 * len(dumped) <= len(enclosed.spans):
        return _checked(source, enclosed, columns)
    cut_off = enclosed.open_line is not None and enclosed.open_line == plain.last_line
    stray = plain.whole and not cut_off
    fewer = (enclosed.open_line is not None and not cut_off) or len(plain.wrong) < len(enclosed.wrong)
    return _checked(source, plain if stray or dumped or (fewer and not cut_off) else enclosed, columns)


def _are_rows(plain: _Lines, begin: int, first: int, last: int) -> bool:
    """Return whether most of these lines have the fields of a row."""
    whole = sum(num == len(plain.first) for num in plain.fields[first - begin : last - begin + 1])
    return 2 * whole > last - first + 1


def _plain(source: _Source) -> _Lines:
    """Read every line as a row."""
    data = source.text.encode("utf-8", "surrogatepass")
    data += b"" if data.endswith(b"\n") else b"\n"
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    within = np.flatnonzero(codes == ord(source.character))
    counts = np.searchsorted(within, ends) - np.searchsorted(within, starts) + 1
    present = np.flatnonzero(ends > starts)
    first = data[starts[present[0]] : ends[present[0]]].decode().split(source.character)
    wrong = present[counts[present] != len(first)]

    def frames(names: list[str]) -> pl.DataFrame:
        kept = re.sub(rb"\n{2,}", b"\n", data.lstrip(b"\n")) if len(present) < len(ends) else data
        return pl.read_csv(
            io.BytesIO(kept), separator=source.character, quote_char=None, infer_schema=False, has_header=False,
            new_columns=names, glob=False,
        )  # fmt: skip

    return _Lines(
        first=first,
        quoting=False,
        wrong=tuple((int(line) + source.line, int(counts[line])) for line in wrong),
        fields=counts.tolist(),
        num_blank=len(ends) - len(present),
        last_line=int(present[-1]) + source.line,
        frames=frames,
    )


def _quoted(source: _Source, escapes: dict[str, object]) -> _Lines:
    """Read rows by RFC 4180."""
    first: list[str] = []
    wrong, spans, num_blank, open_line, line = [], [], 0, None, source.line - 1
    rows = _csv_rows(source, escapes)
    try:
        for end, row in rows:
            start, line = line + 1, end
            num_blank += not row
            first = first or row
            if line > start:
                spans.append((start, line))
            if row and len(row) != len(first):
                wrong.append((start, len(row)))
    except csv.Error:
        open_line = line + 1

    def frames(names: list[str]) -> pl.DataFrame:
        parts, rows = [], (row for _, row in _csv_rows(source, escapes) if row)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            columns = zip(names, zip(*chunk, strict=True), strict=True)
            parts.append(pl.DataFrame({name: pl.Series(values, dtype=pl.String) for name, values in columns}))
        return pl.concat(parts).with_columns(pl.all().replace("", None))

    return _Lines(
        first=first, quoting=True, wrong=tuple(wrong), num_blank=num_blank, spans=tuple(spans), open_line=open_line,
        last_line=line, frames=frames,
    )  # fmt: skip


def _csv_rows(source: _Source, escapes: dict[str, object]) -> Iterator[tuple[int, list[str]]]:
    """Yield (last line, fields) of every row; csv.Error for unbalanced quotes."""
    csv.field_size_limit(2**31 - 1)
    blanks = f'{source.character} "' in source.text
    reader = csv.reader(
        io.StringIO(source.text),
        delimiter=source.character,
        strict=True,
        skipinitialspace=blanks,
        **escapes,  # type: ignore[arg-type]
    )
    for row in reader:
        yield reader.line_num + source.line - 1, row


def _checked(source: _Source, lines: _Lines, columns: Sequence[str] | None) -> _Lines:
    """Return the rows; DataError for a row with another number of fields than columns."""
    if lines.open_line is not None:
        raise DataError(
            f"{source.at(lines.open_line)}: quotes begin that do not end as they should; complete the row, or write "
            "`quoting: false` where quotes are part of the values"
        )
    if columns is not None and len(columns) != len(lines.first):
        raise DataError(
            f"{source.path}: columns names {len(columns)}, the first line has {len(lines.first)} fields; name all of them"
        )
    if lines.wrong:
        raise DataError(_ragged(source, lines, columns or [_name(one) for one in lines.first]))
    return lines


def _ragged(source: _Source, lines: _Lines, names: Sequence[str]) -> str:
    line, num = lines.wrong[0]
    rest = f" ({len(lines.wrong)} such rows)" if len(lines.wrong) > 1 else ""
    found = f"{source.at(line)}: {num} fields, the first line has {len(names)}{rest}"
    if not lines.quoting and '"' in source.text:
        found += " where quotes do not enclose values (else write `quoting: true`)"
    if num > len(names):
        held = DELIMITERS.get(source.delimiter, repr(source.delimiter))
        return (
            f"{found}, too many behind the column {names[-1]!r}; put values that hold {held} in quotes or mend the row"
        )
    if line == lines.last_line and not source.text.endswith("\n"):
        return f"{found}: the file is cut off before the column {names[num]!r}; fetch it anew or remove the line"
    return f"{found}, none for the column {names[num]!r}; complete or remove the row"


def _table(
    source: _Source,
    lines: _Lines,
    given: FileFormat,
    needed: Collection[str],
    encoding: str,
    notes: tuple[str, ...],
) -> FileTable:
    numbered = [f"column_{number}" for number in range(1, len(lines.first) + 1)]
    header = [_name(name) or number for name, number in zip(lines.first, numbered, strict=True)]
    frame = lines.frames(numbered)
    described = bool(needed) and {*needed} <= {*header}
    headerless = given.columns is None and not described and _like_data(lines.first, frame)
    names = numbered if headerless else list(given.columns or header)
    _check_doubled(source, names)
    frame, repeated = _without_headers(frame, names, given.columns is None and not headerless, lines.first)
    return FileTable(
        frame=frame.rename(dict(zip(numbered, names, strict=True))),
        format=FileFormat(
            delimiter=source.delimiter,
            encoding=encoding,
            columns=None if headerless else given.columns,
            quoting=lines.quoting,
        ),
        headerless=headerless,
        first_line=source.delimiter.join(lines.first),
        notes=(*notes, *_notes(source, lines, given, repeated)),
    )


def _like_data(first: Sequence[str], frame: pl.DataFrame) -> bool:
    """Return whether the first line is data: a header name is no number, no time and no value of its column."""
    if any(DATA_LIKE.fullmatch(_name(one)) for one in first):
        return True
    body = frame[1:].filter(~_equal(frame.columns, first))
    return any(one.strip() and bool((column == one).any()) for one, column in zip(first, body, strict=True))


def _equal(columns: Sequence[str], values: Sequence[str]) -> pl.Expr:
    """Return rows that equal these values, empty text for null."""
    return pl.all_horizontal(
        pl.col(column).fill_null("") == value for column, value in zip(columns, values, strict=True)
    )


def _check_doubled(source: _Source, names: Sequence[str]) -> None:
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        numbers = [str(index + 1) for index, one in enumerate(names) if one == name]
        raise DataError(
            f"{source.at(source.line)}: the columns {' and '.join(numbers)} are both called {name!r}; rename or remove one"
        )


def _without_headers(
    frame: pl.DataFrame, names: Sequence[str], header: bool, first: Sequence[str]
) -> tuple[pl.DataFrame, int]:
    """Return the data rows, and the number of repeated header lines."""
    frame, line = (frame[1:], first) if header else (frame, names)
    again = frame.select(_equal(frame.columns, line).alias("again"))["again"]
    return frame.filter(~again), int(again.sum())


def _notes(source: _Source, lines: _Lines, given: FileFormat, repeated: int) -> Iterator[str]:
    if lines.num_blank:
        yield f"{source.path}: empty lines that are no rows: {lines.num_blank}"
    if repeated:
        yield f"{source.path}: lines that repeat the header and are no rows: {repeated}"
    if not lines.quoting and given.quoting is None and '"' in source.text:
        yield f"{source.path}: quotes do not enclose values there, they are kept as part of them"
