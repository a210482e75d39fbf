"""YAML of a proposal, with comments on reasons and on entries to review."""

from collections.abc import Iterator, Mapping

import yaml

from recsys.data.inspection.proposal import Proposal, TableProposal


def written(proposal: Proposal, command: str) -> str:
    """Return the text of the file, strict YAML that the source `Tables` reads."""
    lines = [f"# proposed by `{command}`: look at the lines that say UNSURE", ""]
    for key, table in proposal.tables.items():
        lines += _table(key, table)
    lines += ["objectives:  # in their order; each gets a probability of its own"]
    lines += [_entry(2, label.name, label.expression, label.reason, quoted=True) for label in proposal.objectives]
    if proposal.amount is not None:
        lines.append(f"  # an amount: how_much: {{amount: {proposal.amount}, steps: [0, 1, 10]}}")
    lines.append(_entry(0, "target", proposal.target, "retrieval learns from the events that reach it"))
    if proposal.title is not None:
        lines.append(_entry(0, "title", proposal.title, "shown to people"))
    return "\n".join(lines) + "\n"


def _table(key: str, table: TableProposal) -> Iterator[str]:
    yield f"{key}:  # {table.rows:,} rows"
    yield _entry(2, "file", table.file, "; ".join(note.split(": ", 1)[-1] for note in table.notes))
    for name, value in table.options.items():
        reason = "UNSURE: do these words stand for no user?" if name == "missing" else ""
        yield _entry(2, name, value, reason, quoted=isinstance(value, str))
    if table.header is not None and key == "interactions":
        yield _entry(2, "columns", list(table.header), "UNSURE: the file has no header, the names are made up")
    for name, (value, reason) in table.keys.items():
        yield _entry(2, name, value, reason)
    if key == "interactions":
        yield from _group("actions", {one.column: (one.kind, one.reason) for one in table.actions})
        yield from _group("context", table.columns)
    elif table.header is not None:
        yield "  columns:  # UNSURE: the file has no header, the names are made up"
        yield from (f"    - {_item(name, table)}" for name in table.header)
    else:
        yield from _group("columns", table.columns)
    if table.left_out:
        yield "  # left out:"
        yield from (f"  #   {name}: {reason}" for name, reason in table.left_out.items())
    yield ""


def _item(name: str, table: TableProposal) -> str:
    """Return a column entry of a table without a header: name, and kind where described."""
    if name not in table.columns:
        return _scalar(name)
    kind, reason = table.columns[name]
    return f"{_scalar(name)}: {kind}  # {reason}"


def _group(name: str, columns: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    if columns:
        yield f"  {name}:"
        yield from (_entry(4, column, kind, reason) for column, (kind, reason) in columns.items())


def _entry(indent: int, name: str, value: object, reason: str, *, quoted: bool = False) -> str:
    text = (
        yaml.safe_dump(value, default_style='"', allow_unicode=True, width=10**6).strip() if quoted else _scalar(value)
    )
    comment = "  # " + " ".join(reason.split()) if reason else ""
    return f"{' ' * indent}{_scalar(name)}: {text}{comment}"


def _scalar(value: object) -> str:
    text = yaml.safe_dump(value, allow_unicode=True, width=10**6, default_flow_style=True).strip()
    return text.removesuffix("\n...").strip()
