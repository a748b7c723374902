"""Headroom: how many workers the host has memory and processors for.

Processors: the kernel says how long each worker ran and how long it wanted to and
had to wait for a processor (``/proc/PID/schedstat``). Their sum, as a share of the
time in which workers had operations, does not depend on what else the host does: it
is near 1 for operations that compute and near 0 for those that mostly wait. More
workers than processors ÷ share would only wait for each other. A worker with several slots
wants as many shares, and never more than one processor: one of its threads runs at a time.

Memory: what is available to the host, or to the node's control group where that has
a limit, less a reserve, by what a worker has to itself.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pooltasks.node.kernel_files import read

if TYPE_CHECKING:
    from collections.abc import Collection

_MEMORY = 10.0
"""Busy seconds of the pool after which what was measured before has faded to a third."""
_ENOUGH = 1.0
"""Busy seconds before the processors' share is believed."""
_RESERVE = 0.05
"""Share of the memory that is left to others."""
_ROUNDING = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Headroom:
    """Measures one node's workers.

    Args:
        slots: How many operations a worker runs at once.
        root: Where the host's ``proc`` and ``sys`` are.
    """

    def __init__(self, slots: int = 1, root: Path = Path("/")) -> None:
        self._slots = slots
        self._proc = str(root / "proc")
        self._group = control_group(root)
        self._cores = _cores(self._group)
        self._seen: dict[int, int] = {}
        self._wanted = self._busy = 0.0
        self._present: frozenset[int] = frozenset()
        self._own: float | None = None

    def room(self, workers: Collection[int], busy: float) -> int | None:
        """Return the most workers that the host has room for; None if it does not say.

        Args:
            workers: Process ids of the warm ones.
            busy: Seconds in which slots had operations since the last call.
        """
        present = frozenset(workers)
        # Workers without operations neither run nor grow: an idle node reads nothing of them.
        if busy or present != self._present:
            self._present = present
            self._note_processors(workers, busy)
            self._note_memory(workers)
        bounds = (self._by_processors(), self._by_memory(len(workers)))
        return min((bound for bound in bounds if bound is not None), default=None)

    def _note_processors(self, workers: Collection[int], busy: float) -> None:
        before, self._seen = self._seen, {}
        wanted = 0
        for worker in workers:
            with suppress(OSError):  # it has ended, or this kernel keeps no such account
                ran, waited, _ = read(f"{self._proc}/{worker}/schedstat").split()
                self._seen[worker] = int(ran) + int(waited)
                # A worker's time up to its first reading was its warm-up.
                wanted += self._seen[worker] - before.get(worker, self._seen[worker])
        fading = math.exp(-busy / _MEMORY)
        self._wanted = self._wanted * fading + wanted / 1e9
        self._busy = self._busy * fading + busy

    def _by_processors(self) -> int | None:
        if self._busy < _ENOUGH or not self._wanted:
            return None
        share = min(1.0, self._slots * self._wanted / self._busy)
        return max(1, math.floor(self._cores / share + _ROUNDING))

    def _note_memory(self, workers: Collection[int]) -> None:
        own = [own for worker in workers if (own := self._own_memory(worker))]
        self._own = sum(own) / len(own) if own else None

    def _by_memory(self, workers: int) -> int | None:
        available = self._available()
        if available is None or self._own is None:
            return None
        return workers + max(0, int(available / self._own))

    def _own_memory(self, worker: int) -> int:
        """Return the bytes of a worker that are no file's; some it may share with the node."""
        try:
            _, resident, shared, *_ = read(f"{self._proc}/{worker}/statm").split()
        except OSError:  # it has ended
            return 0
        return (int(resident) - int(shared)) * _PAGE

    def _available(self) -> int | None:
        """Return the bytes that may still be used, the reserve left out."""
        host = _numbers(f"{self._proc}/meminfo")
        try:
            available = (host[b"MemAvailable:"] - _RESERVE * host[b"MemTotal:"]) * 1024
        except KeyError:
            return None
        limit = number_in(f"{self._group}/memory.max")
        used = None if limit is None else number_in(f"{self._group}/memory.current")
        if limit is not None and used is not None:
            cached = _numbers(f"{self._group}/memory.stat").get(b"inactive_file", 0)
            available = min(available, (1 - _RESERVE) * limit - used + cached)
        return int(available)


def control_group(root: Path) -> Path:
    """Return the folder of this process's control group (version 2), or one that says nothing."""
    mounted = root / "sys" / "fs" / "cgroup"
    with suppress(OSError):
        for line in (root / "proc" / "self" / "cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0" and (mounted / path.lstrip("/")).is_dir():
                return mounted / path.lstrip("/")
    return mounted


def _cores(group: Path) -> float:
    """Return the processors that this process may use."""
    cores = float(len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):  # no such group, or "max": no limit
        quota, period = map(int, (group / "cpu.max").read_text().split())
        cores = min(cores, quota / period)
    return cores


def number_in(path: str) -> int | None:
    """Return the number in a file of the kernel; None if it says that there is no limit."""
    try:
        return int(read(path))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None


def _numbers(path: str) -> dict[bytes, int]:
    """Return the lines of a file as name and number."""
    try:
        lines = read(path).splitlines()
    except OSError:
        return {}
    return {parts[0]: int(parts[1]) for line in lines if len(parts := line.split()) > 1}
