"""The documentation builds without a warning, loads nothing from another host and names every key, command and route."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PUBLIC = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
MAX_WORDS = 1_200
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "object": "data"}
"""tag -> attribute by which a browser loads something"""
FORMS_OF_HYDRA = {"defaults", "hydra", "_target_", "_partial_"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. An environment without the extra `docs` is named by tests/test_dependencies.py."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed; run `make setup`")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Loaded(HTMLParser):
    """Addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("rel") != "canonical" and (address := given.get(LOADED.get(tag, ""))):
            self.addresses.append(address)


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert [one for one in loaded.addresses if "//" in one] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def keys(node: Any, path: str = "") -> Iterator[str]:
    """Paths of all keys that a person may set."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key not in FORMS_OF_HYDRA and not str(key).startswith("override "):
                yield f"{path}{key}"
                yield from keys(value, f"{path}{key}.")


def test_every_configuration_key_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        section = page.partition(f">{file.relative_to(ROOT / 'conf').with_suffix('').as_posix()}<")[2]
        assert section, file
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
        flow = re.findall(r"^ *[\w.]+: *\{.*\}", file.read_text(encoding="utf-8"), re.M)
        inline = {name for line in flow for name in re.findall(r"[{,] *(\w+):", line)}
        wanted = [key for key in keys(written) if key.rpartition(".")[2] not in inline]
        assert [key for key in wanted if f"<code>{key}</code>" not in section.partition("<h2")[0]] == [], file


def test_every_command_and_route_is_in_the_reference(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for command in ("recsys recommend", "recsys data init", "recsys rules dry-run", "recsys items put", "serving up"):
        assert f"python -m {command}<" in commands
    http = (site / "reference" / "http.html").read_text(encoding="utf-8")
    for route in ("POST /v1/recommend", "POST /v1/events", "PUT /v1/items/{item}", "GET /readyz"):
        assert f"{route}<" in http
    assert (site / "reference" / "openapi.json").is_file()


def test_readme_is_short_and_every_link_of_a_public_file_leads_somewhere() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MAX_WORDS
    for file in PUBLIC:
        links = [link.partition("#")[0] for link in LINK.findall(file.read_text(encoding="utf-8"))]
        assert [link for link in links if link and not (file.parent / link).exists()] == [], file


def test_the_claims_of_the_readme_are_in_the_complete_table() -> None:
    complete = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\| (`python [^`]+`) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) >= 5
    assert [command for command in rows if command not in complete] == []
    modules = re.findall(r"python -m (benchmarks[\w.]+)", complete)
    assert len(set(modules)) > 15
    assert [one for one in modules if not (ROOT / one.replace(".", "/")).with_suffix(".py").is_file()] == []
