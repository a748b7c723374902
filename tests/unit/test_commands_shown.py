"""The commands that pages show are commands, and their options are options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from pooltasks.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
    ROOT / "pooltasks" / "cli" / "templates" / "README.md",
]
SHOWN = re.compile(r"`(?:\$ )?pooltasks ([^`]+)`|^\$ pooltasks ([^\n]+)", re.MULTILINE)
OF_ALL = {"--help", "--version"}
PLACES = re.compile(r"\[|\]|…|\.\.\.")
"""Marks of a synopsis: brackets around what may be left out, dots for what goes on."""
OTHERS = re.compile(r" (?:#|&&|\|\||[|>]) ?")
"""What ends a command in a line: a comment, another command, a file."""


def shown(page: Path) -> list[str]:
    """Return the commands of a page, without their comments."""
    text = page.read_text("utf-8")
    found = [PLACES.sub(" ", inline or line) for inline, line in SHOWN.findall(text)]
    return [" ".join(OTHERS.split(its, maxsplit=1)[0].split()) for its in found]


def wrong(line: str) -> str | None:
    """Return what is no command or no option in a command line; None if all of it is."""
    command: click.Command = main
    known = {option for param in main.params for option in param.opts}
    for word in shlex.split(line):
        if isinstance(command, click.Group) and not word.startswith("-"):
            context = click.Context(command)
            for name in reversed(word.split("|")):
                named = command.get_command(context, name)
                if named is None:
                    return name
            command = named
            known |= {it for param in command.params for it in (*param.opts, *param.secondary_opts)}
        elif word.startswith("-") and word.strip("-"):
            for option in word.split("|"):
                if option.startswith("-") and option.partition("=")[0] not in known | OF_ALL:
                    return option
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_command_that_a_page_shows_is_one(page: Path) -> None:
    assert [(line, its) for line in shown(page) if (its := wrong(line))] == []


def test_the_pages_show_many_commands() -> None:
    assert sum(len(shown(page)) for page in PAGES) > 100


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("statuss", "statuss"),
        ("status --jsn", "--jsn"),
        ("dead lst shop", "lst"),
        ("rollout start|paus", "paus"),
    ],
)
def test_what_is_no_command_is_found_out(line: str, name: str) -> None:
    assert wrong(line) == name
