"""HTML report of `data check`: one file without scripts or external resources, plots as SVG.

The plots are bars only, so they are written here: matplotlib belongs to the train extra, takes a second to
import and draws text as outlines, while a browser draws these sharp, searchable and in the colours of the page.
"""

from collections.abc import Collection, Iterable, Sequence
from html import escape

from recsys.cli.data_report import BarChart, Chapter
from recsys.data.inspection.advice import Advice

WIDTH, HEIGHT, FLOOR = 640, 140, 18
"""size of a plot, and the height of its labels, in pixels"""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 960px; margin: 2em auto }
body { padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #d5dae0 }
table { border-collapse: collapse } th { font-weight: 600; color: #57606a }
td, th { padding: .15em 1.2em .15em 0; text-align: left; vertical-align: top; overflow-wrap: anywhere }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
li { margin: .4em 0 } li.warning { color: #8a2b06 } li.warning::marker { content: "⚠ " }
code { background: #f3f5f7; padding: .3em .6em; display: inline-block }
figure { margin: 1em 0 } figcaption { color: #57606a } svg { display: block; max-width: 100%; height: auto }
rect { fill: #3b6ea5 } text { font-size: 11px; fill: #57606a }
"""


def page(name: str, chapters: Iterable[Chapter], advice: Sequence[Advice], command: str) -> str:
    """Return the HTML document."""
    warnings = sum(one.level == "warning" for one in advice)
    found = "".join(f'<li class="{one.level}">{escape(one.text)}</li>' for one in advice)
    body = [
        f"<h1>{escape(name)}: data check</h1>",
        f"<h2>warnings: {warnings}, notes: {len(advice) - warnings}</h2>",
        f"<ul>{found}</ul>" if advice else "<p>No problem was found.</p>",
        *map(chapter_html, chapters),
        f"<h2>next</h2><p><code>{escape(command)}</code></p>",
    ]
    return document(f"{name}: data check", STYLE, body)


def document(title: str, style: str, body: Iterable[str]) -> str:
    """Return an HTML document of these parts."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def chapter_html(chapter: Chapter) -> str:
    """Return the table of a chapter and its charts."""
    rows = "".join(_row("td", row, chapter.numbers) for row in chapter.rows)
    table = f"<table><thead>{_row('th', chapter.headings, chapter.numbers)}</thead><tbody>{rows}</tbody></table>"
    return f"<h2>{escape(chapter.title)}</h2>{table}{''.join(map(bars, chapter.charts))}"


def _row(tag: str, cells: Sequence[str], numbers: Collection[int]) -> str:
    classes = (' class="number"' if index in numbers else "" for index in range(len(cells)))
    return f"<tr>{''.join(f'<{tag}{css}>{escape(one)}</{tag}>' for one, css in zip(cells, classes, strict=True))}</tr>"


def bars(chart: BarChart) -> str:
    """Return an SVG figure; bars have tooltips with label and count, the first, middle and last label are written."""
    most, step = max(chart.counts, default=0) or 1, WIDTH / max(1, len(chart.counts))
    drawn = "".join(
        _bar(index * step, step, (HEIGHT - 2 * FLOOR) * count / most, f"{label}: {count:,}")
        for index, (label, count) in enumerate(zip(chart.labels, chart.counts, strict=True))
    )
    ends = {0: "start", len(chart.labels) // 2: "middle", len(chart.labels) - 1: "end"}
    labels = "".join(
        f'<text x="{(index + _ANCHORS[anchor]) * step:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">'
        f"{escape(chart.labels[index])}</text>"
        for index, anchor in ends.items()
    )
    top = f'<text x="0" y="11">{most:,}</text>'
    title = escape(chart.title)
    image = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{title}">{top}{drawn}{labels}</svg>'
    return f"<figure><figcaption>{title}</figcaption>{image}</figure>"


_ANCHORS = {"start": 0.0, "middle": 0.5, "end": 1.0}


def _bar(left: float, step: float, height: float, text: str) -> str:
    top = HEIGHT - FLOOR - height
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(step - 1, 0.5):.1f}" height="{height:.1f}">'
        f"<title>{escape(text)}</title></rect>"
    )
