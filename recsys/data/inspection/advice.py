"""Advice: findings to sentences with consequence and remedy.

A sentence is a `warning` where figures or the served slates suffer, else a `note`.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.commands import command_of
from recsys.data.description import ITEM, USER
from recsys.data.inspection.findings import CRAWLER_EVENTS, CRAWLER_FACTOR, Findings, LinkFacts
from recsys.data.inspection.times import TimeFacts, duration_text, moment_text

MANY_ONCE = 0.5
MANY_REPEATS = 0.1
FEW_POSITIVES = 100
FEW_USERS, FEW_ITEMS = 50, 20
OLDEST_YEAR_S = 631_152_000.0
"""1990: shops have no older logs, but timestamps in a wrong unit look older"""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One note or warning before training."""

    level: Literal["warning", "note"]
    text: str


def advise(findings: Findings) -> tuple[Advice, ...]:
    """Return warnings, then notes, each in the order of the report's chapters."""
    found = [
        *_sizes(findings), *_activity(findings), *_ids(findings), *_columns(findings), *_objectives(findings),
        *_times(findings),
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda one: one.level != "warning"))


def next_command(findings: Findings, description: str) -> str:
    """Return the training command that this log allows."""
    protocol = {"user": " protocol=leave_one_out", "none": " protocol=random"}.get(findings.order, "")
    protocol = " protocol=predefined" if findings.predefined else protocol
    path = description if re.fullmatch(r"[\w./-]+", description) else shlex.quote(f'"{description}"')
    return f"{command_of('train')} data=tables data.description={path}{protocol}"


def _warning(text: str) -> Advice:
    return Advice(level="warning", text=text)


def _note(text: str) -> Advice:
    return Advice(level="note", text=text)


def _sizes(findings: Findings) -> Iterator[Advice]:
    users, items = (findings.activity_of(key).count for key in (USER, ITEM))
    if users < FEW_USERS or items < FEW_ITEMS:
        yield _warning(
            f"{users:,} users and {items:,} items are too few to tell systems apart: a training will end, its figures are "
            "chance; bring a longer log"
        )
    log = findings.tables[0]
    if log.rows > log.kept:
        yield _note(
            f"{log.rows - log.kept:,} rows of the interactions are not used (see rows); where an equal row is a second "
            "event of the same moment, give each its own time"
        )


def _activity(findings: Findings) -> Iterator[Advice]:
    users, items = (findings.activity_of(key) for key in (USER, ITEM))
    if users.once > MANY_ONCE * users.count:
        yield _warning(
            f"{_share(users.once / users.count)} of the users ({users.once:,}) came once: they have no history, so they are "
            "shown what is popular, new or fits the context; protocol=leave_one_out leaves them out of its figures"
        )
    if items.once > MANY_ONCE * items.count:
        yield _note(
            f"{_share(items.once / items.count)} of the items ({items.once:,}) have one event: only their columns can say "
            "whom to show them to; describe the items (title, categories, text)"
        )
    if findings.repeats > MANY_REPEATS:
        yield _warning(
            f"{_share(findings.repeats)} of the events are of an item that the user had before: by default such an item is "
            "never recommended again; where people come back for the same item, set policy.repeat"
        )
    if findings.crawlers:
        user, events = findings.crawlers[0]
        number = len(findings.crawlers)
        yield _warning(
            f"{number:,} user{'s' * (number > 1)} with more than {CRAWLER_FACTOR} times the events of the 99th percentile and "
            f"{CRAWLER_EVENTS:,} or more, first {user!r} with {events:,} ({_share(events / findings.events)} of the log): a "
            "crawler links all items with all others; remove its rows unless it is a person"
        )
    for user, events in findings.nobody:
        yield _warning(
            f"the user {user!r} has {events:,} events ({_share(events / findings.events)}): if that is nobody, all count "
            f"as those of one; write `missing: [{user!r}]` for the interactions"
        )
    for key, share in (findings.newcomers or {}).items():
        if share > 0.5:
            yield _warning(
                f"{_share(share)} of the newest fifth of the events are of {key}s that no older event knows: figures by time "
                f"are those of strangers; describe the {key}s by columns, or bring a longer log"
            )


