"""The cause of a worker's death, as far as its exit code and the kernel tell."""

from __future__ import annotations

import re
import signal
from enum import StrEnum
from pathlib import Path

from pooltasks.node.kernel_files import read


class Cause(StrEnum):
    """The cause of the end of a worker that should have gone on."""

    SEGFAULT = "segfault"
    """SIGSEGV or SIGBUS: a defect in native code."""
    ABORT = "abort"
    """SIGABRT: native code gave up."""
    OUT_OF_MEMORY = "out of memory"
    """SIGKILL, while the kernel's count of such kills rose."""
    KILLED = "killed"
    """SIGKILL by somebody."""
    SIGNAL = "signal"
    """Another signal."""
    EXIT = "exit"
    """It left by itself."""
    UNHEALTHY = "unhealthy"
    """Its node killed it: it failed too many health checks."""


_BY_SIGNAL: dict[int, Cause] = {
    signal.SIGSEGV: Cause.SEGFAULT,
    signal.SIGBUS: Cause.SEGFAULT,
    signal.SIGABRT: Cause.ABORT,
    signal.SIGKILL: Cause.KILLED,
}

_OOM_KILLS = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


class Crashes:
    """Classifies the deaths of one node's workers.

    Args:
        counters: Files with a line ``oom_kill <count>``, of which the first that
            has one is asked: by default this process's control group, then the
            whole machine (there, a kill elsewhere at the same time misleads).
    """

    def __init__(self, counters: tuple[Path, ...] | None = None) -> None:
        self._counters = counters if counters is not None else _kernel_counters()
        self._seen = 0
        self.forget()

    def forget(self) -> None:
        """Take the kernel's kills up to now for those of others; to be called now and then."""
        self._seen = self._oom_kills()

    def cause(self, exitcode: int | None) -> Cause:
        """Return what an exit code, as billiard gives it (negative: a signal), stands for."""
        if exitcode is None or exitcode >= 0:
            return Cause.EXIT
        cause = _BY_SIGNAL.get(-exitcode, Cause.SIGNAL)
        if cause is Cause.KILLED and self._oom_kills() > self._seen:
            self._seen += 1  # each of these kills explains one death
            return Cause.OUT_OF_MEMORY
        return cause

    def _oom_kills(self) -> int:
        for path in self._counters:
            try:
                found = _OOM_KILLS.search(read(path))
            except OSError:  # not every kernel and container has each of them
                continue
            if found:
                return int(found[1])
        return 0


def _kernel_counters() -> tuple[Path, ...]:
    own = next(
        (line[3:] for line in _lines(Path("/proc/self/cgroup")) if line.startswith("0::")), "/"
    )
    return (
        Path("/sys/fs/cgroup") / own.strip("/") / "memory.events",
        Path("/proc/vmstat"),
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
