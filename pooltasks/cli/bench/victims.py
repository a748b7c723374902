"""Victims: workers and nodes that are killed to see how soon others take their place."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Nodes = Mapping[str, Mapping[str, Any]]
    """The status of each node, by its name."""

_PPID = 1
"""Place of the parent in ``/proc/PID/stat`` after the name, which is in parentheses."""


class Victims:
    """Kills processes of a pool on this host; those of other hosts are left alone.

    Args:
        nodes: Returns the nodes as they are known at that moment.
    """

    def __init__(self, nodes: Callable[[], Nodes]) -> None:
        self._nodes = nodes
        self._killed: set[int] = set()
        self.workers = 0
        """Workers that it killed."""
        self.nodes = 0
        """Nodes that it killed."""

    def kill_worker(self) -> bool:
        """Kill a warm worker; return whether there was one."""
        for node, worker in warm_workers(self._nodes()):
            if worker not in self._killed and self._kill(worker, node):
                self.workers += 1
                return True
        return False

    def kill_node(self) -> bool:
        """Kill a node that has a warm worker; return whether there was one."""
        for node, _ in warm_workers(self._nodes()):
            if node not in self._killed and self._kill(node):
                self.nodes += 1
                return True
        return False

    def _kill(self, pid: int, parent: int | None = None) -> bool:
        if parent is not None and parent_of(pid) != parent:
            return False  # it has been replaced since
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self._killed.add(pid)
            return True
        return False


def warm_workers(nodes: Nodes) -> Iterator[tuple[int, int]]:
    """Yield the process of the node and of the worker, of warm workers on this host.

    Those of the node with most workers come first.
    """
    for its in sorted(nodes.values(), key=lambda its: -len(its["workers"])):
        for worker in its["workers"]:
            if worker["state"] == "warm" and parent_of(worker["pid"]) == its["pid"]:
                yield its["pid"], worker["pid"]


def parent_of(pid: int) -> int | None:
    """Return the parent of a process of this host, None if there is no such process.

    Ids of other hosts mean nothing: a worker is here if its node is its parent here.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[_PPID])
