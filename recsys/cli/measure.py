"""`python -m recsys measure`: what came of the slates of an event log, as table, page, Parquet and gauges."""

import shlex
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from recsys.cli.measure_page import page
from recsys.cli.measure_report import chapters
from recsys.data.sources.tables import Tables
from recsys.errors import QueryError
from recsys.measurement.gauges import FILE, gauges_page
from recsys.measurement.kpis import Period, kpis
from recsys.measurement.outcomes import FOLDER, USERS, MeasuredLog
from recsys.measurement.settings import MeasurementSettings
from recsys.stores.atomic_files import atomic_file

KPIS, PAGE = "kpis.parquet", "page.html"
console = Console()


def measure(
    log: Annotated[Path, typer.Argument(help="folder of the event log, live/events of a deployment")],
    data: Annotated[
        Path | None, typer.Option(help="description.yaml of the served run: its objectives are measured")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML file of outcomes, windows and splits instead")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of results; else `measurement` beside the log")] = None,
    days: Annotated[int, typer.Option(min=1, max=3_660, help="days of the period")] = 28,
    until: Annotated[str | None, typer.Option(help="its last day, 2026-11-26; else the newest")] = None,
) -> None:
    """Credit events to what was shown, and report rates, amounts and retention with 95% intervals.

    What was read before is not read again.
    """
    last = None if until is None else _day(until)
    measured, num_rows = measured_log(log, out, settings_of(data, settings))
    newest = max(measured.days(USERS))
    last = newest if last is None else last
    period = Period(first=last - timedelta(days=days - 1), last=last)
    figures = kpis(measured, period)
    if not period.days(measured):
        raise QueryError(f"no impression is from {period.first} to {period.last}; the newest is from {newest}")
    if not figures.height:
        raise QueryError(
            f"no window of an outcome is over for any impression from {period.first} to {period.last}, the newest one is from "
            f"{newest}; name other days, or measure again when a window (window_s) has passed"
        )
    found = chapters(figures, measured.settings, period)
    for chapter in found:
        console.print(chapter.table())
    command = f"python -m recsys measure {shlex.quote(str(log))} "
    command += f"--data {shlex.quote(str(data))}" if settings is None else f"--settings {shlex.quote(str(settings))}"
    with atomic_file(measured.folder / KPIS) as draft:
        figures.write_parquet(draft)
    _write(measured.folder / FILE, gauges_page(figures, measured.end))
    _write(measured.folder / PAGE, page(figures, measured.settings, period, found, command))
    console.print(f"read     {num_rows:,} new rows of the log", soft_wrap=True)
    for name, file in (("figures", KPIS), ("page", PAGE), ("gauges", FILE)):
        console.print(Text(f"{name:8} {measured.folder / file}"), soft_wrap=True)
    console.print(Text(f"next     {command} --days 7"), style="bold", soft_wrap=True)


def measured_log(log: Path, out: Path | None, settings: MeasurementSettings) -> tuple[MeasuredLog, int]:
    """Measure what a log holds beyond the last call; return the measurement and the number of new rows.

    out: None for `measurement` beside the log
    """
    measured = MeasuredLog(log=log, folder=log.parent / FOLDER if out is None else out, settings=settings)
    return measured, measured.update()


def settings_of(data: Path | None, settings: Path | None) -> MeasurementSettings:
    """Read the settings of a measurement from one of both files; QueryError where there is none or two."""
    if (data is None) == (settings is None):
        raise QueryError("give either --data, a description whose objectives are measured, or --settings")
    if settings is not None:
        return MeasurementSettings.read(settings)
    return MeasurementSettings.of_description(Tables(description=str(data)).describe())


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise QueryError(f"--until is {text!r}; write a day as 2026-11-26") from None


def _write(file: Path, text: str) -> None:
    with atomic_file(file) as draft:
        draft.write_text(text, encoding="utf-8")
