"""Timeouts: when a time limit of an operation passes, and what happens then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from billiard.pool import TimeoutHandler

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.node.workforce.jobs import Job


class TimeLimits(TimeoutHandler):
    """Billiard's; it marks the processes that it kills."""

    def on_soft_timeout(self, job: Any) -> None:
        """Interrupt the operation, if it is still the one that its worker runs."""
        process, _ = self._process_by_pid(job._worker_pid)  # noqa: SLF001  billiard's name
        if process:
            process.lane.turn.interrupt(job.number)
        super().on_soft_timeout(job)

    def on_hard_timeout(self, job: Any) -> None:
        """End the operation and its worker, with all that runs there."""
        process, _ = self._process_by_pid(job._worker_pid)  # noqa: SLF001  billiard's name
        if process and not job.ready():
            job.ended_its_worker = True
            # Before it is killed: it may end the operation meanwhile.
            process.timed_out.add(process.lane.turn.slot_of(job.number))
            process.lane.is_closing = True  # else a free slot would tell of it, and die
        super().on_hard_timeout(job)


class Deadlines:
    """The deadlines of the operations that run, with one timer for all of them.

    Celery has a timer for each operation. One that is canceled stays in the loop's queue until
    its time: with a limit of a minute and 600 operations a second that is 20 MB.

    Args:
        on_soft: Called with an operation whose soft limit has passed.
        on_hard: The same for its hard limit.
        now: Returns monotonic seconds.
    """

    def __init__(
        self,
        on_soft: Callable[[Job], None],
        on_hard: Callable[[Job], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_soft, self._on_hard, self._now = on_soft, on_hard, now
        self._soft: dict[Job, float] = {}
        self._hard: dict[Job, float] = {}
        self._hub: Any = None
        self._timer: Any = None
        self._looks_at = float("inf")

    def start(self, hub: Any) -> None:
        """Attach to an event loop; what runs goes on."""
        self._hub = hub
        self._looks_at = float("inf")
        self._arm()

    def set(self, job: Job, soft: float | None, hard: float | None) -> None:
        """Have the limits of an operation count from now on.

        Args:
            job: The operation.
            soft: Seconds; None or 0: it has none.
            hard: The same.
        """
        now = self._now()
        for deadlines, seconds in ((self._soft, soft), (self._hard, hard)):
            if seconds:
                deadlines[job] = now + seconds
                if now + seconds < self._looks_at:
                    self._look_at(now + seconds)

    def cancel(self, job: Job) -> None:
        """Have them count no more: it has ended."""
        self._soft.pop(job, None)
        self._hard.pop(job, None)

    def _arm(self) -> None:
        at = min((*self._soft.values(), *self._hard.values()), default=None)
        if at is not None:
            self._look_at(at)

    def _look_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = at
        self._timer = self._hub.call_later(max(0.0, at - self._now()), self._look)

    def _look(self) -> None:
        now = self._now()
        self._timer, self._looks_at = None, float("inf")
        try:
            for deadlines, passed in ((self._soft, self._on_soft), (self._hard, self._on_hard)):
                for job in [its for its, at in deadlines.items() if at <= now]:
                    # One may end another: their worker is killed.
                    if deadlines.pop(job, None) is not None:
                        passed(job)
        finally:
            self._arm()
