"""The page of every command, made from its help."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

import click

from pooltasks.cli.main import main
from website.markdown import Undocumented, plain, table

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION = """\
# Commands

`pooltasks COMMAND` and `celery -A yours pool COMMAND` are the same. Only `pooltasks` has
`completion`, `init` and `up`. `celery -A yours dashboard` is the dashboard.

`pooltasks -A yours COMMAND` chooses the application. The default is that of the `pooltasks up`
of this folder, or else pooltasks' own.
"""


def commands() -> str:
    """Return the page of every command."""
    parts = [
        _INTRODUCTION,
    ]
    for path, command in each_command(main):
        parts += [f"## `pooltasks {path}`\n", _command(path, command)]
    return "\n".join(parts)


def each_command(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            raise Undocumented(f"the command {before} {name} cannot be loaded")
        path = f"{before} {name}".strip()
        if isinstance(command, click.Group):
            yield from each_command(command, path)
        else:
            yield path, command


def _command(path: str, command: click.Command) -> str:
    help_text = inspect.cleandoc(command.help or "")
    if not help_text:
        raise Undocumented(f"the command {path} has no help")
    context = click.Context(command, info_name=f"pooltasks {path}")
    usage = " ".join(command.collect_usage_pieces(context))
    text = f"```console\n$ pooltasks {path} {usage}\n```\n\n{_escaped(help_text)}\n"
    options = [_option(path, it, context) for it in command.params if isinstance(it, click.Option)]
    return text + ("\n" + table(("option", "meaning"), options) if options else "")


def _option(path: str, option: click.Option, context: click.Context) -> tuple[str, str]:
    record = option.get_help_record(context)
    if record is None or not record[1]:
        raise Undocumented(f"the option {option.opts[0]} of {path} has no help")
    return f"`{record[0]}`", _escaped(record[1])


def _escaped(text: str) -> str:
    """Return a text of the terminal as Markdown."""
    text = plain(text.replace("\b\n", "").replace("\f", ""))
    return re.sub(r"(?<!`)([<>*])(?!`)", r"\\\1", text)
