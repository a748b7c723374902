"""Footprint: the memory and the open files of one process, as Linux counts them (proc(5))."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Footprint(NamedTuple):
    """The memory and the open files of a process; sizes in bytes."""

    rss: int
    """Resident: all of its pages in memory, those that it shares too."""
    pss: int
    """Proportional: of a page that several share, each has its part."""
    uss: int
    """Unique: the pages that it shares with nobody, and that its end would free."""
    files: int
    """Open file descriptors."""


def footprint(pid: int) -> Footprint | None:
    """Return the footprint of a process, None if it is gone or belongs to another user."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # After the first line, which is the range of addresses: "Rss:   12345 kB".
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in _fields(lines[1:])}
    return Footprint(
        rss=sizes["Rss"],
        pss=sizes["Pss"],
        uss=sizes["Private_Clean"] + sizes["Private_Dirty"],
        files=files,
    )


def _fields(lines: list[str]) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in lines]


def children_of(pid: int) -> set[int]:
    """Return the child processes of a process; none if it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {int(child) for child in text.split()}
