"""Files as they come: separators, encodings, packing, headers and quotes found by looking; no row vanishes."""

import bz2
import csv
import gzip
import io
from pathlib import Path

import polars as pl
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.reading import FileFormat, read_table
from recsys.errors import DataError

ROWS = [("u1", "Käse", "1700000000", "3"), ("u2", "brød", "1700000001", "4"), ("u3", "plain", "1700000002", None)]
TEXT = "user,item,at,rating\n" + "".join(",".join(value or "" for value in row) + "\n" for row in ROWS)


def read(folder: Path, content: str | bytes, name: str = "events.csv", **given):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, FileFormat(**given))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_delimiter_and_encoding_are_found(tmp_path: Path, delimiter: str, encoding: str) -> None:
    table = read(tmp_path, TEXT.replace(",", delimiter).encode(encoding))
    assert table.frame.rows() == ROWS
    assert table.frame.columns == ["user", "item", "at", "rating"]
    assert table.format.delimiter == delimiter


def test_keys_decide_what_cannot_be_seen(tmp_path: Path) -> None:
    assert read(tmp_path, "a b;c\n1 2;3\n", delimiter="space").frame.rows() == [("1", "2;3")]
    assert read(tmp_path, TEXT.encode("cp1250", errors="ignore"), encoding="cp1250").frame[0, "item"] == "Käse"
    assert read(tmp_path, "a,b\n'1','2'\n").frame.rows() == [("'1'", "'2'")]
    path = tmp_path / "blanks.txt"
    path.write_text("user item at\nu i 1\n")
    assert read_table(path, needed=("user", "at")).frame.rows() == [("u", "i", "1")]
    table = read(tmp_path, "1::1193::5::978300760\n", "ratings.dat", columns=("user", "item", "rating", "at"))
    assert table.frame.rows() == [("1", "1193", "5", "978300760")]


@pytest.mark.parametrize(
    "name", ["EVENTS.CSV", "events.txt", "events.dat", "events.csv.gz", "E.CSV.GZ", "e.csv.zst", "e.csv.bz2"]
)
def test_endings_and_packing(tmp_path: Path, name: str) -> None:
    packers = {
        "gz": gzip.compress,
        "zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True),
        "bz2": bz2.compress,
    }
    packed = packers.get(name.lower().rsplit(".", 1)[1], bytes)(TEXT.encode())
    assert read(tmp_path, packed, name).frame.rows() == ROWS
    assert read(tmp_path, packed, "unpacked_by_name.csv").frame.rows() == ROWS


def test_parquet_of_any_ending(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 2], "at": [1.5, None]})
    packed = io.BytesIO()
    frame.write_parquet(packed)
    for name, content in [("E.PARQUET", packed.getvalue()), ("e.parquet.gz", gzip.compress(packed.getvalue()))]:
        assert read(tmp_path, content, name).frame.equals(frame)


def test_a_file_without_header_is_seen_or_given_its_columns(tmp_path: Path) -> None:
    text = "u1,i1,1700000000\nu2,i1,1700000001\n"
    table = read(tmp_path, text)
    assert table.headerless
    assert table.frame.rows() == [("u1", "i1", "1700000000"), ("u2", "i1", "1700000001")]
    named = read(tmp_path, text, columns=("user", "item", "at"))
    assert (named.headerless, named.frame.columns, named.frame.height) == (False, ["user", "item", "at"], 2)
    assert read(tmp_path, "milk,alice\neggs,bob\nmilk,bob\n").headerless
    assert not read(tmp_path, "item,user\neggs,bob\nmilk,bob\n").headerless
    path = tmp_path / "events.csv"
    path.write_text("user,2019\nu1,4\n")
    assert read_table(path).headerless
    assert not read_table(path, needed=("user", "2019")).headerless


