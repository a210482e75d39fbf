"""Folders and sockets that other accounts cannot use, and the files of endpoints with their secrets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import ConfigError, ServingError
from serving.endpoints import Endpoints, Server, read_endpoints, write_endpoints
from serving.private_folder import check_socket_path, close_to_others, make_private, socket_folder

NOBODY = 65_534
ENDPOINTS = Endpoints(
    broker=Server(url="kafka://k:9092", user="u", password="p4ss", settings={"sasl.mechanism": "SCRAM-SHA-512"}),
    state=Server(url="rediss://r:6379", password="w0rd", ca="/ca.pem"),
    triton=Server(url="t:8001"),
)


def test_an_open_folder_is_closed_with_all_that_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("secret")
    (tmp_path / "a" / "b" / "run").write_text("")
    for name, mode in (("a", 0o755), ("a/b", 0o755), ("a/b/file", 0o644), ("a/b/run", 0o755)):
        (tmp_path / name).chmod(mode)
    assert close_to_others(tmp_path / "a") == 4
    assert close_to_others(tmp_path / "a") == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*")}
    assert modes == {"b": 0o700, "file": 0o600, "run": 0o700}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_account_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)
    with pytest.raises(ServingError, match="belongs to another account"):
        make_private(tmp_path / "theirs")
    with pytest.raises(ServingError, match="theirs belongs to another account"):
        close_to_others(tmp_path)


def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ServingError, match="link belongs to another account"):
        make_private(tmp_path / "link")


def test_folders_of_sockets_differ_and_are_short() -> None:
    one, other = socket_folder(), socket_folder()
    assert one != other
    check_socket_path(one / "grpc:1")
    assert not one.exists()


def test_endpoints_survive_their_file_which_nobody_else_reads(tmp_path: Path) -> None:
    write_endpoints(tmp_path / "endpoints.json", ENDPOINTS)
    assert read_endpoints(tmp_path / "endpoints.json") == ENDPOINTS
    assert (tmp_path / "endpoints.json").stat().st_mode & 0o777 == 0o600


def test_secrets_are_in_no_message(tmp_path: Path) -> None:
    assert not [word for word in ("p4ss", "w0rd", "SCRAM") if word in repr(ENDPOINTS)]
    with pytest.raises(ConfigError) as refused:
        Server(url="redis://user:s3cret@host:1")
    assert "s3cret" not in str(refused.value)
    assert "redis://…@host:1 holds a password" in str(refused.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_endpoints(tmp_path / "endpoints.json", ENDPOINTS)
    (tmp_path / "endpoints.json").chmod(0o640)
    with pytest.raises(ConfigError, match="run `chmod 600 "):
        read_endpoints(tmp_path / "endpoints.json")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "lacks the field 'broker'"),
        ('{"broker": {"url": "nats://a:1"}, "state": {"url": "sqlite:///s", "pass": "x"}}', "unknown field 'pass'"),
        ('{"broker": {"url": 7}, "state": {"url": "x"}}', r"broker\.url is 7; send a string"),
        ("[]", "send a JSON object"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "endpoints.json").write_text(text)
    (tmp_path / "endpoints.json").chmod(0o600)
    with pytest.raises(ConfigError, match=sentence):
        read_endpoints(tmp_path / "endpoints.json")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give --endpoints, or --broker, --state, --triton"),
        (["--broker=nats://a:1", "--state=sqlite:///s"], "give --endpoints, or --broker, --state, --triton"),
        (["--broker=nats://u:hidden@a:1", "--state=sqlite:///s", "--triton=t:1"], "holds a password"),
    ],
)
def test_the_command_wants_all_endpoints_and_no_password(tmp_path: Path, options: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "serving", "gateway", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "hidden" not in done.stderr
    assert done.stderr.count("\n") == 1
