"""Steam: purchases of games and hours played (caserec, Datasets for Recommender Systems)."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, USER, Description
from recsys.data.sources.delimited import read_columns, shuffled_ids
from recsys.data.validation import RawTable, validated

STAYED_HOURS = 10
"""hours that count as staying with a game"""
DESCRIPTION = Description(
    actions={"hours": "number"},
    context={},
    items={"title": "text"},
    users={},
    objectives={"buy": "1", "play": "hours > 0", "stay": f"hours >= {STAYED_HOURS}"},
    target="buy",
    title="title",
    order="none",
)


@dataclass(frozen=True, kw_only=True)
class Steam:
    """One event per purchase, 0 hours where the game was never played.

    There is no time, and the files are sorted by hours, played games first: the order of rows and ids leaks the label.
    Histories are sets, ids are replaced.
    """

    folder: str
    """holds game_purchase.dat, game_play.dat and item_info.dat"""

    def load(self) -> Dataset:
        """Load the data set; DataError names file, column, value and remedy."""
        folder = Path(self.folder)
        bought, played, games = (folder / name for name in ("game_purchase.dat", "game_play.dat", "item_info.dat"))
        pair = {"User_ID": USER, "Game_ID": ITEM}
        purchases = read_columns(bought, pair, separator="\t").unique(maintain_order=True)
        hours = read_columns(played, {**pair, "Hours": "hours"}, separator="\t").unique([USER, ITEM], keep="first")
        titles = read_columns(games, {"Game_ID": ITEM, "Game Name": "title"}, separator="\t")
        events = purchases.join(hours, on=[USER, ITEM], how="left").with_columns(pl.col("hours").fill_null("0"))
        known = pl.concat([titles[ITEM], events[ITEM]]).unique()
        new = dict(zip(known, shuffled_ids(known), strict=True))
        events, titles = (frame.with_columns(pl.col(ITEM).replace_strict(new)) for frame in (events, titles))
        return validated(
            name="steam",
            interactions=RawTable(file=str(bought), frame=events, names={USER: USER, ITEM: ITEM}, separator="|"),
            items=RawTable(file=str(games), frame=titles, names={ITEM: ITEM}, separator="|"),
            users=None,
            description=DESCRIPTION,
        )