def test_quotes_enclose_values_or_are_part_of_them(tmp_path: Path) -> None:
    quoted = 'user,title\nu1,"One, ""two"""\nu2,"over\ntwo lines"\nu3,a 12" disc\n'
    assert read(tmp_path, quoted).frame["title"].to_list() == ['One, "two"', "over\ntwo lines", 'a 12" disc']
    dump = 'user\ttitle\nu1\t"Open\nu2\tplain\nu3\tclose"\nu4\ta 12" disc\n'
    table = read(tmp_path, dump, "events.tsv")
    assert table.frame["title"].to_list() == ['"Open', "plain", 'close"', 'a 12" disc']
    assert any("quotes do not enclose" in note for note in table.notes)
    assert read(tmp_path, dump, "events.tsv", quoting=True).frame.height == 2
    assert read(tmp_path, 'a;b\n"x";"y"\n', quoting=False).frame.rows() == [('"x"', '"y"')]
    assert read(tmp_path, 'user, title\n"u1", "a, b"\n').frame.rows() == [("u1", "a, b")]
    reviews = 'user,text,stars\nu1,"good, bad\nand, ugly, too",5\nu2,"fine\n\nreally",3\n'
    assert read(tmp_path, reviews).frame["text"].to_list() == ["good, bad\nand, ugly, too", "fine\n\nreally"]
    escaped = 'user,title\nu1,"a \\"word\\", two"\nu2,"plain"\n'
    assert read(tmp_path, escaped).frame["title"].to_list() == ['a "word", two', "plain"]


def test_lines_that_are_no_rows_are_named(tmp_path: Path) -> None:
    table = read(tmp_path, "user,item\nu1,i1\n\nuser,item\r\nu2,i2\n\n")
    assert table.frame.rows() == [("u1", "i1"), ("u2", "i2")]
    assert [note.split(": ", 1)[1] for note in table.notes] == [
        "empty lines that are no rows: 2",
        "lines that repeat the header and are no rows: 1",
    ]
    assert read(tmp_path, "sep=;\nuser;item\nu1;i,1\n").frame.rows() == [("u1", "i,1")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "user,item,at\nu1,i1,1\nu2,i2\n",
            r"line 3: 2 fields, the first line has 3, none for the column 'at'; complete",
        ),
        ("user,item,at\nu1,i1,1\nu2,i", r"line 3: 2 fields.*the file is cut off before the column 'at'; fetch it anew"),
        ("user,item\nu1,i1\n\nu2,a, b\n", r"line 4: 3 fields.*too many behind the column 'item'; put values.*commas"),
        ('user,item\nu1,"a,b"\nu2,"c,d"\nu3,"e', r"line 4: quotes begin that do not end"),
        ('user\ttitle\tn\nu1\t"Open\t1\nu2\tplain\nu3\tclose"\t2\n', r"line 3: 2 fields.*quotes do not enclose.*'n'"),
        ('user\titem\tt\nu1\t"a\tb\nu2\ti2\n', r"line 3: 2 fields, the first line has 3"),
        ("user,item,user\nu1,i1,u2\n", r"line 1: the columns 1 and 3 are both called 'user'; rename or remove one"),
        (TEXT.encode() + b"u4,\xe9t\xe9 \xc3\xa4\xc3\xa4,1,1\n" + "äöüß".encode(), r"line 5: bytes that are not UTF-8"),
        (gzip.compress(TEXT.encode(), mtime=0)[:-12], r"cannot be unpacked: .*; fetch the file anew"),
        (b"PK\x03\x04rest", r"is a zip archive or a spreadsheet; unpack it"),
    ],
)
def test_a_damaged_file_names_line_and_column(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert "events.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoding": "utf9"}, r"encoding is 'utf9' \(did you mean 'utf-8'\?\)"),
        ({"encoding": "ascii"}, r"line 2: bytes that are not ascii"),
        ({"delimiter": ""}, r"delimiter is ''; write the separator of the values"),
        ({"columns": ("user", "item")}, r"columns names 2, the first line has 4 fields"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(tmp_path: Path, given: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, TEXT, **given)


VALUES = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)


@given(
    st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=20),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]),
)
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory, rows, delimiter: str, encoding: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("first", "second", "third"), *rows])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    table = read_table(path, FileFormat(delimiter=delimiter), needed=("first", "second", "third"))
    assert table.frame.rows() == [tuple(value or None for value in row) for row in rows]


@given(st.lists(st.tuples(st.sampled_from(["a", '"a', 'a"', '"', '"b"', 'a 12" b']), VALUES), min_size=1, max_size=9))
def test_no_row_of_an_unquoted_dump_vanishes(tmp_path_factory, rows) -> None:
    rows = [(left, right.replace("|", "").replace('"', "")) for left, right in rows]
    path = tmp_path_factory.getbasetemp() / "dump.psv"
    path.write_text("left|right|end\n" + "".join(f"{left}|{right}|1\n" for left, right in rows), encoding="utf-8")
    try:
        table = read_table(path, needed=("left", "right", "end"))
    except DataError as error:
        assert "line" in str(error)  # noqa: PT017
    else:
        assert table.frame.height == len(rows)
