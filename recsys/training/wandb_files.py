"""W&B's offline files: chunks of records in blocks, as a LevelDB log has them.

A file is 7 bytes of its own and then blocks of 32 KiB. A record lies in one chunk or in several; no chunk crosses the end of a
block, and fewer than 7 bytes at the end of one are padding.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import HistoryItem, Record, SummaryItem  # type: ignore[attr-defined]

FILE_HEADER_BYTES = 7
BLOCK_BYTES = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")
"""checksum, length, kind"""
FIRST_KIND, WHOLE, LAST = 1, 1, 4
"""kinds of chunks: the whole record, its first, a middle and its last one"""


def offline_files(folder: Path, run_id: str) -> list[Path]:
    """Return the offline files of a run in its folder, one for each start, oldest first."""
    # of two starts within a second W&B numbers the folder of the second one
    return sorted(folder.glob(f"wandb/offline-run-*-{run_id}*/run-{run_id}.wandb"))


def records(file: Path) -> Iterator[Record]:
    """Yield the records of a file up to its end, or to the one at which the run was killed."""
    data, parts = file.read_bytes(), b""
    position = FILE_HEADER_BYTES
    while position + CHUNK_HEADER.size <= len(data):
        if (left := BLOCK_BYTES - position % BLOCK_BYTES) < CHUNK_HEADER.size:
            position += left
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(data, position)
        position += CHUNK_HEADER.size
        if kind < FIRST_KIND or position + length > len(data):
            return
        parts += data[position : position + length]
        position += length
        if kind in (WHOLE, LAST):
            yield Record.FromString(parts)
            parts = b""


def history(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the logged rows of a file by key; pictures and tables are descriptions of their files."""
    for record in records(file):
        if record.HasField("history"):
            yield values(record.history.item)


def values(items: Iterable[HistoryItem | SummaryItem]) -> dict[str, Any]:
    """Return the values of a row or of a summary by key, as they were before they were written leaf by leaf."""
    found: dict[str, Any] = {}
    for item in items:
        *above, last = item.nested_key or [item.key]
        inner = found
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
    return found
