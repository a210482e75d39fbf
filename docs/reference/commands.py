"""The command reference: every command of `python -m recsys` and `python -m serving` with its arguments and options."""

from collections.abc import Iterator
from typing import Any

import typer

HEAD = """# Commands

Generated from the commands themselves. The program `recsys` is the same as `python -m recsys`; `recsys train` and
`recsys export` are `python train.py` and `python export.py`. These two take configuration keys instead of options; see
[Configuration](configuration.md). A mistake in the input ends with one sentence and exit code 2.
"""


def programs() -> dict[str, Any]:
    """How a program is called -> its command."""
    from recsys.cli.main import app as recsys
    from serving.__main__ import app as serving

    return {
        "python -m recsys": typer.main.get_command(recsys),
        "python -m serving": typer.main.get_command(serving),
    }


def page() -> str:
    return "\n".join([HEAD, *(line for name, command in programs().items() for line in _lines(name, command))])


def _lines(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for inner, one in command.commands.items():
            yield from _lines(f"{name} {inner}", one)
        return
    yield f"## {name}\n"
    yield " ".join((command.help or "").split()) + "\n"
    yield "| argument or option | default | meaning |"
    yield "| --- | --- | --- |"
    for parameter in command.params:
        if parameter.name != "help":
            yield _row(parameter)
    yield ""


def _row(parameter: Any) -> str:
    spellings = [*parameter.opts, *parameter.secondary_opts]
    named = (
        " / ".join(f"`{one}`" for one in spellings) if spellings[0].startswith("-") else f"`{parameter.name.upper()}`"
    )
    default = (
        "required" if parameter.required else f"`{_plain(parameter.default)}`" if _shown(parameter.default) else ""
    )
    meaning = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    return f"| {named} | {default} | {meaning} |"


def _shown(default: Any) -> bool:
    return default is not None and default is not False and not callable(default)


def _plain(default: Any) -> str:
    return str(getattr(default, "value", default))


if __name__ == "__main__":
    print(page())
