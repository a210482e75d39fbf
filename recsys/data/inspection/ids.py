"""Ids that differ only by blanks, case, Unicode form or a trailing .0."""

from dataclasses import dataclass

import polars as pl

NOBODY = (
    "unknown",
    "guest",
    "anonymous",
    "anon",
    "not set",
    "(not set)",
    "-",
    "?",
    "missing",
    "empty",
    "no user",
    "nobody",
)
"""lower-case ids that may represent all unknown users"""
NUMBERS_FOR_NOBODY = ("0", "-1")
"""counted only with far more events than any user"""
DIFFERENCES: dict[str, pl.Expr] = {
    "blanks": pl.col("id").str.strip_chars(),
    "Unicode form": pl.col("id").str.normalize("NFC"),
    "a trailing .0": pl.col("id").str.replace(r"^(-?\d+)\.0+$", "$1"),
    "leading zeros": pl.col("id").str.replace(r"^0+(\d)", "$1"),
    "upper and lower case": pl.col("id").str.to_lowercase(),
}
"""kind of difference -> expression under which ids are equal"""


@dataclass(frozen=True, kw_only=True)
class IdVariants:
    """Ids of one key that become equal when one difference is ignored."""

    key: str
    difference: str
    ids: int
    """number of distinct ids with such a variant"""
    example: tuple[str, str]


def id_variants(key: str, ids: pl.Series) -> list[IdVariants]:
    """Return one entry per difference that occurs among distinct ids [N]."""
    frame, found = ids.alias("id").to_frame(), []
    for difference, form in DIFFERENCES.items():
        forms = frame.with_columns(form=form)
        twins = forms.filter(pl.len().over("form") > 1).sort("form", "id")
        if twins.height:
            first = twins.filter(pl.col("form") == twins["form"][0])["id"]
            found.append(IdVariants(key=key, difference=difference, ids=twins.height, example=(first[0], first[1])))
    return found
