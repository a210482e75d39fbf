"""API keys of a file that is read again when it changes, in a background thread: requests never wait for the disk."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from recsys.stores.atomic_files import file_stamp
from recsys.stores.change_watcher import POLL_INTERVAL_S, ChangeWatcher, OncePerErrorLogger
from serving.gateway.api_keys import ApiKeys, Scope, read_keys, token_file_missing
from serving.gateway.caller import Caller

STALE = "the file of API keys cannot be read; the keys that were read last stay in use"

logger = logging.getLogger(__name__)


class ReloadedKeys:
    """The keys of a file. A damaged or missing file leaves the last ones in use; ConfigError only at the start.

    clock: monotonic, now: unix, both in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        now: Callable[[], float] = time.time,
        every_s: float = POLL_INTERVAL_S,
    ) -> None:
        self._path, self._clock, self._now = path, clock, now
        self._token_files: tuple[Path, ...] = ()
        self._errors = OncePerErrorLogger(logger, "API keys")
        self._watcher = ChangeWatcher(self._stamp, self._reload)
        self.stale = False
        self._keys = self._read(None)
        self._watcher.start_polling(every_s)

    def __len__(self) -> int:
        return len(self._keys)

    def admit(self, authorization: str | None, scope: Scope) -> Caller:
        """Return the caller, as ApiKeys.admit."""
        return self._keys.admit(authorization, scope)

    @property
    def warnings(self) -> Mapping[str, str]:
        """A sentence while the last keys are used instead of the file."""
        return {"keys": STALE} if self.stale else {}

    def _stamp(self) -> object:
        return file_stamp(self._path), *(file_stamp(file) for file in self._token_files)

    def _read(self, before: ApiKeys | None) -> ApiKeys:
        keys = read_keys(self._path)
        self._token_files = tuple(self._path.parent / key.token_file for key in keys if key.token_file)
        active = (key for key in keys if not token_file_missing(self._path, key))
        return ApiKeys(active, clock=self._clock, now=self._now, before=before)

    def _reload(self) -> bool:
        try:
            self._keys = self._read(self._keys)
        except Exception as error:
            self._errors.log(error, "the keys that were read last stay in use")
            self.stale = True
            return False
        self._errors.reset()
        self.stale = False
        return True
