"""Chapters of a drift report for terminal and HTML page, with a picture of how far figures are from their limits."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from recsys.cli.data_page import STYLE, chapter_html, document
from recsys.cli.data_report import Chapter
from recsys.measurement.drift.calibration import ObjectiveCalibration
from recsys.measurement.drift.figures import UNITS, DriftFigure
from recsys.measurement.drift.report import DriftReport

MOST = 12
"""figures without an alarm that a table shows, those nearest to their limits"""
WIDTH, ROW, LABEL = 640, 20, 300
"""of the picture, in pixels: width, height of a row, width of its label"""
REACH = 2.0
"""times the limit at which a bar ends"""
PLOT_STYLE = "rect.bar { fill: #3b6ea5 } rect.alarm { fill: #b3372f } line { stroke: #333; stroke-dasharray: 3 }"


def chapters(found: DriftReport) -> Iterator[Chapter]:
    """Yield the alarms, the figures nearest to their limits, those without a limit, and the calibration."""
    when = f"{datetime.fromtimestamp(found.until, UTC):%Y-%m-%d %H:%M} UTC"
    if found.alarms:
        yield _table(f"alarms, up to {when}", furthest(found.alarms))
    yield _table(f"nearest to their limits, up to {when}", nearest(found))
    free = [one for one in found.figures if one.limit is None and one.figure not in ("js", "miscalibration")]
    if free:
        yield _table("without a limit", [one for one in free if "@" not in one.of])
    if found.calibration:
        yield _calibration(found.calibration)


def nearest(found: DriftReport) -> list[DriftFigure]:
    """Return the figures without an alarm that are nearest to their limits."""
    alarms = {(one.figure, one.of) for one in found.alarms}
    quiet = [one for one in found.figures if one.limit and (one.figure, one.of) not in alarms]
    return furthest(quiet)[:MOST]


def furthest(figures: Sequence[DriftFigure]) -> list[DriftFigure]:
    """Return of each figure the window that is furthest beyond its limit, the furthest first."""
    ranked = sorted(figures, key=lambda one: -one.excess)
    return list({(one.figure, one.of): one for one in reversed(ranked)}.values())[::-1]


def page(found: DriftReport, command: str) -> str:
    """Return the HTML document: the tables of the terminal and the picture."""
    title = f"drift of bundle {found.bundle}"
    body = [f"<h1>{escape(title)}</h1>", picture([*furthest(found.alarms), *nearest(found)])]
    body += [chapter_html(chapter) for chapter in chapters(found)]
    units = "".join(f"<dt>{name}</dt><dd>{escape(unit)}</dd>" for name, unit in UNITS.items())
    body += [f"<h2>units</h2><dl>{units}</dl>", f"<h2>next</h2><p><code>{escape(command)}</code></p>"]
    return document(title, STYLE + PLOT_STYLE, body)


def picture(figures: Sequence[DriftFigure]) -> str:
    """Return an SVG figure: a bar a figure, its value in units of its limit, and a line at the limit."""
    room = (WIDTH - LABEL) / REACH
    bars = [_bar(number, one, room) for number, one in enumerate(figures)]
    height = ROW * max(len(bars), 1)
    line = f'<line x1="{LABEL + room:.0f}" x2="{LABEL + room:.0f}" y1="0" y2="{height}"/>'
    head = f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="figures and their limits">'
    return f"<figure><figcaption>value / limit; the line is the limit</figcaption>{head}{''.join(bars)}{line}</svg></figure>"


def _bar(number: int, one: DriftFigure, room: float) -> str:
    length = min(max(one.excess, 0.0), REACH) * room
    kind = "alarm" if one.alarm else "bar"
    text = escape(f"{one.figure} {one.of} {_window(one)}")
    return (
        f'<text x="0" y="{ROW * number + ROW * 0.7:.0f}">{text}</text>'
        f'<rect class="{kind}" x="{LABEL}" y="{ROW * number + 3}" width="{length:.1f}" height="{ROW - 6}">'
        f"<title>{one.value:.4g} of {one.limit}</title></rect>"
    )


def _table(title: str, figures: Sequence[DriftFigure]) -> Chapter:
    rows = tuple(
        (one.figure, one.of, _window(one), _value(one), "" if one.limit is None else f"{one.limit:g}")
        for one in figures
    )
    return Chapter(title=title, headings=("figure", "of", "window", "value", "limit"), rows=rows)


def _window(one: DriftFigure) -> str:
    return f"{one.window} h" if one.window else "now"


def _value(one: DriftFigure) -> str:
    return f"{one.value:.4g} ±{1.96 * one.error:.2g}" if one.error else f"{one.value:.4g}"


def _calibration(found: Sequence[ObjectiveCalibration]) -> Chapter:
    rows = tuple(
        (
            one.objective,
            f"{one.predicted:.4g}",
            f"{one.observed:.4g}",
            f"{one.predicted / one.observed:.3f}",
            f"{one.items:,}",
        )
        for one in found
    )
    return Chapter(
        title="probabilities of the items shown",
        headings=("objective", "predicted", "observed", "ratio", "items"),
        rows=rows,
    )
