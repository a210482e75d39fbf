"""HTML page of a measurement: one file without scripts or external resources, plots as SVG."""

from collections.abc import Iterator, Sequence
from html import escape

import polars as pl

from recsys.cli.data_page import STYLE, chapter_html, document
from recsys.cli.data_report import Chapter
from recsys.cli.measure_report import headlines, number_text, values_of
from recsys.measurement.kpis import Period
from recsys.measurement.settings import MeasurementSettings
from recsys.measurement.user_sums import ALL

WIDTH, ROW, LABEL, NUMBER = 640, 20, 150, 80
"""of a plot, in pixels: width, height of a row, widths of its label and its number"""
PLOT_STYLE = "line { stroke: #3b6ea5; stroke-width: 5; stroke-opacity: .35 } circle { fill: #3b6ea5 }"


def page(
    figures: pl.DataFrame, settings: MeasurementSettings, period: Period, chapters: Sequence[Chapter], command: str
) -> str:
    """Return the HTML document: the tables of the terminal, each split with a plot a metric."""
    title = f"measured from {period.first} to {period.last}"
    whole, *splits = chapters
    body = [
        f"<h1>{title}</h1>",
        chapter_html(whole),
        *(part for chapter in splits for part in _split(figures, settings, chapter)),
        f"<h2>next</h2><p><code>{escape(command)}</code></p>",
    ]
    return document(title, STYLE + PLOT_STYLE, body)


def _split(figures: pl.DataFrame, settings: MeasurementSettings, chapter: Chapter) -> Iterator[str]:
    split = chapter.headings[0]
    yield chapter_html(chapter)
    for metric in headlines(settings):
        rows = values_of(figures, split).filter(pl.col("metric") == metric)
        whole = figures.filter((pl.col("split") == ALL) & (pl.col("metric") == metric))
        if rows.height:
            yield intervals(f"{metric} by {split}", rows, whole["estimate"][0])


def intervals(title: str, rows: pl.DataFrame, whole: float) -> str:
    """Return an SVG figure: a dot and its interval for each value, on one scale from 0, and a line at the figure of all."""
    reach = max(abs(one) for one in (whole, *rows["high"].fill_null(0), *rows["estimate"])) or 1.0
    room = WIDTH - LABEL - NUMBER
    lines = [_row(number, row, room / reach) for number, row in enumerate(rows.iter_rows(named=True))]
    height = ROW * len(lines)
    at = LABEL + max(whole, 0.0) * room / reach
    mark = f'<rect x="{at:.1f}" y="0" width="1" height="{height}"><title>all: {whole:.4g}</title></rect>'
    label = escape(title)
    head = f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="{label}">'
    return f"<figure><figcaption>{label}</figcaption>{head}{mark}{''.join(lines)}</svg></figure>"


def _row(number: int, row: dict[str, object], scale: float) -> str:
    middle = ROW * number + ROW / 2
    estimate, low, high = (row[key] for key in ("estimate", "low", "high"))
    assert isinstance(estimate, float)
    text = number_text(str(row["metric"]), estimate)
    bar = ""
    if isinstance(low, float) and isinstance(high, float):
        ends = [LABEL + max(one, 0.0) * scale for one in (low, high)]
        bar = f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{middle}" y2="{middle}"/>'
    return (
        f'<text x="0" y="{middle + 4}">{escape(str(row["value"])[:22])}</text>{bar}'
        f'<circle cx="{LABEL + max(estimate, 0.0) * scale:.1f}" cy="{middle}" r="3.5"/>'
        f'<text x="{WIDTH}" y="{middle + 4}" text-anchor="end">{text}</text>'
    )
