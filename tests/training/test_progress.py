"""Progress: an estimate on a terminal and in a file, nothing where it is switched off, all in 80 columns."""

import pickle
from io import StringIO

import pytest
from rich.console import Console

from recsys.progress import silent, tracked
from recsys.replay.threads import map_in_threads
from recsys.training import progress as module
from recsys.training.progress import ProgressDisplay
from recsys.training.trainer import cpu_trainer


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def display(out, **console):
    return ProgressDisplay(shown=True, console=lambda: Console(file=out, width=80, **console))


def test_every_part_is_reported_once_it_is_done():
    seen, reports = [], []
    for part in tracked("abc", 3, lambda *report: reports.append(report), "letters"):
        seen.append((part, len(reports)))
    assert seen == [("a", 1), ("b", 2), ("c", 3)]
    assert reports == [(done, 3, "letters") for done in range(4)]
    assert list(tracked([1, 2], 2, silent, "")) == [1, 2]


def test_threads_report_in_the_order_of_the_batches():
    reports = []
    squares = map_in_threads(lambda one: one * one, range(5), lambda *report: reports.append(report), "squares")
    assert squares == [0, 1, 4, 9, 16]
    assert reports == [(done, 5, "squares") for done in range(6)]


def test_a_file_has_a_line_now_and_then_with_the_time_left(clock):
    out = StringIO()
    progress = display(out)
    progress(0, 40, "baseline linear_mix")
    for done in range(1, 41):
        clock.now += 10
        progress(done, 40, "baseline linear_mix")
    lines = out.getvalue().splitlines()
    assert lines[0] == "baseline linear_mix: 2 of 40, about 6 min left"
    assert lines[-1] == "baseline linear_mix: 38 of 40, about 20 s left"
    assert len(lines) == 19
    assert all(len(line) <= 80 for line in lines)


def test_what_takes_no_time_leaves_no_line_in_a_file(clock):
    out = StringIO()
    progress = display(out)
    for done in range(1_001):
        clock.now += 0.01
        progress(done, 1_000, "queries")
    progress(5, 0, "rows of unknown number")
    assert out.getvalue() == ""


def test_an_unknown_total_is_counted(clock):
    out = StringIO()
    progress = display(out)
    progress(0, 0, "read")
    clock.now += 60
    progress(1_234_567, 0, "read")
    assert out.getvalue() == "read: 1,234,567\n"


def test_a_terminal_shows_a_bar_with_an_estimate_and_no_trace_of_it_at_the_end():
    out = StringIO()
    progress = display(out, force_terminal=True, color_system=None)
    progress(0, 3, "graphs")
    progress(1, 3, "graphs")
    progress.bar.refresh()
    shown = out.getvalue()
    assert "graphs" in shown
    assert "1/3" in shown
    assert "0:00:" in shown
    progress(3, 3, "graphs")
    assert progress.bar is None
    assert all(len(line.lstrip("\r")) <= 80 for line in shown.split("\n") if "\x1b" not in line)


def test_another_work_takes_the_place_of_one_that_did_not_end():
    progress = display(StringIO(), force_terminal=True)
    progress(0, 3, "one")
    first = progress.bar
    progress(0, 3, "two")
    assert not first.live.is_started
    progress.close()
    assert progress.bar is None


def test_nothing_is_shown_where_it_is_switched_off_and_the_display_reaches_other_processes(clock):
    made = []
    off = ProgressDisplay(shown=False, console=lambda: made.append(1))
    off(1, 2, "work")
    assert not made
    trainer = cpu_trainer(progress=True)
    copied = pickle.loads(pickle.dumps(trainer.without_progress()))
    assert trainer.progress
    assert not copied.progress
