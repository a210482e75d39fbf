"""Which release a deployment serves, and where the state of all releases is."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import ServingError
from recsys.export.releases import release_draft
from serving.gateway.http_server import Listening
from serving.layout import DeploymentLayout
from serving.ops.kernels import KernelPart, _command
from serving.ops.stack import Stack, StateBackend, UserIds


def exported(serve: Path, fingerprint: str) -> Path:
    """A release with as much in it as a layout looks for."""
    with release_draft(serve, fingerprint) as draft:
        (draft / "models").mkdir()
        (draft / "bundle").mkdir()
        (draft / "bundle" / "manifest.json").write_text(fingerprint)
    return serve / "releases" / fingerprint


def plan(layout: DeploymentLayout, listening: Listening) -> Stack:
    return Stack.plan(
        layout,
        listening=listening,
        state=StateBackend.sqlite,
        users=UserIds.raw,
        gateway_options=[],
        log_options=[],
        consumer_options=[],
    )


def test_a_deployment_goes_on_with_the_release_it_started_with(tmp_path: Path) -> None:
    serve = tmp_path / "serve"
    first = exported(serve, "a" * 16)
    layout = DeploymentLayout.of(serve)
    second = exported(serve, "b" * 16)
    assert (layout.bundle, layout.models) == (first / "bundle", first / "models")
    assert DeploymentLayout.of(serve).release == second
    assert (layout.rules, layout.items, layout.exposure) == (serve / "rules", serve / "items", serve / "exposure")
    assert layout.live == tmp_path / "live"
    layout.check()


def test_processes_that_are_restarted_later_are_told_the_release(tmp_path: Path) -> None:
    first = exported(tmp_path / "serve", "a" * 16)
    layout = DeploymentLayout.of(tmp_path / "serve", tmp_path / "live")
    planned = plan(layout, Listening(port=0))
    exported(tmp_path / "serve", "b" * 16)
    triton, *others = planned.processes
    assert triton.repository == first / "models"  # type: ignore[attr-defined]
    for process in others:
        assert str(first) in process._arguments  # type: ignore[attr-defined]
        assert DeploymentLayout.of(Path(process._arguments[1])).rules == layout.rules  # type: ignore[attr-defined]


@pytest.mark.parametrize("named", ["releases/{}", "current"])
def test_a_release_can_be_named_itself(tmp_path: Path, named: str) -> None:
    serve = tmp_path / "serve"
    first = exported(serve, "a" * 16)
    if named != "current":
        exported(serve, "b" * 16)
    layout = DeploymentLayout.of(serve / named.format("a" * 16))
    assert (layout.release, layout.serve, layout.live) == (first, serve, tmp_path / "live")


def test_a_folder_of_an_earlier_version_is_a_release_with_its_state_in_it(tmp_path: Path) -> None:
    serve = tmp_path / "serve"
    (serve / "models").mkdir(parents=True)
    (serve / "bundle").mkdir()
    (serve / "bundle" / "manifest.json").write_text("")
    layout = DeploymentLayout.of(serve)
    layout.check()
    assert (layout.models, layout.rules, layout.live) == (serve / "models", serve / "rules", tmp_path / "live")


def test_a_link_to_nothing_is_one_sentence(tmp_path: Path) -> None:
    serve = tmp_path / "serve"
    release = exported(serve, "a" * 16)
    release.rename(tmp_path / "away")
    with pytest.raises(ServingError, match="holds no exported bundle"):
        DeploymentLayout.of(serve).check()


def test_kernels_are_compiled_for_the_release_that_is_served(tmp_path: Path) -> None:
    first = exported(tmp_path / "serve", "a" * 16)
    exported(tmp_path / "serve", "b" * 16)
    *_, folder, _ = _command(DeploymentLayout.of(first), KernelPart.policy)
    assert DeploymentLayout.of(Path(folder)).release == first


def test_a_wrong_setting_of_the_gateway_is_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    exported(tmp_path / "serve", "a" * 16)
    command = [sys.executable, "-m", "serving", "up", str(tmp_path / "serve"), "--budget=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "gateway.budget_ms is 1" in done.stderr, done.stderr.count("\n")) == (2, True, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["serve"]


def test_a_port_is_looked_for_at_the_address_where_the_gateway_listens(tmp_path: Path) -> None:
    exported(tmp_path / "serve", "a" * 16)
    layout = DeploymentLayout.of(tmp_path / "serve", tmp_path / "live")
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=rf"gateway {port} is not free at 127\.0\.0\.2"):
            plan(layout, Listening(host="127.0.0.2", port=port))
        assert plan(layout, Listening(host="127.0.0.3", port=port)).addresses["gateway"] == f"http://127.0.0.3:{port}"
    with pytest.raises(ServingError, match=r"192\.0\.2\.1 .*; choose another one"):
        plan(layout, Listening(host="192.0.2.1", port=port))
