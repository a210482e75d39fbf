"""Garbage collection and CPU priority, each in a process of its own."""

import subprocess
import sys

from serving.process_tuning import GC_THRESHOLD, NICENESS


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_what_lives_is_not_looked_at_again_and_what_comes_seldom() -> None:
    frozen, threshold = said(
        "import gc; from serving.process_tuning import freeze_heap; freeze_heap();"
        " print(gc.get_freeze_count(), gc.get_threshold()[0])"
    ).split()
    assert int(frozen) > 1_000
    assert int(threshold) == GC_THRESHOLD


def test_who_stands_back_is_nicer_than_its_neighbours() -> None:
    before, after = said(
        "import os; from serving.process_tuning import lower_priority; print(os.nice(0)); lower_priority(); print(os.nice(0))"
    ).split()
    assert int(after) == min(19, int(before) + NICENESS)
