"""Tables of the models and losses of conf/: paper and keys of each, and when to use it.

A paper is read from the docstring of the class or of its module, the use from the comment at the head of the file.
"""

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
MARK = re.compile(r"^<!-- table of (\S+) -->$", re.M)
PAPER = re.compile(r"(?:\w[\w-]+, )?[A-Z]\w+(?: et al\.| & [A-Z]\w+)? \d{4}")
HEAD = ("choice", "paper", "use it for", "keys of its own")


def filled(markdown: str) -> str:
    """Put the table of a group of conf/ in the place of each mark `<!-- table of GROUP -->`."""
    return MARK.sub(lambda found: table(found[1]), markdown)


def table(group: str) -> str:
    """Markdown table of the files of a group."""
    rows = [_row(group, file) for file in sorted((CONF / group).glob("*.yaml"))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, ("---",) * len(HEAD), *rows))


def _row(group: str, file: Path) -> tuple[str, ...]:
    text = file.read_text(encoding="utf-8")
    use = text.partition("\n")[0].removeprefix("# ")
    written = yaml.safe_load(text)
    own = {key: value for key, value in written.items() if not key.startswith("_")}
    keys = ", ".join(f"`{key}`" if isinstance(value, dict) else f"`{key}={value}`" for key, value in own.items())
    return f"`{group}={file.stem}`", "; ".join(papers(written["_target_"])), use, keys


def papers(target: str) -> list[str]:
    """Authors and years in the docstring of a class by its dotted name, or else in that of its module."""
    module, _, name = target.rpartition(".")
    tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return _named(node) or _named(tree)


def _named(node: ast.ClassDef | ast.Module) -> list[str]:
    text = " ".join((ast.get_docstring(node) or "").split())
    return list(dict.fromkeys(PAPER.findall(text)))
