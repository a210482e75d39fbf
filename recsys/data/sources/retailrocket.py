"""RetailRocket: views, cart additions and purchases in a shop (caserec, Datasets for Recommender Systems)."""

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, USER, Description
from recsys.data.sources.delimited import read_columns, shuffled_ids
from recsys.data.validation import RawTable, validated

FILES = {"view": "view_ecommerce.dat", "cart": "add_to_cart_ecommerce.dat", "buy": "purchase_ecommerce.dat"}
DESCRIPTION = Description(
    actions={"cart": "number", "buy": "number"},
    context={},
    items={},
    users={},
    objectives={"view": "1", "cart": "cart", "buy": "buy"},
    target="view",
    title=None,
    order="none",
)


@dataclass(frozen=True, kw_only=True)
class RetailRocket:
    """One event per viewed item, with cart addition and purchase as actions.

    There is no time, and the files are sorted by item: ids are replaced and histories are sets.
    """

    folder: str
    """holds view_ecommerce.dat, add_to_cart_ecommerce.dat and purchase_ecommerce.dat"""

    def load(self) -> Dataset:
        """Load the data set; DataError names file, column, value and remedy."""
        folder = Path(self.folder)
        pairs = {name: _pairs(folder / file) for name, file in FILES.items()}
        events = pairs["view"]
        for name in ("cart", "buy"):
            events = events.join(pairs[name].with_columns(pl.lit(1.0).alias(name)), on=[USER, ITEM], how="left")
        events = events.with_columns(pl.col("cart", "buy").fill_null(0.0), shuffled_ids(events[ITEM]).alias(ITEM))
        dataset = validated(
            name="retailrocket",
            interactions=RawTable(
                file=str(folder / FILES["view"]), frame=events, names={USER: USER, ITEM: ITEM}, separator="|"
            ),
            items=None,
            users=None,
            description=DESCRIPTION,
        )
        unseen = {name: pairs[name].height - int(events[name].sum()) for name in ("cart", "buy")}
        left_out = f"without a view, and left out: {unseen['cart']} carts, {unseen['buy']} purchases"
        return replace(dataset, notes=(*dataset.notes, left_out))


def _pairs(path: Path) -> pl.DataFrame:
    return read_columns(path, {"visitorid": USER, "itemid": ITEM}, separator="\t").unique(maintain_order=True)
