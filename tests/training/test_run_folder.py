"""The folder of a run: one training at a time, and how often TEST was read."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ConfigError
from recsys.training.run_folder import SWEEP_FILE, count_test_reads, exclusive, record_test_read

HOLD = """
import sys
from pathlib import Path
from recsys.training.run_folder import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_in_a_folder_is_one_sentence_until_the_first_has_ended(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with (
        pytest.raises(ConfigError, match=r"another training is running in .*; choose another run_dir"),
        exclusive(folder),
    ):
        pass
    first.kill()  # a crash leaves no lock behind
    first.communicate()
    with exclusive(folder):
        pass


def test_an_error_of_the_run_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="the run's own"), exclusive(tmp_path):
        raise TimeoutError("the run's own")


def test_the_claim_comes_before_the_data_are_read(composed: Any, run: Any, tmp_path: Path) -> None:
    config = composed(tmp_path, "data=tables", "data.description=missing.yaml", "logger=csv")
    with exclusive(tmp_path), pytest.raises(ConfigError, match="another training is running"):
        run(config)


def test_readings_are_counted_in_the_run_and_over_its_sweep(tmp_path: Path) -> None:
    one, other = (tmp_path / name for name in ("0", "1"))
    one.mkdir()
    other.mkdir()
    record_test_read(one)
    record_test_read(one)
    record_test_read(other)
    assert count_test_reads(one) == {"run": 2}
    (tmp_path / SWEEP_FILE).touch()
    assert count_test_reads(one) == {"run": 2, "sweep": 3}
    assert count_test_reads(tmp_path / "2") == {"run": 0, "sweep": 3}
