"""Proposed objectives from actions: one per word, a like for ratings, switches as they are."""

import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from recsys.data.inspection.columns import ColumnLook

WORD_NAME = re.compile(r"^(event|action|behaviou?r|interaction|activity|feedback|type|kind|verb)(_?(type|name|kind))?$")
WORDS: dict[str, str] = {
    "purchase": "buy", "buy": "buy", "bought": "buy", "purchased": "buy", "order": "buy", "transaction": "buy",
    "checkout": "buy", "sale": "buy", "add_to_cart": "cart", "addtocart": "cart", "cart": "cart", "basket": "cart",
    "add": "cart", "view": "view", "pv": "view", "pageview": "view", "page_view": "view", "product_view": "view",
    "visit": "view", "click": "click", "clicked": "click", "play": "play", "listen": "listen", "watch": "watch",
    "like": "like", "fav": "favourite", "favorite": "favourite", "favourite": "favourite", "bookmark": "bookmark",
    "wishlist": "wishlist", "share": "share", "comment": "comment", "rate": "rate", "download": "download",
}  # fmt: skip
"""word of a log -> name of the objective"""
NO_POSITIVE = re.compile(
    r"impression|^show|shown|expos|skip|dislike|hide|^not_|remove|unlike|unsub|delete|return|refund|cancel|report|block|ignore"
)
RATING_NAME = re.compile(r"rating|stars?$|score$|grade|vote|thumb|answer$|^overall$|review_?value")
AMOUNT_NAME = re.compile(
    r"hours|minutes|seconds|duration|play_?time|dwell|watch|quantity|qty|count|amount|price|total|revenue|spen[dt]|plays|listen"
    r"|progress|percent|weight|frequency|sales|value"
)
CONTEXT_NAME = re.compile(
    r"device|platform|browser|(^|_)os$|surface|channel|country|region|city|store|shop|locale|language|referr|campaign|source"
    r"|weekday|^hour$|hour_of|position|^rank$|propensity|page$|daypart|season"
)
MAX_WORDS = 20
MAX_OBJECTIVES = 8
SCALES = {1.0: 0.0, 5.0: 4.0, 10.0: 8.0, 100.0: 80.0}
"""maximum rating -> lower bound of a like; a switch is one above 0"""


@dataclass(frozen=True, kw_only=True)
class Action:
    """Column of the interactions with the user's action."""

    column: str
    kind: str
    """number or word"""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Label:
    """A proposed objective."""

    name: str
    expression: str
    reason: str
    positive: bool = True
    """whether retrieval may learn from it"""


def action_of(one: ColumnLook) -> Action | None:
    """Return the action in a column of the interactions, None without one."""
    kind, reason = _action(one)
    if kind is None:
        return None
    unread = (
        "" if usable(one.name) else "; UNSURE: no expression can read this name, rename the column to learn from it"
    )
    return Action(column=one.name, kind=kind, reason=reason + unread)


def _action(one: ColumnLook) -> tuple[str | None, str]:
    """Return number, word or None, with the reason."""
    if _worded(one):
        return "word", f"kinds of events: {', '.join(one.values[:8])}"
    name = one.plain_name
    if not one.numeric or one.distinct < 2 or CONTEXT_NAME.search(name):
        return None, ""
    span = f"{one.low:g} to {one.high:g}"
    if RATING_NAME.search(name):
        return "number", f"a rating, {span}"
    if one.unnamed or (_switch(one) and _verb(name)) or AMOUNT_NAME.search(name):
        return "number", span
    return None, ""


def _worded(one: ColumnLook) -> bool:
    if one.numeric or one.entries or not 2 <= one.distinct <= MAX_WORDS:
        return False
    known = sum(_plain(value) in WORDS for value in one.values)
    return bool(WORD_NAME.search(one.plain_name)) or known >= max(2, len(one.values) / 2)


def _switch(one: ColumnLook) -> bool:
    return one.distinct == 2 and (one.low, one.high) in ((0.0, 1.0), (-1.0, 1.0))


def _verb(name: str) -> bool:
    """Return whether a switch of this name is a user action."""
    known = name.removeprefix("is_").removeprefix("has_")
    return known in WORDS or bool(NO_POSITIVE.search(known)) or bool(re.search(r"(ed|label|target|conversion)$", known))


def _rating(one: ColumnLook) -> bool:
    named = RATING_NAME.search(one.plain_name) is not None or one.unnamed
    return named and not _switch(one) and 2 < one.distinct <= 101 and (one.high or 0) in SCALES


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def usable(name: str) -> bool:
    """Return whether expressions can read a column of this name."""
    return name.isidentifier() and not keyword.iskeyword(name)


def labels_of(actions: Mapping[str, ColumnLook]) -> list[Label]:
    """Return objectives over action columns, at least one, in proposal order."""
    readable = [one for name, one in actions.items() if usable(name)]
    words = [label for one in readable if _worded(one) for label in _words(one)]
    switches = [label for one in readable if not _worded(one) for label in _switches(one)]
    found, names = [], set()
    for label in (*words, *switches, *(label for one in readable if _rating(one) for label in _likes(one))):
        if label.name not in names:
            names.add(label.name)
            found.append(label)
    if not words and not any(label.positive for label in switches):
        found.insert(0, Label(name="seen", expression="1", reason="every event counts"))
    return found[:MAX_OBJECTIVES]


def _words(one: ColumnLook) -> Iterator[Label]:
    """Return words, commonest first."""
    named = [WORDS.get(_plain(value), _plain(value)) for value in one.values]
    for value, name in zip(one.values, named, strict=True):
        if named.count(name) > 1:
            name = _plain(value)
        if name[:1].isdigit() or not name or keyword.iskeyword(name):
            name = f"{_plain(one.name)}_{name}"
        if usable(name):
            positive = NO_POSITIVE.search(_plain(value)) is None
            reason = "" if positive else "no sign of interest"
            yield Label(name=name, expression=f"{one.name} == {value!r}", reason=reason, positive=positive)


def _switches(one: ColumnLook) -> Iterator[Label]:
    if _switch(one) and not AMOUNT_NAME.search(one.plain_name):
        rating = one.unnamed or RATING_NAME.search(one.plain_name) is not None
        name = "like" if rating else _plain(one.name)
        positive = NO_POSITIVE.search(one.plain_name) is None
        if usable(name):
            yield Label(name=name, expression=f"{one.name} > 0", reason="a switch: yes or no", positive=positive)


def _likes(one: ColumnLook) -> Iterator[Label]:
    least = SCALES[one.high or 0.0] if (one.low or 0.0) >= 0 else 0.0
    sign = ">" if least == 0 else ">="
    reason = f"the upper end of a scale from {one.low:g} to {one.high:g}"
    yield Label(name="like", expression=f"{one.name} {sign} {least:g}", reason=reason)


def target_of(labels: list[Label]) -> Label:
    """Return the retrieval target: the commonest objective that is a sign of interest."""
    return next((label for label in labels if label.positive), labels[0])
