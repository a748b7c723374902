"""The notice of ``pooltasks up`` on a node that cannot warm its workers, from the node's log."""

from __future__ import annotations

import re

_FAILED = re.compile(r"the warm-up of worker \d+ failed in (\S+):")
_FRAME = re.compile(r'\s+File "(.+)", line (\d+)')


class WarmUpNotice:
    """Finds a warm-up that failed in the lines of a node's log.

    Says it once for each different error: a node tries again and again.

    Args:
        pool: The pool's name.
    """

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._operation: str | None = None
        """The operation whose traceback is being read."""
        self._place = ""
        self._said: set[str] = set()

    def __call__(self, line: str) -> str | None:
        """Read a line; return the notice to print after it, None for none."""
        if failed := _FAILED.search(line):
            self._operation, self._place = failed[1], ""
            return None
        if self._operation is None or line.startswith("Traceback "):
            return None
        if line.startswith(" "):
            if frame := _FRAME.match(line):
                self._place = f" ({frame[1]}, line {frame[2]})"
            return None
        text = (
            f"{self._pool} is not up: its warm-up fails in {self._operation}: {line}{self._place}. "
            "It takes no operations until the warm-up succeeds; it is tried again."
        )
        self._operation = None
        if text in self._said:
            return None
        self._said.add(text)
        return text
