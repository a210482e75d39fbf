"""The IDEA field study of Informfully: thumbs, favourites and bookmarks on news (Heitz et al. 2024), MIT licence."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, TIMESTAMP, USER, Description
from recsys.data.sources.delimited import read_columns
from recsys.data.validation import RawTable, validated
from recsys.errors import DataError

INTERESTING, EASY, FAVOURITE, BOOKMARK = ACTIONS = ("interesting", "easy", "favourite", "bookmark")
QUESTIONS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("DZyvQCx4sTr6xhd67", "yZ7Db3PsTNW2na9hZ", "EiEAq5Ms4WfukLwG8", "bQ925uvAhfuLJX9w8"),
            *("8chxji6FtzC7c6eca", "FKf2wJTAEMSDipPga", "9kkHAP44YsWdv238y", "HNTDMFkjt3Ynvhy7d"),
        ),
        INTERESTING,
    ),
    **dict.fromkeys(
        (
            *("yGoJwWDeDdug6x3Dg", "ZiZJw4TLtxzGkPpGY", "XpAM2pajfeiP6MXrR", "yx9tNErJn37qNWZZq"),
            *("HozRh4v7WkCPfH6je", "vn3xBCvWXt8AvfMyf", "wCJoa9Jwpte34MB8i", "pu5tmJQ2AtYthuMCv"),
        ),
        EASY,
    ),
}
"""question id -> objective of its thumb"""
TIME = "%Y-%m-%d %H:%M:%S"
"""UTC"""
COLUMNS = {"informfully_id": USER, "articleId": ITEM, "createdAt": TIMESTAMP, "removedAt": "removed"}
THUMBS = {**COLUMNS, "articleQuestionId": "question", "articleAnswer": "value"}
DESCRIPTION = Description(
    actions=dict.fromkeys(ACTIONS, "number"),
    context={},
    items={},
    users={},
    objectives={"read": "1"} | {name: f"{name} > 0" for name in ACTIONS},
    target="read",
    title=None,
    order="time",
)


@dataclass(frozen=True, kw_only=True)
class Informfully:
    """Actions on articles: one event per person and article, at the time of the last action, so that no event holds
    later information.

    A thumb that was not given is missing; an article that was not saved is no favourite and no bookmark.
    """

    folder: str
    """holds ratings.csv, favourites.csv and bookmarks.csv"""

    def load(self) -> Dataset:
        """Load the data set; DataError names file, column, value and remedy."""
        folder = Path(self.folder)
        kept = [_marks(folder / "favourites.csv", FAVOURITE), _marks(folder / "bookmarks.csv", BOOKMARK)]
        done = pl.concat([_thumbs(folder / "ratings.csv"), *kept], how="diagonal")
        standing = done.filter(pl.col("removed").is_null() | (pl.col("removed") == "NA"))
        if standing.is_empty():
            raise DataError(f"{folder}: all actions were withdrawn; wanted at least one row whose removedAt is NA")
        dataset = validated(
            name="informfully-idea",
            interactions=RawTable(
                file=str(folder),
                frame=_events(standing),
                names={USER: USER, ITEM: ITEM, TIMESTAMP: TIMESTAMP},
                separator="|",
            ),
            items=None,
            users=None,
            description=DESCRIPTION,
        )
        withdrawn = done.height - standing.height
        return replace(dataset, notes=(*dataset.notes, f"actions that were withdrawn later were left out: {withdrawn}"))


def _read(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    frame = read_columns(path, columns, separator=",")
    times = frame[TIMESTAMP].str.to_datetime(TIME, strict=False)
    if odd := frame[TIMESTAMP].filter(times.is_null()).to_list():
        raise DataError(f"{path}: createdAt is {odd[0]!r}; wanted a time like 2023-11-21 00:41:57")
    return frame.with_columns(times)


def _thumbs(path: Path) -> pl.DataFrame:
    frame = _read(path, THUMBS)
    unknown = frame.filter(~pl.col("question").is_in(list(QUESTIONS)))
    if not unknown.is_empty():
        raise DataError(f"{path}: the question {unknown['question'][0]!r} is not one of the study; correct the file")
    return frame.with_columns(pl.col("question").replace_strict(QUESTIONS).alias("action")).drop("question")


def _marks(path: Path, action: str) -> pl.DataFrame:
    frame = _read(path, COLUMNS)
    return frame.with_columns(pl.lit("1").alias("value"), pl.lit(action).alias("action"))


def _events(done: pl.DataFrame) -> pl.DataFrame:
    """Return one row per person and article: the last thumb per question, at the time of the last action."""
    last = {name: pl.col("value").filter(pl.col("action") == name).last() for name in ACTIONS}
    events = done.sort(TIMESTAMP, maintain_order=True).group_by(USER, ITEM, maintain_order=True)
    return events.agg(
        pl.col(TIMESTAMP).last(),
        *(last[name].alias(name) for name in (INTERESTING, EASY)),
        *(last[name].fill_null("0").alias(name) for name in (FAVOURITE, BOOKMARK)),
    )
