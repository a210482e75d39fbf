"""Display of the progress of all stages: a bar with an estimate on a terminal, a plain line now and then in a file."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar

LINE_EVERY_S = 20.0
"""seconds between two lines in a file"""


class ProgressDisplay:
    """Callback `progress(done, total, what)`, one work at a time; a finished one leaves nothing behind."""

    def __init__(self, *, shown: bool, console: Callable[[], Console] = Console) -> None:
        """console: made for each work, since this object is sent to other processes"""
        self.shown = shown
        self.console = console
        self.what: str | None = None
        self.bar: RichBar | None = None
        self.started = self.printed = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        if not self.shown:
            return
        if what != self.what:
            self._open(what)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, total=total or None)
        elif (now := time.monotonic()) - self.printed >= LINE_EVERY_S and (done < total or not total):
            self.printed = now
            self.console().print(f"{what}: {_of_all(done, total)}{self._left(done, total)}", highlight=False)
        if done >= total > 0:
            self.close()

    def close(self) -> None:
        """End the work that is shown; also after an error."""
        if self.bar is not None:
            self.bar.stop()
        self.what = self.bar = None

    def _open(self, what: str) -> None:
        self.close()
        self.what = what
        self.started = self.printed = time.monotonic()
        if is_live(console := self.console()):
            self.bar = RichBar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self.bar.add_task(what, total=None)
            self.bar.start()

    def _left(self, done: int, total: int) -> str:
        """Estimate the time left from the time that the steps so far took."""
        if not done or not total:
            return ""
        seconds = (time.monotonic() - self.started) / done * (total - done)
        return f", about {seconds:.0f} s left" if seconds < 100 else f", about {seconds / 60:.0f} min left"


def is_live(console: Console) -> bool:
    """Return whether lines can be drawn over: on a terminal and in a notebook."""
    return console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)


def _of_all(done: int, total: int) -> str:
    return f"{done:,} of {total:,}" if total else f"{done:,}"
