"""A stack with an encryption key: no id in any file, everything works as without, and no start without the key."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_forgetting_stack import NAME, PATIENCE_S, Deployment, deployment, files_with  # noqa: F401  # a fixture

from recsys.data.sources.log_files import read_log_file
from recsys.data.sources.tables import Tables
from recsys.encryption import write_encryption_key
from recsys.stores.memory_folder import _release
from serving.processes import until

pytest.importorskip("cryptography")
pytestmark = pytest.mark.slow

ITEM = "distinctive-item-5512"


@pytest.fixture(autouse=True)
def _key(use_key: Callable[[str | None], Any]) -> Iterator[None]:
    """A key for all that follows, the export of the deployment as well."""
    use_key("live.key")
    yield
    _release()


def in_parquet(found: Deployment) -> bool:
    files = list(found.layout.events.glob("*/*/*.parquet"))
    kinds = {file.parts[-3] for file in files if NAME in read_log_file(file)["user"].to_list()}
    return kinds == {"feedback", "impressions", "preferences"}


def started(found: Deployment, *options: str) -> "subprocess.CompletedProcess[str]":
    """A start that ends by itself."""
    command = [sys.executable, "-m", "serving", *options, "up", str(found.layout.serve), f"--live={found.layout.live}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def assert_no_ids(found: Deployment) -> None:
    for folder in (found.layout.live, found.layout.bundle):
        for word in (NAME, ITEM):
            assert files_with(folder, word) == []


@pytest.mark.parametrize("deployment", ["sqlite"], indirect=True)  # files of redis: tests/serving/state
@pytest.mark.usefixtures("deployment")
def test_no_file_holds_an_id_and_no_start_goes_without_the_key(
    request: pytest.FixtureRequest,
    composed: Callable[..., Any],
    run: Callable[..., Any],
    tiny: tuple[str, ...],
    tmp_path: Path,
    use_key: Callable[[str | None], Any],
) -> None:
    path = f"/v1/users/{NAME}"
    encrypted: Deployment = request.getfixturevalue("deployment")
    encrypted.start()
    assert encrypted.call("GET", path)["history"]
    items = [one["item"] for one in encrypted.call("POST", "/v1/recommend", {"user": NAME, "k": 5})["items"]]
    encrypted.click(NAME, items[0])
    encrypted.click(NAME, ITEM)
    encrypted.click("bystander", items[0])
    encrypted.call("PUT", path, {"profile": {"age": 30.0}})
    encrypted.call("POST", "/v1/events", {"events": [{"user": NAME, "hide": {"item": items[1]}}]})
    assert until(lambda: in_parquet(encrypted), PATIENCE_S)
    assert until(encrypted.written, PATIENCE_S)
    assert_no_ids(encrypted)
    assert items[0] in [one["item"] for one in encrypted.call("GET", path)["seen"]]

    encrypted.stop()
    assert_no_ids(encrypted)
    write_encryption_key(tmp_path / "other.key")
    use_key(None)
    for options in ((), ("--encryption-key", str(tmp_path / "other.key"))):
        done = started(encrypted, *options)
        assert done.returncode == 2
        assert "is encrypted by the key" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    use_key("live.key")

    encrypted.start()
    assert items[0] in [one["item"] for one in encrypted.call("GET", path)["seen"]]
    assert encrypted.command("rebuild").returncode == 0
    assert until(lambda: not encrypted.layout.rebuild.exists(), PATIENCE_S)
    assert until(encrypted.written, PATIENCE_S)
    assert items[0] in [one["item"] for one in encrypted.call("GET", path)["seen"]]
    assert_no_ids(encrypted)
    done = encrypted.command("forget", NAME)
    assert done.returncode == 0, done.stderr
    encrypted.call("GET", path, status=404)
    encrypted.stop()

    log = f"data.folder={encrypted.layout.events}", f"data.description={encrypted.data / 'description.yaml'}"
    data = [one for one in tiny if not one.startswith("data.")]
    run(composed(tmp_path / "run", *data, "evaluation.baselines={}", "data=event_log", *log))
    users = Tables(description=str(tmp_path / "run" / "data" / "description.yaml")).load().users["user"].to_list()
    assert "bystander" in users
    assert NAME not in users
