"""Kernels are compiled before the first request needs them, each once: nothing is left to compile for gateway and stages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recsys.contracts import Query
from recsys.jit import CACHE_PREFIX

pytestmark = pytest.mark.slow

FIRST_SLATES = """
import sys
from pathlib import Path
from numba.core import event
from recsys.bundle import Bundle
from recsys.contracts import Query
from recsys.pipeline import recommend
from recsys.stages import load_retrieve, load_rules, load_stages, recently_popular
from serving.gateway.fallback_slates import FallbackSlates

class Compiled(event.Listener):
    def on_start(self, found):
        print(found.data["dispatcher"].py_func.__qualname__)

    def on_end(self, found): ...

bundle = Bundle.open(Path(sys.argv[1]))
with event.install_listener("numba:compile", Compiled()):
    recommend([Query.from_json(sys.argv[2])], load_stages(bundle))
    fallbacks = FallbackSlates(load_retrieve(bundle), load_rules(bundle), recently_popular(bundle))
    fallbacks.warm(Query(user="", now=0.0, k=10, request_id="warm-up"))
"""


@pytest.fixture
def installed(root: Path, tmp_path: Path) -> Path:
    """A copy of the packages with an empty compile cache."""
    for package in ("recsys", "serving"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_after_the_compilation_no_slate_compiles_anything(installed: Path, trained: Any) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    (query,) = trained.replay.queries([trained.dataset.num_events - 1], k=10)
    assert isinstance(query, Query)
    assert query.history
    serve = trained.folder / "serve"
    compiling = subprocess.run([sys.executable, "-m", "serving", "compile", str(serve)], cwd=installed, env=environment)
    assert compiling.returncode == 0
    (cache,) = (installed / "recsys" / "__pycache__").glob(f"{CACHE_PREFIX}*")
    assert sorted(mark.name.partition("-")[0] for mark in cache.glob("*.done")) == ["policy", "retrieval"]
    command = [sys.executable, "-c", FIRST_SLATES, str(trained.bundle.path), query.to_json()]
    answer = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == ""
