"""Free space of the disks that a deployment writes to: whether one is full, and the sizes that fit on it."""

import os
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ServingError
from serving.layout import DeploymentLayout

FULL_BYTES, FULL_SHARE = 64 << 20, 0.01
"""a disk is full below the smaller one of the two: writers of other processes may take the rest at any moment"""
LOG_SHARE, SPOOL_SHARE, OUTPUT_SHARE = 0.5, 0.25, 0.02
"""of the disk's room: the Parquet log and the states need the rest"""
MIN_LOG_BYTES, MIN_SPOOL_BYTES, MIN_OUTPUT_BYTES = 16 << 20, 2 << 20, 1 << 20
MAX_LOG_BYTES, MAX_SPOOL_BYTES, MAX_OUTPUT_BYTES = 4 << 30, 1 << 30, 64 << 20
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSizes:
    """Bytes that the event log, the spool and one file of the processes' output may take."""

    log: int = MAX_LOG_BYTES
    spool: int = MAX_SPOOL_BYTES
    output: int = MAX_OUTPUT_BYTES

    @staticmethod
    def fitting(layout: DeploymentLayout) -> "DiskSizes":
        """Shares of the free space and of the own files; ServingError on a disk too small to keep events on."""
        return DiskSizes(
            log=_size(layout.broker, "the event log", LOG_SHARE, MIN_LOG_BYTES, MAX_LOG_BYTES),
            spool=_size(layout.spool, "the spool", SPOOL_SHARE, MIN_SPOOL_BYTES, MAX_SPOOL_BYTES),
            output=_size(layout.log, "the log of the processes", OUTPUT_SHARE, MIN_OUTPUT_BYTES, MAX_OUTPUT_BYTES),
        )


def disk_problem(folder: Path) -> str | None:
    """One sentence for a full disk under the folder, None for one with room or one that cannot be seen."""
    try:
        disk = os.statvfs(_existing(folder))
    except OSError:
        return None
    free = disk.f_bavail * disk.f_frsize
    if free >= min(FULL_BYTES, FULL_SHARE * disk.f_blocks * disk.f_frsize):
        return None
    return f"the disk of {folder} is full ({free / MIB:.1f} MiB are free); free some space there"


def free_bytes(folder: Path) -> int:
    """Bytes that this account may still write under the folder."""
    disk = os.statvfs(_existing(folder))
    return disk.f_bavail * disk.f_frsize


def _size(path: Path, name: str, share: float, least: int, most: int) -> int:
    room = free_bytes(path) + _used_bytes(path)
    if (size := min(most, int(share * room))) < least:
        raise ServingError(
            f"{name} at {path} has room for {room / MIB:.0f} MiB, at least {least / share / MIB:.0f} MiB are needed; "
            "free some space there, or name a folder on a larger disk with --live"
        )
    return size


def _used_bytes(path: Path) -> int:
    files = [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())
