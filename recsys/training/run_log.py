"""Log file of a run folder: printed lines, warnings, and the traceback of an error."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

LOG_FILE = "train.log"
LOG_WIDTH = 160
FORMAT = "%(asctime)s %(levelname)s %(message)s"
LOG = logging.getLogger("recsys.run")
LOG.setLevel(logging.INFO)
LOG.propagate = False


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Append to the log of a run folder until the run ends; also warnings and what libraries log from `warning` on."""
    folder.mkdir(parents=True, exist_ok=True)
    with _log_file(folder / LOG_FILE), _logged_warnings():
        try:
            yield
        except BaseException as error:
            LOG.error("ended by %s", type(error).__name__, exc_info=True)
            raise


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    file, root = logging.FileHandler(path, encoding="utf-8"), logging.getLogger()
    file.setFormatter(logging.Formatter(FORMAT))
    file.addFilter(lambda record: record.name == LOG.name or record.levelno >= logging.WARNING)
    level, LOG.disabled = root.level, False  # Hydra disables loggers that are there before a job, and silences the root
    # without a handler Python prints warnings of libraries to the terminal; they stay there, unless the root is silent
    printed = [] if root.handlers or level > logging.WARNING else [logging.lastResort]
    handlers: list[logging.Handler] = [file, *filter(None, printed)]
    root.setLevel(min(level, logging.WARNING))
    LOG.addHandler(file)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(file)
        for handler in handlers:
            root.removeHandler(handler)
        root.setLevel(level)
        file.close()


@contextmanager
def _logged_warnings() -> Iterator[None]:
    shown = warnings.showwarning

    def show_and_log(message, category, filename, lineno, file=None, line=None):
        shown(message, category, filename, lineno, file, line)
        LOG.warning("%s:%s: %s: %s", filename, lineno, category.__name__, message)

    warnings.showwarning = show_and_log
    try:
        yield
    finally:
        warnings.showwarning = shown


def log_console() -> Console:
    """Return a console that prints into the log, without colours."""
    stream: Any = _LogStream()
    return Console(file=stream, width=LOG_WIDTH)


class _LogStream(io.TextIOBase):
    """Stream whose writes are entries of the log."""

    def write(self, text: str) -> int:
        if text.strip():
            LOG.info("\n%s" if "\n" in text.rstrip() else "%s", text.rstrip())
        return len(text)


def announce(line: str) -> None:
    """Print a line and log it."""
    print(line)
    LOG.info(line)


def logged(echo: Callable[[str], None]) -> Callable[[str], None]:
    """Return an echo that also logs its lines."""

    def echo_and_log(line: str) -> None:
        echo(line)
        LOG.info(line)

    return echo_and_log
