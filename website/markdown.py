"""Markdown out of docstrings, and as tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Undocumented(LookupError):  # noqa: N818  a fault of the code, not of a call
    """The code has something that it does not explain."""


def plain(text: str) -> str:
    """Return a docstring as Markdown: without the roles and double backticks of Sphinx."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar within a cell is escaped."""
    lines = [headings, ("---",) * len(headings), *rows]
    cells = (
        " | ".join(re.sub(r"(?<!\\)\|", r"\|", " ".join(it.split())) for it in line)
        for line in lines
    )
    return "".join(f"| {line} |\n" for line in cells)
