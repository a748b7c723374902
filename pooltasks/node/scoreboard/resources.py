"""The resources that a node and its workers use, from Linux's ``/proc``."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pooltasks.node.kernel_files import read

if TYPE_CHECKING:
    from collections.abc import Iterable

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RARELY = 10
_AT_ONCE = 4
_UTIME, _STIME, _RSS = 11, 12, 21  # fields after the name of proc_pid_stat(5)


@dataclass(frozen=True)
class Usage:
    """CPU seconds ever used, bytes in use now."""

    node_cpu: float = 0.0
    workers_cpu: float = 0.0
    """CPU seconds of workers that have ended, too."""
    node_rss: int = 0
    workers_rss: int = 0
    pss: int | None = None


class Meter:
    """Reads the usage of this process and of its workers.

    Reading the proportional size makes the kernel walk the process's pages,
    which takes it about a millisecond: four processes are looked at each time until
    all were, and then one every tenth time.
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
        self._look_at_some(present)
        return Usage(
            node_cpu=times.user + times.system,
            workers_cpu=cpu,
            node_rss=_stat(node)[1],
            workers_rss=rss,
            pss=sum(self._pss.values()) if self._pss.keys() == present else None,
        )

    def _look_at_some(self, present: set[int]) -> None:
        """Renew the proportional sizes of the processes that were looked at longest ago."""
        self._pss = {pid: size for pid, size in self._pss.items() if pid in present}
        unknown = present - self._pss.keys()
        self._turns = (self._turns + 1) % _RARELY
        due = [*unknown][:_AT_ONCE] if unknown else [*self._pss][: 0 if self._turns else 1]
        for pid in due:
            self._pss.pop(pid, None)
            with suppress(OSError):  # it has just ended
                self._pss[pid] = _proportional(pid)


def _stat(pid: int) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS, int(fields[_RSS]) * _PAGE


def _proportional(pid: int) -> int:
    """Return the bytes of a process; of shared pages, only its share."""
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
