"""`python -m recsys drift`: whether what is served is still like what the bundle was trained and measured with."""

import json
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from recsys.bundle import Bundle
from recsys.cli.drift_page import chapters, furthest, page
from recsys.cli.measure import measured_log, settings_of
from recsys.items.store import ItemStore
from recsys.measurement.drift.report import DOCUMENT, GAUGES, DriftReport, drift_report
from recsys.measurement.drift.thresholds import Thresholds
from recsys.measurement.drift.windows import DriftLog
from recsys.measurement.outcomes import FOLDER
from recsys.stages.load import read_spec
from recsys.stores.atomic_files import atomic_file

PAGE = "drift.html"
console = Console()


def drift(
    log: Annotated[Path, typer.Argument(help="folder of the event log, live/events of a deployment")],
    bundle: Annotated[Path, typer.Option(help="folder of the bundle that serves")],
    data: Annotated[
        Path | None, typer.Option(help="description.yaml of the served run: drops of its objectives are tested too")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML file of outcomes instead, as of `measure`")] = None,
    thresholds: Annotated[Path | None, typer.Option(help="YAML file of limits; else those of the manual")] = None,
    items: Annotated[Path | None, typer.Option(help="folder of changed items: its age is a figure")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of results; else `measurement` beside the log")] = None,
    now: Annotated[float | None, typer.Option(help="unix seconds by which ages are counted; else the clock")] = None,
    check: Annotated[bool, typer.Option("--check", help="exit code 1 where a figure is an alarm")] = False,
) -> None:
    """Compare the requests and slates of the last hours with the reference statistics of a bundle.

    What was read before is not read again.
    """
    limits = Thresholds() if thresholds is None else Thresholds.read(thresholds)
    opened, folder = Bundle.open(bundle), log.parent / FOLDER if out is None else out
    measured = None if data is None and settings is None else measured_log(log, out, settings_of(data, settings))[0]
    counted = DriftLog.of(log, folder, opened, read_spec(opened))
    num_requests = counted.update()
    found = drift_report(
        counted,
        limits,
        now=time.time() if now is None else now,
        measured=measured,
        items_changed=None if items is None else newest_change(items),
    )
    for chapter in chapters(found):
        console.print(chapter.table())
    command = f"python -m recsys drift {shlex.quote(str(log))} --bundle {shlex.quote(str(bundle))}"
    _write(folder, found, command)
    console.print(f"read     {num_requests:,} new requests of the log", soft_wrap=True)
    for name, file in (("figures", DOCUMENT), ("page", PAGE), ("gauges", GAUGES)):
        console.print(Text(f"{name:8} {folder / file}"), soft_wrap=True)
    verdict = f"{len(furthest(found.alarms))} alarms" if found.alarms else "no alarm"
    console.print(
        Text(f"{verdict} among {len(furthest(found.figures)):,} figures"), style="bold red" if found.alarms else "bold"
    )
    console.print(Text(f"next     {command} --check"), style="bold", soft_wrap=True)
    if check and found.alarms:
        raise typer.Exit(1)


def newest_change(folder: Path) -> float | None:
    """Return when an item was changed last, unix seconds; None where none ever was."""
    changes = ItemStore(folder).history()
    return max((datetime.fromisoformat(one.when).replace(tzinfo=UTC).timestamp() for one in changes), default=None)


def _write(folder: Path, found: DriftReport, command: str) -> None:
    texts = {DOCUMENT: json.dumps(found.to_document(), indent=1), GAUGES: found.gauges(), PAGE: page(found, command)}
    for name, text in texts.items():
        with atomic_file(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")
