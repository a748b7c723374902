"""Upkeep: a node looks after its workers, and replaces those that are ill, old or worn."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from pooltasks import telemetry
from pooltasks.node.kernel_files import read
from pooltasks.node.workforce.health import Check, Problem, Vitals, check

if TYPE_CHECKING:
    from pooltasks.node.workforce.process_pool import ProcessPool
    from pooltasks.pool_settings import PoolSettings

logger = get_logger(__name__)

_LOOK = 1.0
"""Seconds between two looks for a worker that is due to be replaced."""
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = resource.getpagesize()
_MB = 1024 * 1024


class Upkeep:
    """Checks and recycles the workers of one node, from its event loop.

    A worker that hangs is killed. A worker with another problem goes on until another
    is warm in its place and it has no operation; they are replaced one at a time.

    Args:
        pool: The workers.
        name: Of the pool.
        settings: Of the pool.
    """

    def __init__(self, pool: ProcessPool, name: str, settings: PoolSettings) -> None:
        self._pool = pool
        self._name = name
        self._settings = settings
        self._checks: dict[int, Check] = {}
        self._timers: list[Any] = []

    def start(self, hub: Any) -> None:
        """Look after the workers from now on; called again when the loop starts anew."""
        for timer in self._timers:
            timer.cancel()
        self._timers = [
            hub.call_repeatedly(self._settings.health_check_interval, self.check_all),
            hub.call_repeatedly(_LOOK, self.recycle),
        ]

    def check_all(self) -> None:
        """Check every warm worker; kill those that hang."""
        settings = self._settings
        limit = settings.memory_limit_mb
        before, self._checks = self._checks, {}
        now = time.monotonic()
        for process in self._pool.sizing.workers():
            pid = process.pid
            vitals = self._vitals(process, now)
            if vitals is None:  # it has just ended
                continue
            one = self._checks[pid] = check(
                before.get(pid),
                vitals,
                now,
                interval=settings.health_check_interval,
                memory_limit=None if limit is None else limit * _MB,
            )
            telemetry.execute(
                "worker.health_check",
                {"failures": one.failures, "memory": vitals.memory, "cpu": vitals.cpu},
                {
                    "pool": self._name,
                    "worker": pid,
                    "healthy": not one.problems,
                    "problems": tuple(one.problems),
                },
            )
            if one.problems:
                logger.warning(
                    "pool %s: worker %s: %s (%d of %d checks in a row)",
                    self._name,
                    pid,
                    ", ".join(one.problems),
                    one.failures,
                    settings.max_health_failures,
                )
            if one.hangs(settings.max_health_failures):
                logger.error("pool %s: worker %s hangs and is killed", self._name, pid)
                self._pool.kill_unhealthy(process)

    def _vitals(self, process: Any, now: float) -> Vitals | None:
        try:
            cpu, memory = _cpu_and_memory(process.pid)
        except OSError:
            return None
        jobs, turn, lent = process.lane.jobs, process.lane.turn, process.lane.lent
        running = {number: since for number, since in turn.running().items() if number in jobs}
        overdue = max(
            (
                now - since - limit
                for number, since in running.items()
                if (limit := jobs[number]._timeout)  # noqa: SLF001  billiard's name
            ),
            default=None,
        )
        unaccepted = None
        if len(running) < self._settings.slots and process.pid not in self._pool.warm_ups.warming:
            unaccepted = min((number for number in jobs if number not in running), default=None)
            if lent is not None and lent.is_given_up:
                unaccepted = lent.heard + 1
        return Vitals(process.pulse.beats, cpu, memory, unaccepted, overdue)

    def recycle(self) -> None:
        """Have a worker replaced that is due, unless another one still is."""
        self._pool.deaths.crashes.forget()
        if self._pool.sizing.outgoing:
            return
        for process in self._pool.sizing.workers():
            reason = self._due(process)
            if reason is not None:
                logger.info("pool %s: worker %s is replaced: %s", self._name, process.pid, reason)
                self._pool.sizing.replace(process.pid)
                return

    def _due(self, process: Any) -> str | None:
        """Return why a worker is due to be replaced; None if it is not."""
        settings = self._settings
        age = time.monotonic() - process.forked_at
        operations = process.lane.done
        last = self._checks.get(process.pid)
        if settings.recycle_age is not None and age >= settings.recycle_age:
            return f"it is {age:.0f} s old"
        if settings.recycle_operations is not None and operations >= settings.recycle_operations:
            return f"it has run {operations} operations"
        if last and last.problems.get(Problem.MEMORY, 0) >= settings.max_health_failures:
            return f"it uses {last.vitals.memory / _MB:.0f} MB"
        return None

    def report(self, process: Any) -> dict[str, Any]:
        """Return the figures of a worker.

        Returns:
            ``age`` in seconds, ``operations`` run, ``cpu`` seconds used and
            ``memory`` in bytes (None of one that has just ended), and the last
            check as ``health`` (None before the first): ``age`` of the check in seconds,
            ``memory`` in bytes, ``problems`` with the number of checks in a row
            that found each, ``failures`` the largest of these.
        """
        now = time.monotonic()
        last = self._checks.get(process.pid)
        cpu, memory = None, None
        with suppress(OSError):  # it has just ended
            cpu, memory = _cpu_and_memory(process.pid)
        return {
            "cpu": cpu,
            "memory": memory,
            "age": now - process.forked_at,
            "operations": process.lane.done,
            "health": last
            and {
                "age": now - last.at,
                "memory": last.vitals.memory,
                "problems": dict(last.problems),
                "failures": last.failures,
            },
        }


def _cpu_and_memory(pid: int) -> tuple[float, int]:
    """Return the processor seconds that a process has used and its resident bytes.

    Raises:
        OSError: There is no such process.
    """
    # The name, in parentheses, may contain anything; proc(5) numbers the state 3.
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(fields[14 - 3]) + int(fields[15 - 3])) * _TICK, int(fields[24 - 3]) * _PAGE
