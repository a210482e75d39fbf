"""Add the generated reference pages and tables to the site, so that none of them is kept in the repository."""

from typing import Any

from mkdocs.structure.files import File, Files
from reference import commands, configuration, http, models, python

SECTION = "Reference"


def on_config(config: Any) -> Any:
    """List one page a public module behind the pages of the section."""
    section = next(entry[SECTION] for entry in config.nav if SECTION in entry)
    pages = [{module: path} for module, path in python.paths().items()]
    if not any("Python" in entry for entry in section):  # `mkdocs serve` configures once a build
        section.append({"Python": pages})
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    return models.filled(markdown)


def on_files(files: Files, config: Any) -> Files:
    pages = {
        "reference/configuration.md": configuration.page(),
        "reference/commands.md": commands.page(),
        "reference/http.md": http.page(),
        "reference/openapi.json": http.document_text(),
        **python.pages(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files
