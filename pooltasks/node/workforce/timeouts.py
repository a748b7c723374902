"""Timeouts: what billiard does when a time limit of an operation has passed."""

from __future__ import annotations

from typing import Any

from billiard.pool import TimeoutHandler


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
