"""MovieTweetings with a fifth of its items withheld: what is known, what is asked, and of which items.

Shapes: R rows of the log, N items of the catalogue, B questions, M targets.
"""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from benchmarks.lib.result_file import ROOT
from recsys.content.text_encoder import TextVectorizer
from recsys.data.dataset import Dataset
from recsys.data.description import ITEM
from recsys.data.sources.tables import Tables
from recsys.data.splits import TEST, VALIDATION, Split
from recsys.errors import DataError
from recsys.features.spec import Features
from recsys.metrics import recall, score_hits
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.training.prepare import Prepared, prepare

NAME = "movietweetings-100k"
CORE = 5
SHARE = 0.2
"""of the items that are withheld"""
DRAWS = {VALIDATION: (0, 1, 2, 4), TEST: (3,)}
"""the fifths that are withheld, one at a time"""
K = 20
DESCRIPTION = {
    "interactions": {
        "file": "ratings.csv",
        "user": "user",
        "item": "movie",
        "timestamp": "timestamp",
        "actions": {"rating": "number"},
    },
    "items": {
        "file": "movies.csv",
        "item": "movie",
        "columns": {"title": "text", "year": "category", "genres": "categories"},
    },
    "objectives": {"rated": "1", "liked": "rating >= 8"},
    "target": "rated",
    "title": "title",
}


def data_folder() -> Path:
    """Where the files lie: in the folder that RECSYS_DATA names, else in ../shared/data."""
    folder = Path(os.environ.get("RECSYS_DATA", ROOT.parent / "shared" / "data")) / NAME
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; put {NAME} there, or name the folder above it in RECSYS_DATA")
    return folder


def load(folder: Path) -> Dataset:
    """The 5-core, by way of the tables and the description that are written into `folder`."""
    ratings = core(_read("ratings.dat", ("user", "movie", "rating", "timestamp")), CORE)
    movies = _read("movies.dat", ("movie", "title", "genres")).join(ratings, on="movie", how="semi")
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").alias("year")
    ratings.write_csv(folder / "ratings.csv")
    movies.with_columns(year).write_csv(folder / "movies.csv")
    description = folder / "description.yaml"
    description.write_text(yaml.safe_dump({"name": NAME, **DESCRIPTION}), encoding="utf-8")
    return Tables(description=str(description)).load()


def _read(file: str, columns: tuple[str, ...]) -> pl.DataFrame:
    lines = (data_folder() / file).read_text(encoding="utf-8").splitlines()
    return pl.DataFrame([re.split("::", line) for line in lines], schema=columns, orient="row")


def core(ratings: pl.DataFrame, least: int) -> pl.DataFrame:
    """Without users and movies of fewer than `least` ratings, until none is left."""
    enough = (pl.len().over("user") >= least) & (pl.len().over("movie") >= least)
    while (kept := ratings.filter(enough)).height < ratings.height:
        ratings = kept
    return ratings


def draw(items: pl.Series, number: int) -> np.ndarray:
    """[N] bool, the items of one of the disjoint parts of SHARE that a hash of the id puts them in."""
    hashes = [hashlib.blake2b(item.encode(), digest_size=8).digest() for item in items]
    places = np.array([int.from_bytes(one, "little") for one in hashes], dtype=np.float64) / 2**64
    return (places // SHARE).astype(np.int64) == number


@dataclass(frozen=True, kw_only=True)
class World:
    """What is known in one period, and what is asked of it."""

    prepared: Prepared
    known: np.ndarray
    """[R] bool, rows to be fitted on: none of a cold item"""
    questions: EvaluationQueries
    """of users who have a history"""
    cold: np.ndarray
    """[N] bool, the withheld items"""
    warm: np.ndarray
    """[N] bool, what the known rows hold"""

    @staticmethod
    def of(
        dataset: Dataset, split: Split, period: int, features: Features, content: TextVectorizer, number: int
    ) -> "World":
        """Of the items of draw `number` only what happens in `period` is left; in VALIDATION those of TEST do not exist yet."""
        cold = draw(dataset.items[ITEM], number)
        gone = _of(dataset, cold) & (split.periods < period)
        if period == VALIDATION:
            for withheld in DRAWS[TEST]:
                gone |= _of(dataset, draw(dataset.items[ITEM], withheld))
        left = replace(dataset, interactions=dataset.interactions.filter(pl.Series(~gone)))
        prepared = prepare(left, replace(split, periods=split.periods[~gone]), features, content)
        asked = EvaluationQueries.of(left, prepared.split, prepared.replay, period)
        questions = asked.only(np.flatnonzero(asked.histories.lengths))
        met = np.bincount(prepared.replay.items[known := prepared.split.known(period)], minlength=len(cold)) > 0
        assert not (met & cold).any()
        return World(prepared=prepared, known=known, questions=questions, cold=cold, warm=met)

    def recall(self, scores: np.ndarray, wanted: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """[b] recall@K of the users with targets among the `wanted` items [N]; others than `among` [N] are not ranked."""
        rows, targets = self.questions.targets.only(wanted[self.questions.targets.items])
        removed = self.questions.removed[rows].toarray() > 0
        if among is not None:
            removed |= ~among
        return recall(score_hits(scores[rows], K, removed, targets), targets.num_targets, K)


def _of(dataset: Dataset, items: np.ndarray) -> np.ndarray:
    """[R] bool, rows of the log that are about these items [N]."""
    return dataset.interactions[ITEM].is_in(dataset.items[ITEM].filter(pl.Series(items)).implode()).to_numpy()
