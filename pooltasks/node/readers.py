"""The readers that kombu adds at each turn of a node's event loop."""

from __future__ import annotations

from typing import Any


class Readers:
    """An event loop, as it is, to which kombu adds every reader anew at each turn."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        """Add a reader unless it is there: to add it again costs a failed call to the kernel."""
        if fd not in self._loop.readers:
            self._loop.add_reader(fd, callback, *args)
