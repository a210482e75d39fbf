"""Open Bandit's files as a bandit's log."""

import gzip

import numpy as np
import pytest

from recsys.data.sources.open_bandit import OpenBandit
from recsys.errors import DataError

HEAD = ",timestamp,item_id,position,click,propensity_score," + ",".join(f"user_feature_{n}" for n in range(4))
ROWS = [
    "0,2019-11-24 00:00:17+00:00,2,3,0,0.0125,b,x,u,k",
    "1,2019-11-24 00:00:19+00:00,0,1,1,0.25,a,x,,k",
    "2,2019-11-24 00:00:20+00:00,2,2,0,1.0,b,y,v,k",
]
ITEMS = ",item_id,item_feature_0\n0,0,-0.5\n1,1,0.3\n2,2,0.1\n3,3,0.2\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bts").mkdir()
    (tmp_path / "bts" / "men_items.csv").write_text(ITEMS)
    write(tmp_path, ROWS)
    return tmp_path


def write(folder, rows, head=HEAD):
    text = "\n".join([head, *rows]) + "\n"
    (folder / "bts" / "men.csv.gz").write_bytes(gzip.compress(text.encode()))


def load(folder, **change):
    return OpenBandit(**({"folder": str(folder), "policy": "bts", "campaign": "men"} | change)).load()


def test_a_row_is_a_round(folder):
    log = load(folder)
    assert log.num_actions == 4
    assert log.actions.tolist() == [2, 0, 2]
    assert log.positions.tolist() == [2, 0, 1]
    assert log.rewards.tolist() == [0, 1, 0]
    assert log.propensities.tolist() == [0.0125, 0.25, 1.0]


def test_the_context_has_a_column_for_each_value_and_none_for_what_is_missing(folder):
    np.testing.assert_array_equal(
        load(folder).contexts,
        [[0, 1, 1, 0, 1, 0, 1], [1, 0, 1, 0, 0, 0, 1], [0, 1, 0, 1, 0, 1, 1]],
    )


def test_a_plain_file_goes_before_a_packed_one(folder):
    (folder / "bts" / "men.csv").write_text("\n".join([HEAD, ROWS[0]]) + "\n")
    assert len(load(folder)) == 1


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (",2,3,0,", ",9,3,0,", r"men\.csv\.gz: item_id is 9 in row 1; wanted 0 to 3, as in the items"),
        (",2,3,0,", ",2,4,0,", r"position is 4 in row 1; wanted 1, 2 or 3"),
        (",2,3,0,", ",2,3,2,", r"click is 2 in row 1; wanted 0 or 1"),
        ("0.0125", "0", r"propensity_score is 0 in row 1; wanted above 0 and at most 1"),
        ("0.0125", "1.2", r"propensity_score is 1\.2 in row 1"),
        ("0.0125", "often", r"propensity_score is 'often'; wanted a number"),
        (",0.0125,", ",,", r"propensity_score is None; wanted a number"),
        ("0.0125", "NaN", r"propensity_score is 'NaN'; wanted a number"),
    ],
)
def test_a_wrong_value_is_named_with_file_column_and_row(folder, old, new, sentence):
    write(folder, [ROWS[0].replace(old, new), *ROWS[1:]])
    with pytest.raises(DataError, match=sentence):
        load(folder)


def test_missing_files_columns_and_rows_are_named(folder):
    write(folder, ROWS, HEAD.replace("click", "clicked"))
    with pytest.raises(DataError, match=r"there is no column 'click' \(did you mean 'clicked'\?\)"):
        load(folder)
    write(folder, [])
    with pytest.raises(DataError, match="there are no rows"):
        load(folder)
    with pytest.raises(DataError, match=r"women_items\.csv: cannot be read"):
        load(folder, campaign="women")
    (folder / "bts" / "men_items.csv").write_text(",item_id\n0,0\n1,2\n")
    with pytest.raises(DataError, match=r"men_items\.csv: item_id is not each whole number from 0 once"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"policy": "thompson"}, "policy is 'thompson'; write one of random, bts"),
        ({"campaign": "kids"}, "campaign is 'kids'; write one of all, men, women"),
    ],
)
def test_an_unknown_log_is_refused(folder, change, sentence):
    with pytest.raises(DataError, match=sentence):
        load(folder, **change)
