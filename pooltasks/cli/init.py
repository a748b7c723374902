"""``pooltasks init``: a deployment of one's own to begin with, which works at once.

Its files are those of ``templates``. They repeat parts of the repository's own
deployment; a test compares these parts.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

import click

import pooltasks
from pooltasks.cli.faults import UsageFault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILES: Final[Mapping[str, str]] = {
    "README.md": "how to run this deployment, and how to make it yours",
    "config/pools.toml": "the pool: its size, its objective, its warm-up",
    "words.py": "two operations",
    "test_words.py": "their tests, which need no server",
    "requirements.txt": "what to install",
    "docker-compose.yml": "the deployment in containers",
    "Dockerfile": "the image of these containers",
    ".dockerignore": "what the image may hold",
    "pooltasks.service": "the deployment as a service of systemd",
}
"""The files to write, and a description of each."""

TEMPLATES: Final = Path(__file__).with_name("templates")
FILLED_IN: Final = ".in"
"""A template with this ending has places that are filled in."""

_CALL: Final = "from words import count; print(count.delay('to be or not to be').get(timeout=10))"
_SHADOWING: Final = "words/__init__.py"
"""Python would import this package instead of ``words.py``."""
_UNREADABLE: Final = re.compile(r"[\x00-\x1f\x7f\\]")
"""Characters that systemd would not read back as they stand."""


@click.command(short_help="Make a deployment that works at once in a new folder.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Make a deployment that works at once in DIR, a new or an empty folder.

    That is: a pool, two operations and their tests, a compose file, a unit of
    systemd and a README. Nothing that is there is changed: if a file is in the
    way, nothing is written.
    """
    try:
        _refuse_what_is_in_the_way(folder)
        _write(folder, _contents(folder.resolve()))
    except OSError as error:
        raise UsageFault(
            f"Nothing is written, because {_shown(error.filename or folder)} cannot be made "
            f"({error.strerror}): choose another folder."
        ) from error
    width = max(map(len, FILES))
    click.echo(f"Wrote in {_shown(folder)}:")
    for name, purpose in FILES.items():
        click.echo(f"  {name:<{width}}  {purpose}")
    click.echo("Next, the first in this terminal, the second in another with the same environment:")
    for command in _next_commands(folder):
        click.echo(f"  {command}")


def _refuse_what_is_in_the_way(folder: Path) -> None:
    """Raise if a file is in the way of the deployment.

    Raises:
        UsageFault: There is one. The message names it.
        OSError: The folder cannot be read.
    """
    if _UNREADABLE.search(str(folder.resolve())):
        raise UsageFault(
            f"The path {str(folder.resolve())!r} has a character that systemd cannot read: "
            "choose a folder with another name."
        )
    if _is_there(folder) and not folder.is_dir():
        raise UsageFault(f"{_shown(folder)} is no folder: choose a new or an empty folder.")
    found = ", ".join(dict.fromkeys(_in_the_way(folder)))
    if found:
        raise UsageFault(
            f"{_shown(folder)} has files in the way ({found}): move them away, "
            "or choose a new or an empty folder."
        )


def _in_the_way(folder: Path) -> Iterator[str]:
    for name in FILES:
        path = folder / name
        if path.parent != folder and _is_there(path.parent) and not path.parent.is_dir():
            yield path.parent.name
        elif _is_there(path):
            yield name
    if (folder / _SHADOWING).exists():
        yield _SHADOWING


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Return each file's name and content; ``folder`` is absolute."""
    places = {
        "folder": str(folder).replace("%", "%%"),
        "python": sys.executable.replace("%", "%%").replace('"', r"\""),
        "user": _user(),
        "version": pooltasks.__version__,
    }
    for name in FILES:
        template = TEMPLATES / name
        if template.exists():
            yield name, template.read_bytes()
        else:
            text = Template((TEMPLATES / (name + FILLED_IN)).read_text("utf-8"))
            yield name, os.fsencode(text.substitute(places))


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in containers that are given a number; systemd takes it, too
        return str(os.geteuid())


def _write(folder: Path, contents: Iterator[tuple[str, bytes]]) -> None:
    """Write all files or none.

    Raises:
        OSError: A file or a folder cannot be made. Those made before are removed.
    """
    with ExitStack() as undo:
        for name, content in contents:
            path = folder / name
            for parent in reversed(path.parents):
                if not parent.is_dir():
                    parent.mkdir()
                    undo.callback(parent.rmdir)
            with path.open("xb") as file:
                undo.callback(path.unlink)
                file.write(content)
        undo.pop_all()


def _next_commands(folder: Path) -> tuple[str, str]:
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(_shown(folder))} && "
    return f"{there}pooltasks up", f'{there}python -c "{_CALL}"'


def _shown(path: Path | str) -> str:
    return click.format_filename(path)
