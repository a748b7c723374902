"""Tables of text on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def table(rows: Sequence[Sequence[str]], *, left: Collection[str]) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: The headings, then the cells of each row.
        left: Headings of the columns of words; the others, of numbers, end together.
    """
    headings = rows[0]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if heading in left else cell.rjust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ).rstrip()
        for row in rows
    ]
