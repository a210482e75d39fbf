"""A wall clock that can be stepped while processes run, as NTP or a virtual machine that was paused steps it.

libfaketime does as much and breaks Python 3.11: its clock_nanosleep (0.9.10) fails with EINVAL.
"""

import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ServingError

SOURCE = Path(__file__).with_name("wall_clock.c")


@dataclass(frozen=True)
class WallClock:
    """folder: of what processes preload, and of how many seconds they are off, which they look at each time"""

    folder: Path

    @staticmethod
    def made(folder: Path) -> "WallClock":
        """One that is right. ServingError without a C compiler."""
        if not (compiler := shutil.which("cc")):
            raise ServingError("a clock that can be stepped needs a C compiler and there is no cc; install gcc")
        clock = WallClock(folder)
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", clock._library, SOURCE], check=True)
        clock._offset.write_bytes(struct.pack("d", 0.0))
        return clock

    @property
    def environment(self) -> dict[str, str]:
        """For processes that shall read it."""
        return {**os.environ, "LD_PRELOAD": str(self._library), "CLOCK_OFFSET": str(self._offset)}

    def step(self, seconds: int) -> None:
        """Off by so many from now on."""
        with self._offset.open("r+b", buffering=0) as opened:
            opened.write(struct.pack("d", seconds))

    @property
    def _library(self) -> Path:
        return self.folder / "wall_clock.so"

    @property
    def _offset(self) -> Path:
        return self.folder / "offset"
