"""Deaths: what a node makes of workers that have ended, and of those that stand in for them."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.common import human_status
from billiard.pool import EX_OK, EX_RECYCLE
from celery.exceptions import TimeLimitExceeded, WorkerLostError

from pooltasks import telemetry
from pooltasks.errors import Category
from pooltasks.node.worker.descendants import end_descendants
from pooltasks.node.workforce.crashes import Cause, Crashes

if TYPE_CHECKING:
    from collections.abc import Collection

    from pooltasks.node.scoreboard.scoreboard import Scoreboard


@dataclass(frozen=True)
class End:
    """The end of a worker."""

    pid: int
    index: int
    """Its place in the node, from 0."""
    exitcode: int | None
    """As billiard gives it; negative: a signal."""
    forked_at: float
    """The time of its fork, in monotonic seconds."""
    timed_out: Collection[int | None] = ()
    """The slots because of which it was killed: their operations ignored their time limits."""
    was_asked: bool = False
    """Whether its node had asked it to end."""
    is_unhealthy: bool = False
    """Whether its node killed it because it hung."""
    shutdown: bool = False
    """Whether its node ended."""

    @classmethod
    def of(cls, process: Any, *, shutdown: bool) -> End:
        """Return the end of a process of billiard's."""
        return cls(
            process.pid,
            process.index,
            process.exitcode,
            process.forked_at,
            process.timed_out,
            was_asked=getattr(process, "_controlled_termination", False),
            is_unhealthy=process.is_unhealthy,
            shutdown=shutdown,
        )

    @property
    def is_expected(self) -> bool:
        """Whether it was to end."""
        is_regular = self.exitcode in (EX_OK, EX_RECYCLE)
        return self.shutdown or bool(self.timed_out) or is_regular or self.was_asked


class _Death(NamedTuple):
    at: float
    exitcode: int | None
    cause: Cause


class Deaths:
    """Accounts for the workers of a node that have ended.

    Args:
        pool: The name of the pool.
        scoreboard: Where workers tell what they do.
        crashes: Tells causes of deaths.
    """

    def __init__(self, pool: str, scoreboard: Scoreboard, crashes: Crashes | None = None) -> None:
        self.crashes = crashes or Crashes()
        self._pool = pool
        self._scoreboard = scoreboard
        self._open: deque[_Death] = deque()
        """Deaths of workers for which no other serves yet, the oldest first."""

    def on_serving(self, pid: int, index: int) -> None:
        """Count a worker's time from now; say so if it stands in for one that died."""
        self._scoreboard.serves(index)
        if not self._open:
            return
        died_at, exitcode, cause = self._open.popleft()
        duration = time.monotonic() - died_at
        self._scoreboard.recovered(duration)
        telemetry.execute(
            "recovery",
            {"duration": duration},
            {"pool": self._pool, "worker": pid, "exitcode": exitcode, "cause": cause},
        )

    def on_resting(self, index: int) -> None:
        """Count a worker's time no more."""
        self._scoreboard.rests(index)

    def on_end(self, end: End, *, served: bool = False, lacking: int = 0) -> None:
        """Tell the scoreboard and the telemetry of a worker that is gone.

        Args:
            end: Its end.
            served: Whether it was given operations until then.
            lacking: How many workers are missing from those that are to serve.
        """
        now = time.monotonic()
        pid, exitcode = end.pid, end.exitcode
        end_descendants(pid)
        is_expected = end.is_expected
        cause = None if is_expected else self._cause(end)
        lost, failed = self._scoreboard.died(end.index, timed_out=end.timed_out)
        telemetry.execute(
            "worker.terminate",
            {"age": now - end.forked_at},
            {
                "pool": self._pool,
                "worker": pid,
                "exitcode": exitcode,
                "expected": is_expected,
                "cause": cause,
            },
        )
        for _ in range(failed):
            self._tell_of_error(Category.TIMEOUT, TimeLimitExceeded())
        for _ in range(lost):
            error = WorkerLostError(f"worker {pid} ended in an operation: {human_status(exitcode)}")
            self._tell_of_error(Category.COMMUNICATION, error)
        if served and cause is not None:
            self._open.append(_Death(now, exitcode, cause))
            self.forget(lacking)

    def _cause(self, end: End) -> Cause:
        return Cause.UNHEALTHY if end.is_unhealthy else self.crashes.cause(end.exitcode)

    def _tell_of_error(self, category: Category, exception: BaseException) -> None:
        telemetry.execute(
            "error",
            {"count": 1},
            {
                "pool": self._pool,
                "category": category,
                "operation": None,
                "exception": exception,
            },
        )

    def forget(self, lacking: int) -> None:
        """Forget the oldest deaths: nobody stands in where the others are enough.

        Args:
            lacking: How many workers are missing from those that are to serve.
        """
        while len(self._open) > lacking:
            self._open.popleft()
