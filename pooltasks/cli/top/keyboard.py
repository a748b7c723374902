"""Keys as a terminal sends them."""

from __future__ import annotations

import os
import select
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
    "\x1b[C": "right",
    "\x1bOC": "right",
    "\x1b[D": "left",
    "\x1bOD": "left",
    "\x1b[Z": "back tab",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x03": "q",
}
_LONGEST = max(map(len, _NAMES))
_BYTES = 1024


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Have a terminal give each key at once and write none of them."""
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def pressed(fd: int, seconds: float) -> list[str]:
    """Wait for keys; return their names, or the characters of those that write one.

    Args:
        fd: The terminal.
        seconds: How long to wait at the most.

    Raises:
        EOFError: The terminal is gone.
    """
    if not select.select([fd], [], [], seconds)[0]:
        return []
    data = os.read(fd, _BYTES)
    if not data:
        raise EOFError
    return list(names(data.decode(errors="ignore")))


def names(text: str) -> Iterator[str]:
    """Return the keys that a terminal has sent."""
    while text:
        size = next((size for size in range(_LONGEST, 0, -1) if text[:size] in _NAMES), 0)
        if text[0] == "\x1b" and size == 1 and text[1:2] in {"[", "O"}:
            # A sequence that is not known: it ends with a letter or ~.
            size = next((n for n, c in enumerate(text[2:], 3) if c.isalpha() or c == "~"), 1)
            yield "unknown"
        elif size:
            yield _NAMES[text[:size]]
        else:
            size = 1
            yield text[0]
        text = text[size:]
