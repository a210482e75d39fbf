"""Steam and RetailRocket: sorted files without time, whose order and ids must not tell what is to be predicted."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.sources.delimited import shuffled_ids
from recsys.data.sources.retailrocket import RetailRocket
from recsys.data.sources.steam import Steam
from recsys.errors import DataError

STEAM = {
    "game_purchase.dat": "User_ID\tGame_ID\tPurchase\n1\t1\t1.0\n1\t2\t1.0\n1\t2\t1.0\n2\t1\t1.0\n2\t3\t1.0\n",
    "game_play.dat": "User_ID\tGame_ID\tHours\n1\t1\t273.0\n2\t3\t0.5\n",
    "item_info.dat": 'Game_ID\tGame Name\n1\tThe "Elder" Scrolls\n2\tSpore\n3\tFallout 4\n',
}
SHOP = {
    "view_ecommerce.dat": "visitorid\titemid\tevent\n1\t1\t1\n1\t2\t1\n2\t1\t1\n",
    "add_to_cart_ecommerce.dat": "visitorid\titemid\tevent\n1\t2\t1\n2\t7\t1\n",
    "purchase_ecommerce.dat": "visitorid\titemid\tevent\n1\t2\t1\n",
}


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def steam(folder: Path) -> Dataset:
    return Steam(folder=str(folder)).load()


def shop(folder: Path) -> Dataset:
    return RetailRocket(folder=str(folder)).load()


def test_what_was_bought_and_never_played_has_no_hours(tmp_path: Path) -> None:
    dataset = steam(written(tmp_path, STEAM))
    titles = dict(dataset.items.select("item", "title").iter_rows())
    found = {
        (user, titles[item]): tuple(labels)
        for user, item, labels in zip(
            dataset.interactions["user"], dataset.interactions["item"], dataset.labels().tolist(), strict=True
        )
    }
    assert found == {
        ("1", 'The "Elder" Scrolls'): (1, 1, 1),
        ("1", "Spore"): (1, 0, 0),
        ("2", 'The "Elder" Scrolls'): (1, 0, 0),
        ("2", "Fallout 4"): (1, 1, 0),
    }
    assert dataset.description.order == "none"
    assert (dataset.interactions["timestamp"] == 0).all()


def test_a_game_without_a_title_stays_a_game_of_its_own(tmp_path: Path) -> None:
    bought = STEAM["game_purchase.dat"] + "".join(f"3\t{game}\t1.0\n" for game in (4, 5, 6))
    dataset = steam(written(tmp_path, {**STEAM, "game_purchase.dat": bought}))
    assert dataset.num_items == 6
    assert dataset.items["title"].null_count() == 3


def test_only_what_was_viewed_is_an_event_of_the_shop(tmp_path: Path) -> None:
    dataset = shop(written(tmp_path, SHOP))
    assert dataset.num_events == 3
    assert dataset.num_items == 2
    assert sorted(map(tuple, dataset.labels().tolist())) == [(1, 0, 0), (1, 0, 0), (1, 1, 1)]
    assert "without a view, and left out: 1 carts, 0 purchases" in dataset.notes


@pytest.mark.parametrize("load", [steam, shop])
def test_the_order_of_the_files_changes_nothing(tmp_path: Path, load) -> None:
    files = STEAM if load is steam else SHOP
    turned = {}
    for name, text in files.items():
        head, *rows = text.strip().split("\n")
        turned[name] = "\n".join([head, *rows[::-1]]) + "\n"
    (tmp_path / "turned").mkdir()
    (tmp_path / "plain").mkdir()
    plain, other = load(written(tmp_path / "plain", files)), load(written(tmp_path / "turned", turned))
    assert plain.interactions.equals(other.interactions)
    assert plain.items.equals(other.items)


def test_shuffled_ids_are_new_and_do_not_follow_the_old_ones() -> None:
    old = pl.Series([str(number) for number in range(1, 501)])
    new = shuffled_ids(old).cast(pl.Int64).to_numpy()
    assert sorted(new) == list(range(1, 501))
    assert abs(np.corrcoef(np.arange(500), new)[0, 1]) < 0.15


def test_a_missing_file_or_column_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, STEAM)
    (folder / "game_play.dat").write_text("User_ID\tGame_ID\tHour\n")
    with pytest.raises(DataError, match=r"game_play\.dat: there is no column 'Hours' \(did you mean 'Hour'\?\)"):
        steam(folder)
    (folder / "game_play.dat").unlink()
    with pytest.raises(DataError, match=r"game_play\.dat: cannot be read"):
        steam(folder)
