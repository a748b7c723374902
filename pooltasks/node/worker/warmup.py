"""Warm-up: a worker runs the pool's commands on itself before it takes work.

The node decides who may warm up when, by permits; the worker runs the commands
and sends a :class:`WorkerReport`; the node merges them into a :func:`summary`.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import signal
import tempfile
import threading
import time
import traceback
import weakref
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from pooltasks import coroutines
from pooltasks.pool_settings import WarmUp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery import Celery

    from pooltasks.pool_settings import PoolSettings, WarmUpCommand


_FRAME = re.compile(r'  File "(.+)", line (\d+)')
"""A line of a traceback that names a place."""


@dataclass(frozen=True)
class CommandReport:
    """One command in one worker. ``error`` is its traceback, None if it succeeded."""

    operation: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class WorkerReport:
    """One warm-up of one worker. Times are seconds since the epoch."""

    pid: int
    started_at: float
    finished_at: float
    commands: tuple[CommandReport, ...]

    @property
    def error(self) -> str | None:
        """Traceback of the command that failed, None if none did."""
        return next((command.error for command in self.commands if command.error), None)

    @property
    def failure(self) -> str | None:
        """The failure, in a line: the command, its exception, the file and the line."""
        failed = (command for command in self.commands if command.error)
        return next((f"{its.operation}: {_in_a_line(its.error or '')}" for its in failed), None)

    def plain(self) -> tuple[Any, ...]:
        """Return it as plain data, as a worker sends it to its node."""
        commands = [(each.operation, each.seconds, each.error) for each in self.commands]
        return self.pid, self.started_at, self.finished_at, commands

    @classmethod
    def of(cls, pid: int, started_at: float, finished_at: float, commands: Any) -> WorkerReport:
        """Return the report that is this plain data."""
        reports = tuple(CommandReport(*command) for command in commands)
        return cls(pid, started_at, finished_at, reports)


def _in_a_line(trace: str) -> str:
    """Return the exception of a traceback, with the file and the line where it was raised."""
    lines = trace.strip().splitlines()
    place, begin = "", 0
    for number, line in enumerate(lines):
        if frame := _FRAME.match(line):
            begin = number + 1
            if frame[1] != __file__:  # where it runs commands, and interrupts them
                place = f" ({frame[1]}, line {frame[2]})"
    # The text of an exception may have lines of its own; its first one names it.
    error = next((line for line in lines[begin:] if not line.startswith(" ")), lines[-1])
    return f"{error}{place}"


def at_once(strategy: str, workers: int) -> int | None:
    """Return how many of ``workers`` may warm up at once; None: all."""
    return {"parallel": None, "sequential": 1, "staged": max(1, math.ceil(workers / 3))}[strategy]


def _anonymous_file(owner: object) -> IO[bytes]:
    """Return a file without a name and without a buffer.

    It is closed when its owner is gone, and at the latest when the process ends.
    """
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  it lives as long as its owner
    weakref.finalize(owner, file.close)
    return file


class Permits:
    """The permits of a node's workers to warm up at the same time.

    A permit is a lock on one byte of an anonymous file, which the kernel gives
    back when its holder dies, however it dies.

    Args:
        strategy: ``parallel``, ``sequential`` or ``staged``.
        workers: Number of workers of the node at its start.
    """

    def __init__(self, strategy: str, workers: int) -> None:
        self.count = at_once(strategy, workers)
        self._workers = workers
        self._file = _anonymous_file(self)

    @contextmanager
    def one(self, index: int, strategy: str | None = None) -> Iterator[None]:
        """Hold a permit; wait for it if need be.

        Args:
            index: The worker's place in its node, from 0: neighbors take turns.
            strategy: Of this warm-up, if it has another.
        """
        count = self.count if strategy is None else at_once(strategy, self._workers)
        if count is None:
            yield
            return
        place = index % count
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, place)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)


@dataclass(frozen=True)
class Plan:
    """How the workers of one node warm up."""

    pool: str
    settings: PoolSettings
    permits: Permits
    orders: Orders

    @classmethod
    def of(cls, pool: str, settings: PoolSettings, workers: int) -> Plan:
        """Make the plan of a node that starts with ``workers`` workers."""
        return cls(pool, settings, Permits(settings.warmup.strategy, workers), Orders())


class Orders:
    """The commands that workers run when they are asked to warm up again.

    An anonymous file that the node appends to and its workers inherit: a signal asks them,
    and a signal carries nothing.
    """

    def __init__(self) -> None:
        self._file = _anonymous_file(self)

    def give(self, order: WarmUp) -> None:
        """Have the next round run ``order``; the node calls it."""
        self._file.write(order.model_dump_json().encode() + b"\n")

    def last(self) -> WarmUp:
        """Return the last order that was given; a worker calls it, after at least one was."""
        descriptor = self._file.fileno()
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        # The text after the last line's end is still being written.
        return WarmUp.model_validate_json(text[: text.rindex(b"\n")].rpartition(b"\n")[2])


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Interrupt a command that runs longer than ``seconds``; None: no limit.

    There is none either in a debugging node, whose worker is a thread beside the main one.

    Raises:
        SoftTimeLimitExceeded: It took longer.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    told = SoftTimeLimitExceeded(f"it has {seconds:g} s")
    is_running, is_over = True, False

    def interrupt(*_: Any) -> None:
        nonlocal is_over
        is_over = is_running
        if is_running and not coroutines.interrupt(threading.get_ident()):
            raise told

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        is_running = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    if is_over:  # it made something else of it
        raise told


def run_commands(
    celery_app: Celery, commands: Sequence[WarmUpCommand], timeout: float | None = None
) -> WorkerReport:
    """Run ``commands`` in this process, in order, until one fails.

    Args:
        celery_app: The application of the operations.
        commands: Each with its arguments.
        timeout: Seconds for each that has none of its own; None: no limit.
    """
    started_at = time.time()
    reports = []
    for command in commands:
        start = time.perf_counter()
        error = None
        try:
            task = celery_app.tasks[command.operation]
            with _limited(command.timeout or timeout):
                coroutines.run(task, task(*command.args, **command.kwargs))
        except Exception:  # noqa: BLE001  any error goes into the report
            error = traceback.format_exc()
        reports.append(CommandReport(command.operation, time.perf_counter() - start, error))
        if error:
            break
    return WorkerReport(os.getpid(), started_at, time.time(), tuple(reports))


def summary(reports: Iterable[WorkerReport]) -> dict[str, Any]:
    """Merge the reports of workers.

    Returns:
        ``workers``, ``succeeded``; ``success_rate`` (ratio 0–1, None without
        workers); ``seconds`` from the first start to the last end;
        ``commands``: for each operation ``average_seconds``,
        ``maximum_seconds`` and ``failures``; ``timeline``: for each worker
        ``pid``, ``started_at``, ``finished_at`` (epoch seconds) and ``error``
        (a traceback or None).
    """
    reports = sorted(reports, key=lambda report: report.started_at)
    succeeded = sum(report.error is None for report in reports)
    durations: dict[str, list[float]] = defaultdict(list)
    failures: dict[str, int] = defaultdict(int)
    for report in reports:
        for command in report.commands:
            durations[command.operation].append(command.seconds)
            failures[command.operation] += command.error is not None
    return {
        "workers": len(reports),
        "succeeded": succeeded,
        "success_rate": succeeded / len(reports) if reports else None,
        "seconds": (
            max(r.finished_at for r in reports) - reports[0].started_at if reports else 0.0
        ),
        "commands": {
            operation: {
                "average_seconds": sum(its) / len(its),
                "maximum_seconds": max(its),
                "failures": failures[operation],
            }
            for operation, its in durations.items()
        },
        "timeline": [
            {
                "pid": report.pid,
                "started_at": report.started_at,
                "finished_at": report.finished_at,
                "error": report.error,
            }
            for report in reports
        ],
    }