def _ids(findings: Findings) -> Iterator[Advice]:
    for one in findings.variants:
        first, second = one.example
        yield _warning(
            f"{one.ids:,} {one.key} ids differ by {one.difference} alone, for instance {first!r} and {second!r}: where they "
            f"are not one {one.key}, leave them; else each has only a part of the history: write them alike in every file"
        )
    for link in findings.links:
        yield from _link(link)


def _link(link: LinkFacts) -> Iterator[Advice]:
    if link.unknown:
        yield _warning(
            f"{link.unknown:,} of {link.ids:,} {link.key}s of the interactions ({_share(link.event_share)} of the events), "
            f"first {link.example!r}, have no row in {Path(link.file).name}: all their columns are missing; add the rows"
        )
    if link.unused:
        fate = "they are recommended by their columns alone" if link.key == ITEM else "they count as strangers"
        yield _note(f"{link.unused:,} {link.key}s of {Path(link.file).name} occur in no event: {fate}")


def _columns(findings: Findings) -> Iterator[Advice]:
    for one in findings.columns:
        where = f"{one.table}: column {one.column!r}"
        if one.filled == 0:
            yield _warning(f"{where} is empty in every row: it says nothing; leave it out of the description")
        elif one.distinct == 1 and not one.kind.endswith("action"):
            yield _note(f"{where} has one value: it tells nothing apart; leave it out of the description")
        elif one.kind == "category" and one.distinct > 0.9 * _rows(findings, one.table) > 50:
            yield _note(
                f"{where} has another value in nearly every row: as a category it cannot be learned; make it text"
            )


def _rows(findings: Findings, table: str) -> int:
    return next(one.kept for one in findings.tables if one.table == table)


def _objectives(findings: Findings) -> Iterator[Advice]:
    for one in findings.objectives:
        known = findings.events - one.unknown
        where = f"objective {one.name} ({one.expression})"
        if one.reached == 0:
            yield _warning(f"{where} is reached by no event: there is nothing to learn; correct it or leave it out")
        elif one.reached < FEW_POSITIVES:
            yield _warning(
                f"{where} is reached by {one.reached:,} events: fewer than {FEW_POSITIVES} are too few to learn from and to "
                "measure; widen it or leave it out"
            )
        elif one.reached == known and one.name != findings.target:
            yield _warning(f"{where} is reached by every event: it orders nothing; correct it or leave it out")
        if one.unknown > 0.5 * findings.events:
            yield _note(
                f"{where} is unknown for {_share(one.unknown / findings.events)} of the events: they do not count"
            )


def _times(findings: Findings) -> Iterator[Advice]:
    time = findings.time
    if time is None:
        yield _note(
            f"the log has no time (order: {findings.order}): no hours, gaps or ages can be learned, and the split by time "
            "refuses where users have no common order; a time column is worth finding"
        )
        return
    if time.future:
        yield _warning(
            f"{time.future:,} events lie in the future, the last at {moment_text(time.last)}: nothing can be recommended "
            "before them; correct the times or remove the rows"
        )
    if time.first < OLDEST_YEAR_S:
        yield _warning(
            f"the first event is of {moment_text(time.first)}: if that is not so, the time column has another unit or is "
            "another column"
        )
    yield from _clock(time)


def _clock(time: TimeFacts) -> Iterator[Advice]:
    if time.distinct == 1:
        yield _warning(
            "all events have one time: nothing can be split by time; use protocol=random, or find the real time"
        )
    elif time.commonest > 0.2:
        yield _warning(
            f"{_share(time.commonest)} of the events have one and the same time: an import or a default; they stay in one "
            "period of every split, correct them"
        )
    if time.resolution == "days" and time.distinct > 1:
        yield _note(
            "times are whole days: the order of the events within a day is unknown, and hours cannot be learned"
        )
    start, length = time.gap
    if length > 86_400 and length > 10 * time.typical_gap and length > 0.05 * (time.last - time.first):
        yield _warning(
            f"no event for {duration_text(length)} from {moment_text(start)} on: if the shop was open, a part of the log is "
            "missing, and popularity before and after it differs; bring the rest, or begin after it"
        )
    if time.distinct > 1 and time.days < 2:
        yield _note(
            f"the log spans {duration_text(time.last - time.first)}: days of the week and trends cannot be learned"
        )


def _share(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"
