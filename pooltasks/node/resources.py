"""What a node and its workers take of their host, from Linux's ``/proc``."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RARELY = 10
_LONGEST = 4096
_UTIME, _STIME, _RSS = 11, 12, 21  # fields after the name of proc_pid_stat(5)


@dataclass(frozen=True)
class Usage:
    """CPU seconds ever used, bytes in use now."""

    node_cpu: float = 0.0
    workers_cpu: float = 0.0
    """Of workers that have ended, too."""
    node_rss: int = 0
    workers_rss: int = 0
    pss: int | None = None


class Meter:
    """Reads the usage of this process and of its workers.

    Reading the proportional size makes the kernel walk the process's pages,
    which takes it about a millisecond: one process is looked at each time until
    all were, and then every tenth time.
    """

    def __init__(self) -> None:
        self._pss: dict[int, int] = {}
        self._turns = 0

    def read(self, workers: Iterable[int]) -> Usage:
        """Return the usage at this moment.

        Args:
            workers: Process ids; those of children that are gone are left out.
        """
        times = os.times()
        node = os.getpid()
        # The kernel adds the times of children when they are waited for.
        cpu, rss = times.children_user + times.children_system, 0
        present = {node}
        for pid in workers:
            with suppress(OSError):  # it has just ended
                its_cpu, its_rss = _stat(pid)
                cpu += its_cpu
                rss += its_rss
                present.add(pid)
        self._look_at_one(present)
        return Usage(
            node_cpu=times.user + times.system,
            workers_cpu=cpu,
            node_rss=_stat(node)[1],
            workers_rss=rss,
            pss=sum(self._pss.values()) if self._pss.keys() == present else None,
        )

    def _look_at_one(self, present: set[int]) -> None:
        """Renew the proportional size of the process that was looked at longest ago."""
        self._pss = {pid: size for pid, size in self._pss.items() if pid in present}
        pid = next(iter(present - self._pss.keys()), None)
        self._turns = (self._turns + 1) % _RARELY
        if pid is None:
            if self._turns:
                return
            pid = next(iter(self._pss))
        self._pss.pop(pid, None)
        with suppress(OSError):  # it has just ended
            self._pss[pid] = _proportional(pid)


def _stat(pid: int) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process."""
    file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)  # what else opens files takes twice the time
    try:
        fields = os.read(file, _LONGEST).rpartition(b")")[2].split()
    finally:
        os.close(file)
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS, int(fields[_RSS]) * _PAGE


def _proportional(pid: int) -> int:
    """Return the bytes of a process, of shared pages its share."""
    with Path(f"/proc/{pid}/smaps_rollup").open("rb") as lines:
        for line in lines:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
