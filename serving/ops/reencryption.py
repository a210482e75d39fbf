"""Encryption of a live folder by another key, while its stack is stopped: the first one, or the next one."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.data.sources.log_files import SUFFIX, log_name
from recsys.encryption import EncryptionKey, check_plain, configured_encryption_key, key_id
from recsys.errors import ConfigError, ServingError
from recsys.stores.atomic_files import write_atomically
from serving.events.folder_lock import lock_folder
from serving.events.nats_server import NatsServer
from serving.events.spool import ERASED, LineCodec
from serving.events.spool import SUFFIX as SPOOL_SUFFIX
from serving.layout import DeploymentLayout
from serving.ops.mending import COMPANIONS, remove_moved_aside

Report = Callable[[str], None]


def reencrypt(layout: DeploymentLayout, old: EncryptionKey | None, report: Report) -> None:
    """Encrypt everything of users in a live folder by the configured key. old: the key that it has, None for a plain one.

    States are removed and made anew by the next start. Interrupted, it goes on where it was. ConfigError without a key, for the
    wrong old one, DataError for an altered file; ServingError while a stack runs.
    """
    new = _new_key(layout, old)
    with _stopped(layout):
        files = sum(_reencrypt_file(path, old, new) for path in layout.events.rglob(f"*{SUFFIX}"))
        report(f"parquet  {files:,} files")
        segments = [_reencrypt_segment(path, old, new) for path in layout.spool.glob(f"*{SPOOL_SUFFIX}")]
        report(f"spool    {sum(segments):,} records")
        _reencrypt_log(layout, old)
        report("log      the broker's files")
        _remove_states(layout)
        report("states   are rebuilt by the next start")
        layout.note_encryption(new)


def _new_key(layout: DeploymentLayout, old: EncryptionKey | None) -> EncryptionKey:
    if (new := configured_encryption_key()) is None:
        raise ConfigError("there is no key to encrypt by; name its file by --encryption-key before the command")
    if not layout.live.is_dir():
        raise ConfigError(f"{layout.live} does not exist; name the right --live folder")
    found = layout.encryption_key_id()
    if found == new.id:
        raise ConfigError(f"{layout.live} is encrypted by the key {new.id} already; make another one to change it")
    if found != (given := None if old is None else old.id):
        kept = "not encrypted" if found is None else f"encrypted by the key {found}"
        raise ConfigError(f"{layout.live} is {kept}, --old-key is {given}; name the file of the key that it has")
    return new


@contextmanager
def _stopped(layout: DeploymentLayout) -> Iterator[None]:
    """Hold the locks of the stack and of the processes that write; ServingError while one of them runs."""
    held: list[int] = []
    try:
        for folder in (layout.live, layout.events, layout.spool):
            held.append(lock_folder(folder))
        yield
    except ServingError as error:
        raise ServingError(f"{error}; `python -m serving down` stops a stack") from None
    finally:
        for descriptor in held:
            os.close(descriptor)


def _reencrypt_file(path: Path, old: EncryptionKey | None, new: EncryptionKey) -> bool:
    """Return False for a file that an interrupted run encrypted before."""
    data = path.read_bytes()
    if key_id(data) == new.id:
        return False
    name = log_name(path)
    if old is None:
        check_plain(path)
    else:
        data = old.decrypt(data, name, path)
    write_atomically(path, new.encrypt(data, name), path.stat().st_mode & 0o777)
    return True


def _reencrypt_segment(path: Path, old: EncryptionKey | None, new: EncryptionKey) -> int:
    """Return the number of records; damaged and erased lines are left out."""
    before, after = LineCodec(old), LineCodec(new)
    lines = [line for line in path.read_bytes().splitlines() if not line.startswith(ERASED)]
    found = [one for line in lines if (one := after.parse(line) or before.parse(line)) is not None]
    data = b"".join(after.format(one.timestamp, one.record) for one in found)
    write_atomically(path, data, path.stat().st_mode & 0o777)
    return len(found)


def _reencrypt_log(layout: DeploymentLayout, old: EncryptionKey | None) -> None:
    """The broker does it as it starts. Positions of readers may be lost: who reads the log again leaves out what it has."""
    if layout.broker.is_dir():
        with NatsServer(layout.broker, log=layout.log, previous_key=old):
            pass


def _remove_states(layout: DeploymentLayout) -> None:
    """After the marker of the rebuild is there: a consumer makes them anew from training data, Parquet and log."""
    layout.rebuild.touch()
    remove_moved_aside(layout)
    for suffix in ("", *COMPANIONS):
        layout.states.with_name(layout.states.name + suffix).unlink(missing_ok=True)
    shutil.rmtree(layout.valkey, ignore_errors=True)
