"""Write .ci/requirements.txt: the pins of constraints.txt with the sha256 of every file that pip may choose (`make hashes`).

Set-up installs from it and takes no other file then, whatever an index offers. Files for Linux and macOS on this project's
Python versions are kept, and sources. Torch is left out: which of its builds fits depends on the machine.
"""

import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_sdist_filename, parse_wheel_filename

INDEX = "https://pypi.org/simple"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
CONSTRAINTS = REQUIREMENTS.parents[1] / "constraints.txt"
OF_THE_MACHINE = "torch"
INTERPRETERS = re.compile(r"py3|py2\.py3|py3\d+|cp3\d+")
PYTHONS = ("cp311", "cp312")
PLATFORMS = re.compile(r"any|manylinux.*(x86_64|aarch64)|linux_x86_64|macosx_\d+_\d+_(arm64|universal2)")
LINK = re.compile(r'href="[^"]*?([^"/#]+)#sha256=([0-9a-f]{64})"')
WORKERS = 8


def main() -> None:
    pins = [pin for pin in CONSTRAINTS.read_text(encoding="utf-8").split() if not pin.startswith(f"{OF_THE_MACHINE}==")]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(hashes, pins))
    entries = [
        " \\\n".join([pin, *(f"    --hash=sha256:{one}" for one in kept)])
        for pin, kept in zip(pins, found, strict=True)
    ]
    REQUIREMENTS.write_text("\n".join([*entries, ""]), encoding="utf-8")
    print(f"{len(pins)} packages, {sum(map(len, found))} files")


def hashes(pin: str) -> list[str]:
    """Return the hashes of the files of a pin, e.g. "numpy==1.26.4"."""
    name, _, version = pin.partition("==")
    with urllib.request.urlopen(f"{INDEX}/{canonicalize_name(name)}/", timeout=60) as page:
        links = LINK.findall(page.read().decode())
    kept = {digest for file, digest in links if chosen(file, name, version)}
    if not kept:
        raise SystemExit(f"{pin}: the index has no file for {', '.join(PYTHONS)}; correct the pin")
    return sorted(kept)


def chosen(file: str, name: str, version: str) -> bool:
    """Whether pip may choose the file for this pin."""
    try:
        if not file.endswith(".whl"):
            found, of = parse_sdist_filename(file)
            return found == canonicalize_name(name) and str(of) == version
        found, of, _, tags = parse_wheel_filename(file)
    except (InvalidWheelFilename, ValueError):
        return False
    ours = found == canonicalize_name(name) and str(of) == version
    return ours and any(PLATFORMS.fullmatch(tag.platform) and _runs(tag.interpreter, tag.abi) for tag in tags)


def _runs(interpreter: str, abi: str) -> bool:
    """Whether the project's Pythons load the file: their own builds, stable ABI of theirs or earlier, or none."""
    if not INTERPRETERS.fullmatch(interpreter):
        return False
    return interpreter in PYTHONS or abi == "none" or (abi == "abi3" and int(interpreter[3:]) <= 12)


if __name__ == "__main__":
    main()
