"""Chapters of tables and bar charts from findings, for terminal and HTML page."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from recsys.data.inspection.findings import CRAWLER_EVENTS, CRAWLER_FACTOR, NEWEST, ActivityFacts, Findings
from recsys.data.inspection.times import TimeFacts, duration_text, moment_text
from recsys.training.footprint import GIB, Footprint

NUMBER = re.compile(r"[\d,.]+%?( \([\d,.]+%?\))?")
BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Counts in order."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def line(self) -> str:
        """Return a line chart with one block per count."""
        most = max(self.counts, default=0) or 1
        return "".join(BLOCKS[0 if not one else 1 + 7 * one // most] for one in self.counts)


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Table with charts below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    charts: tuple[BarChart, ...] = field(default=())

    @property
    def numbers(self) -> frozenset[int]:
        """Return the columns whose cells are all numbers or empty."""
        columns = enumerate(zip(*self.rows, strict=True))
        return frozenset(index for index, cells in columns if index and all(map(_number_like, cells)))

    def table(self) -> Table:
        """Return a table for 80 columns: text is folded, never cut; numbers are not broken."""
        table = Table(title=Text(self.title), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
        for index, heading in enumerate(self.headings):
            number = index in self.numbers
            table.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def chapters(findings: Findings, footprint: Footprint) -> Iterator[Chapter]:
    """Return the chapters in reading order."""
    yield _tables(findings)
    yield _activity(findings)
    if findings.time is not None:
        yield _time(findings.time, findings.newcomers)
    yield _objectives(findings)
    if findings.columns:
        yield _columns(findings)
    if findings.links or findings.variants:
        yield _ids(findings)
    yield _footprint(footprint)


def _number_like(text: str) -> bool:
    return not text or NUMBER.fullmatch(text) is not None


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _tables(findings: Findings) -> Chapter:
    rows = [
        (
            one.table,
            ", ".join(Path(file).name for file in one.file.split(", ")),
            f"{one.rows:,}",
            f"{one.kept:,}",
            f"{max(0, one.rows - one.kept):,}",
        )
        for one in findings.tables
    ]
    return Chapter(title="rows", headings=("table", "file", "rows", "kept", "dropped"), rows=tuple(rows))


def _activity(findings: Findings) -> Chapter:
    facts = findings.activity
    rows = [
        ("with an event", *(f"{one.count:,}" for one in facts)),
        ("with one event only", *(f"{one.once:,} ({_percent(one.once / one.count)})" for one in facts)),
        *(
            (f"events at the {_quantile(share)}", *(f"{one.quantiles[share]:,}" for one in facts))
            for share in facts[0].quantiles
        ),
        ("share of events of the most active 1%", *(_percent(one.top_share) for one in facts)),
        ("events of a user and item again", _percent(findings.repeats), ""),
        (
            f"crawlers: over {CRAWLER_FACTOR} x the 99th percentile and {CRAWLER_EVENTS:,}",
            f"{len(findings.crawlers):,}",
            "",
        ),
        *((f"  {user}", f"{events:,}", "") for user, events in findings.crawlers[:5]),
    ]
    return Chapter(
        title=f"activity: {findings.events:,} events",
        headings=("", *(f"{one.key}s" for one in facts)),
        rows=tuple(rows),
        charts=tuple(map(_spread, facts)),
    )


def _quantile(share: float) -> str:
    return {0.5: "median", 1.0: "maximum"}.get(share, f"{100 * share:.0f}th percentile")


def _spread(facts: ActivityFacts) -> BarChart:
    labels, counts = zip(*facts.histogram, strict=True)
    return BarChart(title=f"{facts.key}s by their number of events", labels=labels, counts=counts)


def _time(time: TimeFacts, newcomers: Mapping[str, float] | None) -> Chapter:
    begin, length = time.gap
    rows = [
        ("first event", moment_text(time.first)),
        ("last event", moment_text(time.last)),
        ("range", duration_text(time.last - time.first)),
        ("times are whole", time.resolution),
        ("different times", f"{time.distinct:,}"),
        ("share of the commonest time", _percent(time.commonest)),
        ("longest time without an event", f"{duration_text(length)} from {moment_text(begin)} on"),
        ("events in the future", f"{time.future:,}"),
        *(
            (f"newest {NEWEST:.0%} of the events, of a new {key}", _percent(share))
            for key, share in (newcomers or {}).items()
        ),
    ]
    return Chapter(title="time (UTC)", headings=("", ""), rows=tuple(rows), charts=tuple(_time_charts(time)))


def _time_charts(time: TimeFacts) -> Iterator[BarChart]:
    starts = [time.first // time.bar_s * time.bar_s + index * time.bar_s for index in range(len(time.bars))]
    yield BarChart(title=f"events per {_length(time.bar_s)}", labels=tuple(map(moment_text, starts)), counts=time.bars)
    if time.hours:
        yield BarChart(
            title="events per hour of the day", labels=tuple(f"{hour}:00" for hour in range(24)), counts=time.hours
        )


def _length(seconds: float) -> str:
    unit, name = (86_400, "day") if seconds >= 86_400 else (3_600, "hour")
    number = round(seconds / unit)
    return name if number == 1 else f"{number} {name}s"


def _objectives(findings: Findings) -> Chapter:
    rows = [
        (
            one.name + (" (target)" if one.name == findings.target else ""),
            one.expression,
            f"{one.reached:,}",
            _percent(one.rate),
            f"{one.users:,}",
            f"{one.unknown:,}",
        )
        for one in findings.objectives
    ]
    headings = ("objective", "expression", "events", "rate", "users", "unknown")
    return Chapter(title="objectives", headings=headings, rows=tuple(rows))


def _columns(findings: Findings) -> Chapter:
    rows = [(one.table, one.column, one.kind, _percent(one.filled), f"{one.distinct:,}") for one in findings.columns]
    return Chapter(title="columns", headings=("table", "column", "kind", "filled", "values"), rows=tuple(rows))


def _ids(findings: Findings) -> Chapter:
    rows = [
        *(
            (f"{one.key}s without a row in {Path(one.file).name}", f"{one.unknown:,}", one.example or "")
            for one in findings.links
        ),
        *((f"{one.key}s of {Path(one.file).name} without an event", f"{one.unused:,}", "") for one in findings.links),
        *(
            (f"{one.key}s that differ by {one.difference} alone", f"{one.ids:,}", " ".join(map(repr, one.example)))
            for one in findings.variants
        ),
    ]
    return Chapter(title="ids", headings=("", "ids", "for instance"), rows=tuple(rows))


def _footprint(footprint: Footprint) -> Chapter:
    rows = [
        *(
            (part.name, f"{(footprint.throughout + part.bytes) / GIB:.1f}", _minutes(part.seconds))
            for part in footprint.parts
        ),
        ("all", f"{footprint.peak_bytes / GIB:.1f}", _minutes(footprint.seconds)),
    ]
    return Chapter(
        title="a training with the defaults, estimated for two CPU cores",
        headings=("step", "peak GiB", "minutes"),
        rows=tuple(rows),
    )


def _minutes(seconds: float) -> str:
    return f"{max(seconds / 60, 0.1):,.1f}"
