"""MovieLens 100K: 943 users, 1,682 films, 100,000 ratings (Harper and Konstan 2015, doi:10.1145/2827872).

Its licence forbids redistribution, so it is read from the first available origin: a folder of the user, the cache of an
earlier run, the GroupLens archive, or the example data in the wheel of RecBole. All give the same canonical table.
"""

import http.client
import io
import queue
import re
import subprocess
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl

from recsys.data.dataset import DESCRIPTION_FILE, Dataset
from recsys.data.description import Description
from recsys.data.sources.tables import Tables
from recsys.data.validation import RawTable, validated
from recsys.errors import DataError
from recsys.wheels import download_wheel, one_line, user_cache

NAME = "movielens-100k"
CACHE = "the cache"
ARCHIVE = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
ANSWER_WITHIN_S = 3.0
WHEEL = "recbole==1.2.1"

GROUPLENS_FILES = ("u.data", "u.item", "u.user")
TYPED_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""genres in the order of the flags in u.item"""

DESCRIPTION = Description(
    actions={"rating": "number"},
    context={},
    items={"title": "text", "genres": "categories", "year": "number"},
    users={"age": "number", "gender": "category", "occupation": "category"},
    objectives={"watch": "1", "like": "rating >= 4"},
    target="watch",
    title="title",
    order="time",
)

Files = Mapping[str, bytes]
"""name without folder -> content"""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Expected properties of the canonical table from any origin."""

    users: int
    items: int
    ratings: tuple[int, ...]
    """number of ratings of 1, 2, 3, 4, 5"""
    sha256: str

    def __str__(self) -> str:
        stars = "/".join(map(str, self.ratings))
        return f"{self.users} users, {self.items} films, {stars} ratings of 1 to 5, hash {self.sha256[:12]}"


OFFICIAL = Expected(
    users=943,
    items=1682,
    ratings=(6110, 11370, 27145, 34174, 21201),
    sha256="9fe03e83f995476ab199e78be18589277488321bfc1e6ce33ecf40377a5739ec",
)


@dataclass(frozen=True, kw_only=True)
class MovieLens100K:
    """Ratings with title, genres and year of the film and age, gender and occupation of the user."""

    folder: str | None
    """holds u.data, u.item and u.user, or ml-100k.inter, .item and .user; null: from cache or network"""
    cache: str | None
    """folder that keeps the table for the next run; null: the user's cache folder of the platform"""

    def load(self) -> Dataset:
        """Load the data set; DataError where no origin works or the table is not the official one."""
        if self.folder is not None:
            return checked(parse(_in_folder(Path(self.folder)), self.folder), OFFICIAL, self.folder)
        kept = (Path(self.cache) if self.cache is not None else user_cache()) / NAME
        tried = []
        for name, origin in _origins(kept).items():
            try:
                dataset = checked(origin(), OFFICIAL, name)
            except (
                DataError,
                OSError,
                http.client.HTTPException,
                zipfile.BadZipFile,
                subprocess.SubprocessError,
            ) as error:
                tried.append(f"{name}: {one_line(error)}")
            else:
                return dataset if name == CACHE else _keep(dataset, kept)
        raise DataError(
            f"MovieLens 100K could not be had; tried {'; '.join(tried)}. "
            f"Download {ARCHIVE} by hand, unpack it and name the folder with u.data as `folder`"
        )


def parse(files: Files, origin: str) -> Dataset:
    """Parse either layout to the canonical table; origin: for messages."""
    if all(name in files for name in GROUPLENS_FILES):
        return _grouplens(files, origin)
    if all(name in files for name in TYPED_FILES):
        return _typed(files, origin)
    raise DataError(
        f"{origin}: wanted {', '.join(GROUPLENS_FILES)} or {', '.join(TYPED_FILES)} there; correct the folder"
    )


def checked(dataset: Dataset, expected: Expected, origin: str) -> Dataset:
    """Return `dataset` when counts, ratings and hash are as expected, else raise DataError."""
    counts = dict(dataset.interactions["rating"].value_counts().iter_rows())
    ratings = tuple(counts.get(float(stars), 0) for stars in range(1, 6))
    found = Expected(users=dataset.num_users, items=dataset.num_items, ratings=ratings, sha256=dataset.hash())
    if found != expected:
        raise DataError(f"{origin}: this is not MovieLens 100K, found {found}, wanted {expected}; fetch it anew")
    return dataset


def title_and_year(title: str, year: str) -> tuple[str | None, float | None]:
    """Split 'Toy Story (1995)', '' or 'Toy Story', '1995' into 'Toy Story', 1995.0; None where unknown.

    >>> title_and_year("Land Before Time III (1995) (V)", "")
    ('Land Before Time III', 1995.0)
    """
    title = " ".join(title.split()).strip('"')
    if match := re.fullmatch(r"(.*?) ?\((\d{4})\)(?: \(V\))?", title):
        title, year = match.groups()
    known = title.lower() not in ("", "unknown", "unkonwn")
    return (title if known else None), (float(year) if year.isdigit() else None)


