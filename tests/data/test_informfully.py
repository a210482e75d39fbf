"""The news study: several actions of a person on an article are one event, what was withdrawn never happened."""

from pathlib import Path

import numpy as np
import pytest

from recsys.data.dataset import Dataset
from recsys.data.sources.informfully import Informfully
from recsys.errors import DataError

INTERESTING, EASY = "DZyvQCx4sTr6xhd67", "yGoJwWDeDdug6x3Dg"
RATINGS = f'''"","_id","articleId","informfully_id","articleQuestionId","articleAnswer","createdAt","removedAt"
"1","r1","a","u","{INTERESTING}",1,2023-11-21 00:00:10,NA
"2","r2","a","u","{EASY}",-1,2023-11-21 00:00:05,NA
"3","r3","a","u","{INTERESTING}",-1,2023-11-21 00:00:20,NA
"4","r4","b","u","{INTERESTING}",-1,2023-11-21 00:01:00,2023-11-21 00:02:00
"5","r5","b","v","{INTERESTING}",1,2023-11-21 00:03:00,NA
'''
MARKS = """"","_id","articleId","informfully_id","createdAt","articlePublishedDate","removedAt"
"1","m1","a","u",2023-11-21 00:10:00,"1700490367660",NA
"2","m2","c","v",2023-11-21 00:00:00,"1700490367660",NA
"""
NOTHING = MARKS.split("\n")[0] + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("ratings", RATINGS), ("favourites", MARKS), ("bookmarks", NOTHING)):
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


def load(folder: Path) -> Dataset:
    return Informfully(folder=str(folder)).load()


def test_an_event_is_a_person_and_an_article_when_all_of_it_is_known(folder: Path) -> None:
    dataset = load(folder)
    start = 1_700_524_800.0  # 2023-11-21, UTC
    assert dataset.interactions.rows() == [
        ("v", "c", start, None, None, 1.0, 0.0),
        ("v", "b", start + 180, 1.0, None, 0.0, 0.0),
        ("u", "a", start + 600, -1.0, -1.0, 1.0, 0.0),
    ]
    assert list(dataset.description.objectives) == ["read", "interesting", "easy", "favourite", "bookmark"]
    nan = np.nan
    np.testing.assert_array_equal(dataset.labels(), [[1, nan, nan, 1, 0], [1, 1, nan, 0, 0], [1, 0, 0, 1, 0]])
    assert dataset.notes == ("actions that were withdrawn later were left out: 1",)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("ratings", INTERESTING, "what", "ratings.csv: the question 'what' is not one of the study"),
        ("ratings", "articleAnswer", "answer", "there is no column 'articleAnswer'"),
        ("ratings", ",-1,2023-11-21 00:00:20", ",no,2023-11-21 00:00:20", "'no' is not a number"),
        ("favourites", "2023-11-21 00:10:00", "soon", "createdAt is 'soon'; wanted a time like 2023"),
        ("bookmarks", NOTHING, "", "bookmarks.csv: the file is empty"),
    ],
)
def test_every_mistake_has_its_sentence(folder: Path, file: str, old: str, new: str, message: str) -> None:
    path = folder / f"{file}.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        load(folder)


def test_a_folder_without_the_files_or_with_nothing_that_stands_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("ratings", "favourites"):
        path = folder / f"{name}.csv"
        path.write_text(path.read_text().replace(",NA", ",2023-11-22 00:00:00"))
    with pytest.raises(DataError, match="all actions were withdrawn"):
        load(folder)
    with pytest.raises(DataError, match=r"elsewhere/.*csv: cannot be read"):
        load(tmp_path / "elsewhere")
