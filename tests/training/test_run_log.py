"""Every run folder has a log: printed lines, warnings, and the traceback of an error."""

import logging
import warnings
from pathlib import Path

import pytest

from recsys.cli.train import single
from recsys.errors import ConfigError
from recsys.training.run_log import LOG, LOG_FILE, announce, log_console, logged, run_log


def test_lines_tables_and_warnings_are_kept_in_order_and_a_second_start_appends(tmp_path: Path) -> None:
    echoed: list[str] = []
    for start in ("first", "second"):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda *_: None
            with run_log(tmp_path / "run"):
                logged(echoed.append)(f"{start} seed 0")
                announce("3 epochs")
                log_console().print("[bold]NDCG@10[/bold]")
                warnings.warn("old key", stacklevel=1)
                logging.getLogger("library").warning("careful")
                logging.getLogger("library").info("chatter")
    lines = (tmp_path / "run" / LOG_FILE).read_text().splitlines()
    entries = [line.split(" ", 2)[2] for line in lines]
    once = ["INFO 3 epochs", "INFO NDCG@10", "WARNING careful"]
    assert [one for one in entries if one in once] == once * 2
    assert [one for one in entries if "seed 0" in one] == ["INFO first seed 0", "INFO second seed 0"]
    assert sum("UserWarning: old key" in one for one in entries) == 2
    assert not any("chatter" in one for one in entries)
    assert echoed == ["first seed 0", "second seed 0"]


def test_an_error_leaves_its_traceback_and_ends_with_its_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, single(tmp_path):
        raise ConfigError("dim is 15; choose 16")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: dim is 15; choose 16\n"
    with pytest.raises(ZeroDivisionError), single(tmp_path):
        raise ZeroDivisionError("a defect")
    log = (tmp_path / LOG_FILE).read_text()
    assert log.count("Traceback") == 2
    assert "ERROR ended by ConfigError" in log
    assert "ZeroDivisionError: a defect" in log


def test_loggers_that_hydra_silenced_before_a_job_are_kept(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.level
    LOG.disabled = True
    root.setLevel(logging.ERROR)
    try:
        with run_log(tmp_path):
            announce("seed 0")
            logging.getLogger("another library").warning("careful")
        assert root.level == logging.ERROR
    finally:
        root.setLevel(before)
    text = (tmp_path / LOG_FILE).read_text()
    assert "INFO seed 0" in text
    assert "WARNING careful" in text


def test_nothing_is_logged_after_the_run(tmp_path: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    with run_log(tmp_path):
        pass
    announce("afterwards")
    logging.getLogger("library").error("afterwards")
    assert (tmp_path / LOG_FILE).read_text() == ""
    assert logging.getLogger().handlers == handlers
