"""The configuration reference: every key of conf/ with its default, its comment and its description in the code.

A comment is read from the YAML file; a description from the docstring under the attribute, or from the `name: text` lines
in the docstring of the constructor, without importing the module.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
HEAD = """# Configuration

Generated from `conf/`. A file is one constructor call: `_target_` names the class, every other key is one of its arguments.
Choose a file with `group=name` and change a key with `group.key=value`, for instance

```sh
python train.py protocol=leave_one_out retrieval.dim=32
```

Constructors check types and ranges, and an error names the key. Serving reads the resolved configuration in the bundle, never
`conf/`. Settings of the gateway, which are not in `conf/`, are at [the end](#gateway).
"""
GATEWAY = """## Gateway

Defaults of the gateway. The options `--budget`, `--liked` and `--users` of `python -m serving up` and of
`python -m serving gateway` change what their names say; the other values are constants of the release.
"""
FIRST = ("train.yaml", "export.yaml")
FORMS_OF_HYDRA = {"_target_", "_convert_", "_recursive_", "_partial_", "_args_"}
KEY = re.compile(r"^(?P<indent> *)(?:- )?(?P<key>[\w.@/ ]+?):(?P<rest>(?: .*)?)$")


def page() -> str:
    files = sorted(CONF.rglob("*.yaml"), key=_position)
    settings = "\n".join(
        _dataclass(name) for name in ("Settings", "RequestLimits", "ConnectionLimits", "AnonymousLimits")
    )
    return "\n".join([HEAD, *(_file(file) for file in files), GATEWAY, settings])


def _position(file: Path) -> tuple[bool, str]:
    name = file.relative_to(CONF).as_posix()
    return name not in FIRST, name


def _file(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    name = file.relative_to(CONF).with_suffix("").as_posix()
    targets = _targets(yaml.safe_load(text))
    lines = [f"## {name}", ""]
    lines += [f"{comment}  " for comment in _leading(text)] + [""]
    if target := targets.get(""):
        lines += [f"Builds `{target}`.", ""]
    rows = [_row(path, default, comment, targets) for path, default, comment in _keys(text)]
    return "\n".join([*lines, *_table(("key", "default", "meaning"), rows), ""])


def _row(path: str, default: str, comment: str, targets: Mapping[str, str]) -> tuple[str, str, str]:
    group, _, key = path.rpartition(".")
    described = _described(targets[group]).get(key, "") if group in targets else ""
    built = f"builds `{targets[path]}`" if path in targets else ""
    meaning = "; ".join(dict.fromkeys(part for part in (comment, described, built) if part))
    return f"`{path}`", f"`{default}`" if default else "", meaning


def _leading(text: str) -> list[str]:
    """The comment lines before the first key, without the directive for Hydra."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(_as_code(line.lstrip("# ")))
    return lines


def _as_code(line: str) -> str:
    command, gap, rest = line.partition("  ")
    return f"`{command}` {rest.strip()}".strip() if command.startswith("python ") else command + gap + rest


def _keys(text: str) -> Iterator[tuple[str, str, str]]:
    """(path, default, comment) of each key of a block mapping, as it is written."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        if (found := KEY.match(line)) is None or line.lstrip().startswith(("#", "- ")):
            continue
        indent, key = len(found["indent"]), found["key"]
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, key))
        value, comment = _split_comment(found["rest"])
        path = [name for _, name in above]
        if key not in FORMS_OF_HYDRA and path[0] not in ("defaults", "hydra"):
            yield ".".join(path), value, comment


def _split_comment(rest: str) -> tuple[str, str]:
    value, mark, comment = f" {rest}".partition(" #")
    return value.strip(), comment.strip() if mark else ""


def _targets(node: object, path: str = "") -> dict[str, str]:
    """path of a mapping -> the class that it builds"""
    if not isinstance(node, Mapping):
        return {}
    found = {path: str(node["_target_"])} if "_target_" in node else {}
    for key, value in node.items():
        found |= _targets(value, f"{path}.{key}".lstrip("."))
    return found


@cache
def _described(target: str) -> Mapping[str, str]:
    """argument -> description, of a class or function by its dotted name"""
    module, _, name = target.rpartition(".")
    if (file := _source(module)) is None:  # a class method such as RuleSet.parse
        return {}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name]
    return _arguments(nodes[0]) if nodes else {}


def _source(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _arguments(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    described = dict(_listed(ast.get_docstring(node) or ""))
    for before, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and _is_text(after):
            described[before.target.id] = " ".join(after.value.value.split())  # type: ignore[attr-defined]
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            described |= dict(_listed(ast.get_docstring(inner) or ""))
    return described


def _listed(docstring: str) -> Iterator[tuple[str, str]]:
    """`name: text` lines, each with the lines that continue it."""
    name, parts = "", list[str]()
    for line in [*docstring.splitlines(), ""]:
        found = re.match(r"(\w+): (.+)", line.strip())
        if name and (found or not line.strip()):
            yield name, " ".join(parts)
            name = ""
        if found:
            name, parts = found[1], [found[2]]
        elif name:
            parts.append(line.strip())


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _dataclass(name: str) -> str:
    """The fields of one settings class of the gateway."""
    for file in sorted((ROOT / "serving" / "gateway").glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and one.value is not None]
                described = _arguments(node)
                rows = [_field(one, described) for one in fields]
                head = f"### {name}\n\n{ast.get_docstring(node) or ''}\n"
                return "\n".join([head, *_table(("key", "default", "meaning"), rows), ""])
    raise LookupError(f"serving/gateway has no class {name}; name the settings class of the gateway")


def _field(node: ast.AnnAssign, described: Mapping[str, str]) -> tuple[str, str, str]:
    assert isinstance(node.target, ast.Name)
    assert node.value is not None
    name = node.target.id
    return f"`{name}`", f"`{ast.unparse(node.value)}`", described.get(name, "")


def _table(head: tuple[str, ...], rows: list[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return ["No keys of its own."]
    escaped = [tuple(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *escaped)]


if __name__ == "__main__":
    print(page())
