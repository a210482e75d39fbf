"""Damaged files that are moved aside, and removed with the users that they hold."""

import json
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from serving.endpoints import Endpoints, Server, write_endpoints
from serving.gateway.api_keys import VERSION
from serving.gateway.key_file import create_key
from serving.layout import DeploymentLayout
from serving.ops.mending import follow_backend, mend_keys, mend_states, remove_moved_aside
from serving.ops.shutdown import stop_stack
from serving.private_folder import make_private, socket_folder
from serving.triton.wheel import grpc_address


def test_a_damaged_state_file_is_moved_aside_and_goes_when_a_user_is_forgotten(tmp_path: Path) -> None:
    layout = DeploymentLayout(serve=tmp_path / "serve", live=tmp_path)
    layout.states.write_bytes(b"no database" * 100)
    reports: list[str] = []
    mend_states(layout, reports.append)
    assert "is damaged" in reports[0]
    assert len(list(tmp_path.glob("states.db.damaged-*"))) == 1
    (tmp_path / "states.db").write_bytes(b"made anew")
    remove_moved_aside(layout)
    assert [path.name for path in tmp_path.iterdir()] == ["states.db"]


@pytest.mark.parametrize("name", [None, "recsys-mine", "sockets"])
def test_sockets_and_addresses_of_a_killed_supervisor_go_and_other_folders_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    layout = DeploymentLayout(serve=tmp_path / "serve", live=tmp_path / "live")
    sockets = make_private(socket_folder() if name is None else tmp_path / "run" / name)
    (sockets / "grpc:1").touch()
    layout.make_live()
    other = Server(url="nats://127.0.0.1:9")
    write_endpoints(layout.endpoints, Endpoints(broker=other, state=other, triton=Server(url=grpc_address(sockets))))
    layout.running.write_text("{}")
    assert stop_stack(layout) == f"nothing runs at {layout.live}"
    assert sockets.exists() == (name is not None)
    assert not layout.endpoints.exists()
    assert not layout.running.exists()
    assert stop_stack(layout) == f"nothing runs at {layout.live}"


def test_keys_that_were_garbled_are_moved_aside_and_those_of_a_later_release_stay(tmp_path: Path) -> None:
    """Going back to an earlier release must cost no caller its key."""
    layout = DeploymentLayout(serve=tmp_path / "serve", live=tmp_path)
    create_key(layout.keys, name="shop", scopes=["recommend"], rate=1.0, burst=1)
    later = json.dumps(json.loads(layout.keys.read_text()) | {"version": VERSION + 1})
    layout.keys.write_text(later)
    reports: list[str] = []
    with pytest.raises(
        ConfigError, match=f"is of version {VERSION + 1}, this release reads the versions up to {VERSION}"
    ):
        mend_keys(layout, reports.append)
    assert (layout.keys.read_text(), reports) == (later, [])
    layout.keys.unlink()
    layout.keys.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        mend_keys(layout, reports.append)
    layout.keys.rmdir()
    layout.keys.write_text(later[:-9])
    mend_keys(layout, reports.append)
    assert not layout.keys.exists()
    assert "is damaged and was moved to" in reports[0]


@pytest.mark.parametrize(
    ("before", "now", "files", "reason"),
    [
        ("sqlite", "sqlite", [], None),
        ("redis", "redis", ["valkey/appendonlydir"], None),
        (None, "sqlite", [], None),
        ("sqlite", "redis", [], "were kept by sqlite"),
        ("redis", "sqlite", ["valkey/appendonlydir"], "were kept by redis"),
        ("redis", "redis", [], "are missing in"),
    ],
)
def test_states_are_rebuilt_for_a_store_that_did_not_keep_them(
    tmp_path: Path, before: str | None, now: str, files: list[str], reason: str | None
) -> None:
    layout = DeploymentLayout(serve=tmp_path / "serve", live=tmp_path)
    for folder in ("events/feedback/day=2026-01-01", *files):
        (tmp_path / folder).mkdir(parents=True)
    if before is not None:
        layout.state_backend.write_text(before)
    reports: list[str] = []
    follow_backend(layout, now, reports.append)
    assert not layout.rebuild.exists(), "no event was kept"
    if before is not None:
        layout.state_backend.write_text(before)
    (tmp_path / "events/feedback/day=2026-01-01/1-2.parquet").touch()
    follow_backend(layout, now, reports.append)
    assert layout.rebuild.exists() == (reason is not None)
    assert [reason in report for report in reports if reason] == [True] * len(reports)
    assert layout.state_backend.read_text() == now