def _grouplens(files: Files, origin: str) -> Dataset:
    """u.data: user item rating timestamp; u.item: id|title|release|video|url|19 flags; u.user: id|age|gender|job|zip"""
    events = _read(files, "u.data", "\t", ("user", "item", "rating", "timestamp"))
    users = _read(files, "u.user", "|", ("user", "age", "gender", "occupation", "zip"))
    films = _read(files, "u.item", "|", ("item", "title", "release", "video", "url", *GENRES))
    genres = [[name for name in GENRES if row[name] == "1"] for row in films.iter_rows(named=True)]
    items = _films(films["item"], films["title"], [""] * films.height, genres)
    return _dataset(events, items, users, origin)


def _typed(files: Files, origin: str) -> Dataset:
    """Tab separated with a header of `name:type`; the year is cut off the title, genres are in one field."""
    events = _read(files, "ml-100k.inter", "\t", None).rename({"user_id": "user", "item_id": "item"})
    users = _read(files, "ml-100k.user", "\t", None).rename({"user_id": "user"})
    films = _read(files, "ml-100k.item", "\t", None)
    genres = [(text or "").split() for text in films["class"]]
    items = _films(films["item_id"], films["movie_title"], films["release_year"], genres)
    return _dataset(events, items, users, origin)


def _read(files: Files, name: str, separator: str, columns: tuple[str, ...] | None) -> pl.DataFrame:
    """Read all columns as text; without `columns` they are named in a typed header."""
    encoding = "utf-8" if columns is None else "latin-1"
    try:
        text = files[name].decode(encoding).encode()
        table = pl.read_csv(
            text,
            separator=separator,
            quote_char=None,
            infer_schema=False,
            has_header=columns is None,
            new_columns=columns,
        )
    except (UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{name} of MovieLens 100K cannot be read: {one_line(error)}; fetch it anew") from None
    return table.rename(lambda column: column.split(":")[0])


def _films(
    ids: pl.Series, titles: Iterable[str | None], years: Iterable[str | None], genres: list[list[str]]
) -> pl.DataFrame:
    named = [title_and_year(title or "", year or "") for title, year in zip(titles, years, strict=True)]
    known = [sorted(set(some) - {"unknown"}) for some in genres]
    return pl.DataFrame(
        {"item": ids, "title": [title for title, _ in named], "genres": known, "year": [year for _, year in named]},
        schema_overrides={"title": pl.String, "genres": pl.List(pl.String), "year": pl.Float64},
    )


def _dataset(events: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame, origin: str) -> Dataset:
    def table(part: str, frame: pl.DataFrame, *names: str) -> RawTable:
        return RawTable(file=f"{origin} ({part})", frame=frame, names={name: name for name in names}, separator="|")

    return validated(
        name=NAME,
        interactions=table("ratings", events, "user", "item", "timestamp"),
        items=table("films", items, "item"),
        users=table("users", users, "user"),
        description=DESCRIPTION,
    )


def _origins(kept: Path) -> dict[str, Callable[[], Dataset]]:
    """Return the origins in the order in which they are tried."""
    return {CACHE: partial(_cached, kept), ARCHIVE: _from_archive, WHEEL: _from_wheel}


def _in_folder(folder: Path) -> Files:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; name the one with u.data, or null to fetch the data")
    return {
        name: (folder / name).read_bytes() for name in (*GROUPLENS_FILES, *TYPED_FILES) if (folder / name).is_file()
    }


def _in_zip(archive: io.BytesIO | Path) -> Files:
    with zipfile.ZipFile(archive) as members:
        members_to_read = [
            name for name in members.namelist() if name.split("/")[-1] in (*GROUPLENS_FILES, *TYPED_FILES)
        ]
        return {name.split("/")[-1]: members.read(name) for name in members_to_read}


def _cached(kept: Path) -> Dataset:
    if not (kept / DESCRIPTION_FILE).is_file():
        raise DataError(f"nothing kept in {kept} yet")
    return Tables(description=str(kept / DESCRIPTION_FILE)).load()


def _keep(dataset: Dataset, kept: Path) -> Dataset:
    try:
        dataset.save(kept)
    except OSError as error:
        return replace(dataset, notes=(*dataset.notes, f"could not be kept for the next run: {one_line(error)}"))
    return dataset


def _from_archive() -> Dataset:
    with _opened(ARCHIVE) as answer:
        return parse(_in_zip(io.BytesIO(answer.read())), ARCHIVE)


def _opened(url: str) -> http.client.HTTPResponse:
    """Return the response, or raise TimeoutError: opened in a thread, since no socket timeout bounds name resolution."""
    answers: queue.Queue[http.client.HTTPResponse | BaseException] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S))  # nosec B310: https, ours
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_WITHIN_S)
    except queue.Empty:
        raise TimeoutError(f"no answer within {ANSWER_WITHIN_S:g} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _from_wheel() -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        return parse(_in_zip(download_wheel(WHEEL, folder)), WHEEL)
