"""Effects of an experiment as a table, and as an HTML page that a person who decides can read."""

from collections.abc import Mapping, Sequence
from html import escape

from recsys.cli.data_page import STYLE, chapter_html, document
from recsys.cli.data_report import Chapter
from recsys.experiments.analysis import VERDICTS, ExperimentResult, MetricResult
from recsys.experiments.cohorts import CohortEffect
from recsys.experiments.effects import Effect
from recsys.experiments.experiment_set import OnlineExperiment

WIDTH, ROW, LABEL = 640, 26, 200
"""of the plot, in pixels: width, height of a row, width of its label"""
SHRUNK = (
    "By cohort: the largest of many noisy effects is mostly noise, so each is drawn towards their mean as far as the "
    "cohorts allow. A cohort is found where its interval is on one side of 0; the experiment was not planned for it."
)
OF_ONE = (
    "The user is the unit; a user of two arms is left out. What users did before the start takes out noise (CUPED)."
)
OF_BOTH = "Slates of both arms were interleaved (team draft): every user saw both, and is compared with themselves."
PLOT_STYLE = "line { stroke: #3b6ea5; stroke-width: 5; stroke-opacity: .35 } circle { fill: #3b6ea5 }"


def effects_of(experiment: OnlineExperiment, arm: str, result: ExperimentResult) -> Chapter:
    """Return the effects of an arm as a table, a row a metric."""
    return Chapter(
        title=f"{experiment.name}: {arm} against {experiment.control}, {result.verdict}",
        headings=("metric", "role", "control", "treatment", "difference", "95% interval", "users"),
        rows=tuple(_row(experiment, metric, one) for metric, one in result.metrics.items()),
    )


def effects_by_cohort(
    arm: str, metric: str, by: str, found: Mapping[str, Effect], shrunk: Mapping[str, CohortEffect]
) -> Chapter:
    """Return the effects on the primary metric by cohort as a table, a row a cohort."""
    rows = []
    for value, one in shrunk.items():
        low, high = one.interval
        cells = (f"{found[value].difference:+.4g}", f"{one.difference:+.4g}", f"{low:+.4g} to {high:+.4g}")
        rows.append((value, *cells, f"{found[value].users:,}"))
    return Chapter(
        title=f"{metric} of {arm} by {by}",
        headings=(by, "as found", "shrunk", "95% interval", "users"),
        rows=tuple(rows),
    )


def _row(experiment: OnlineExperiment, metric: str, one: MetricResult) -> tuple[str, ...]:
    low, high = one.interval
    return (
        metric,
        "primary" if metric == experiment.primary else "guardrail",
        f"{one.effect.control:.4g}",
        f"{one.effect.treatment:.4g}",
        f"{one.effect.difference:+.4g}",
        f"{low:+.4g} to {high:+.4g}",
        f"{one.effect.users:,}",
    )


def page(experiment: OnlineExperiment, results: Mapping[str, ExperimentResult], cohorts: Sequence[Chapter] = ()) -> str:
    """Return the HTML document: verdict first, then effects with a picture, then how it was done."""
    title = f"experiment {experiment.name}"
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(experiment.hypothesis)}</p>"]
    for arm, result in results.items():
        body += _arm(experiment, arm, result)
    if cohorts:
        body.append(f"<p>{escape(SHRUNK)}</p>")
    body += map(chapter_html, cohorts)
    surfaces = ", ".join(experiment.surfaces) or "all surfaces"
    part = (
        f"{experiment.users[0]:.0%} to {experiment.users[1]:.0%} of the layer {experiment.layer or experiment.name!r}"
    )
    body.append(
        "<h2>how it was done</h2><p>"
        + escape(
            f"From {experiment.start} until {experiment.end}, on {surfaces}, users {part}"
            + (f" where {experiment.when}" if experiment.when else "")
            + f". {OF_BOTH if experiment.interleave else OF_ONE}"
        )
        + "</p>"
    )
    return document(title, STYLE + PLOT_STYLE, body)


def _arm(experiment: OnlineExperiment, arm: str, result: ExperimentResult) -> list[str]:
    ratio = "" if experiment.interleave else f"Sample ratio: p {result.sample_ratio_p_value:.3f}."
    return [
        chapter_html(effects_of(experiment, arm, result)),
        f"<p><strong>{escape(VERDICTS[result.verdict])}</strong>. {ratio}</p>",
        _plot(result),
    ]


def _plot(result: ExperimentResult) -> str:
    """Return an SVG figure: each effect and its interval relative to the control's figure, and a line at no effect."""
    scaled: list[tuple[str, float, float, float]] = []
    for metric, one in result.metrics.items():
        base = abs(one.effect.control) or 1.0
        scaled.append((metric, one.effect.difference / base, one.interval[0] / base, one.interval[1] / base))
    reach = max(max(abs(low), abs(high)) for _, _, low, high in scaled) or 1.0
    middle, scale = LABEL + (WIDTH - LABEL) / 2, (WIDTH - LABEL) / 2 / reach * 0.95
    height = ROW * len(scaled)
    lines = [f'<rect x="{middle:.1f}" y="0" width="1" height="{height}"/>']
    for number, (metric, difference, low, high) in enumerate(scaled):
        y = ROW * number + ROW / 2
        ends = [middle + value * scale for value in (low, high)]
        lines.append(
            f'<text x="0" y="{y + 4}">{escape(metric[:28])}</text>'
            f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{middle + difference * scale:.1f}" cy="{y}" r="3.5"/>'
            f'<text x="{WIDTH}" y="{y + 4}" text-anchor="end">{difference:+.1%}</text>'
        )
    head = f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="relative effects">'
    return f"<figure><figcaption>relative to control</figcaption>{head}{''.join(lines)}</svg></figure>"
