"""Damaged files that are moved aside, and removed with the users that they hold."""

from pathlib import Path

from serving.layout import DeploymentLayout
from serving.ops.mending import mend_states, remove_moved_aside


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
