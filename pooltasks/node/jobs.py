"""Jobs: operations in the process pool of a node, and the lanes they take to its workers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.pool import ApplyResult, job_counter
from celery.worker.state import revoked

from pooltasks.node.turn import Turn

if TYPE_CHECKING:
    from pooltasks.node.dispatch import DispatchPool


class Blame(Enum):
    """What the death of its worker says about an operation that was running there."""

    CERTAIN = "certain"
    """It was alone."""
    SUSPECT = "suspect"
    """Others were running too; any of them may be the reason."""
    INNOCENT = "innocent"
    """The worker was ended because of another."""


class Callbacks(NamedTuple):
    """What billiard's pool calls when an operation begins, ends or is timed out."""

    success: Any
    error: Any
    accept: Any
    timeout: Any


class Job(ApplyResult):
    """An operation in the process pool; billiard's, without locks: one thread uses it.

    Args:
        pool: The pool, whose cache it is in until it has ended.
        call: Function, arguments and keyword arguments.
        limits: Soft and hard time limit in seconds.
        correlation_id: The operation's id.
        callbacks: Billiard's four.
        propagate: Errors that a callback may raise.
    """

    number = 0
    """Its place in what was written to its worker."""
    estimate = 0.0
    """Seconds that it is expected to take."""
    blame = Blame.CERTAIN
    ended_its_worker = False
    """Whether its worker is ended because of it."""

    def __init__(
        self,
        pool: DispatchPool,
        call: tuple[Any, Any, Any],
        *,
        limits: tuple[float | None, float | None],
        correlation_id: str | None,
        callbacks: Callbacks,
        propagate: Any,
    ) -> None:
        self.key = self._job = next(job_counter)
        self.call = call
        self.name: str = call[1][0]
        self.correlation_id = correlation_id
        self._soft_timeout, self._timeout = limits
        self._callback = callbacks.success
        self._error_callback = callbacks.error
        self._accept_callback = callbacks.accept
        self._timeout_callback = callbacks.timeout
        self._callbacks_propagate = propagate
        self._on_timeout_set = pool.on_timeout_set
        self._on_timeout_cancel = pool.on_timeout_cancel
        self._is_ready = False
        self._accepted = False
        self._worker_pid: int | None = None
        self._time_accepted: float | None = None
        self._terminated: int | None = None
        self._lost_worker_timeout = 0.0
        self._cache = pool.jobs
        self._cache[self.key] = self

    def ready(self) -> bool:
        """Return whether it has ended."""
        return self._is_ready

    def is_wanted(self) -> bool:
        """Return whether somebody still waits for its end."""
        return self.key in self._cache

    def is_suspect(self) -> bool:
        """Return whether it was running when a worker with several died."""
        return bool(self.call[1][2].get("suspect"))

    def lose(self) -> None:
        """Note what the death of its worker, with all that was running there, says about it."""
        others = [job for job in self._write_to.lane.jobs.values() if job is not self]
        if any(job.ended_its_worker or job.is_terminated() for job in others):
            self.blame = Blame.INNOCENT
        elif any(job.accepted() for job in others):
            self.blame = Blame.SUSPECT

    def write_to(self, process: Any) -> None:
        """Note the worker that it is written to; None if it goes to another."""
        self._write_to = self._scheduled_for = process

    def accept(self, pid: int, at: float) -> None:
        """Note, once, that worker ``pid`` began it ``at`` (monotonic seconds)."""
        self._ack(None, at, pid, None)

    def _ack(self, _i: Any, at: float, pid: int, _fd: Any) -> None:
        if self._accepted:
            return
        self._accepted = True
        self._time_accepted = at
        self._worker_pid = pid
        if self._soft_timeout or self._timeout:
            self._on_timeout_set(self, self._soft_timeout, self._timeout)
        self.safe_apply_callback(self._accept_callback, pid, at)

    def end(self, outcome: tuple[bool, Any]) -> None:
        """Take whether it returned, and the value or the error."""
        self._set(None, outcome)

    def _set(self, _i: Any, outcome: tuple[bool, Any]) -> None:
        if self._is_ready:
            return
        if self._accepted:
            self._on_timeout_cancel(self)
        self._success, self._value = outcome
        self._is_ready = True
        self._cache.pop(self.key, None)
        callback = self._callback if self._success else self._error_callback
        self.safe_apply_callback(callback, self._value)

    def end_revoked(self) -> None:
        """End it without a run, if it was revoked; it is accepted, so that Celery takes note."""
        self.accept(os.getpid(), time.monotonic())
        self._set_terminated(self._terminated)

    def end_terminated(self, exitcode: int) -> None:
        """End it as revoked, with the end of its worker."""
        self._set_terminated(exitcode)

    def is_revoked(self) -> bool:
        """Return whether it is not to be run any more."""
        return self.is_terminated() or self.correlation_id in revoked

    def is_terminated(self) -> bool:
        """Return whether somebody wants its worker to be ended."""
        return self._terminated is not None


LONG = 0.01
"""Seconds after which an operation is not short, and what waits behind it is taken back."""


@dataclass
class Lane:
    """What was written to one worker and is not done, oldest first."""

    turn: Turn = field(default_factory=Turn)
    jobs: dict[int, Job] = field(default_factory=dict)
    written: int = 0
    written_at: float = 0.0
    """When the last was written, in monotonic seconds."""
    done: int = 0
    load: float = 0.0
    """Estimated seconds of it."""
    used: int = 0
    """The place of its last operation among all of the node."""
    unsent: memoryview | None = None
    replies: bytearray = field(default_factory=bytearray)

    def add(self, job: Job) -> None:
        """Put ``job`` behind the others."""
        self.written += 1
        self.written_at = time.monotonic()
        job.number = self.written
        self.jobs[job.number] = job
        self.load += job.estimate

    def is_stuck(self) -> bool:
        """Return whether the worker has taken up nothing since something was taken back from it."""
        return self.turn.recalled() > self.turn.last()

    def is_long(self, number: int, now: float) -> bool:
        """Return whether the operation of that number is still running, and takes long."""
        since = self.turn.running().get(number)
        return since is not None and now - since >= LONG

    def take(self, number: int) -> Job | None:
        """Remove and return the operation of that number."""
        job = self.jobs.pop(number, None)
        if job is not None:
            self.load = self.load - job.estimate if self.jobs else 0.0
        return job
