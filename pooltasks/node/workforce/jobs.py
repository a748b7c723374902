"""Jobs: operations in the process pool of a node, and the lanes they take to its workers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from billiard.exceptions import Terminated, TimeLimitExceeded
from billiard.pool import ApplyResult, job_counter
from celery.worker.state import revoked

from pooltasks.node.worker.outcome import error_of
from pooltasks.node.worker.turn import Turn
from pooltasks.node.workforce.durations import LONG

if TYPE_CHECKING:
    from pooltasks.broker.results import StoredResult
    from pooltasks.node.worker.outcome import Ending
    from pooltasks.node.worker.shortcut import Claim
    from pooltasks.node.workforce.lent import Lent


class Blame(Enum):
    """The blame of an operation for the death of the worker that was running it."""

    CERTAIN = "certain"
    """The operation was alone in its worker."""
    SUSPECT = "suspect"
    """Others were running too; any of them may be the reason."""
    INNOCENT = "innocent"
    """The worker was ended because of another."""


class Kind(IntEnum):
    """The kind of a call that a worker runs."""

    OPERATION = 0
    FAILURE = 1
    """A failure that the node found, of which somebody is to hear (``failures.py``)."""
    BATCH = 2
    """Calls of one operation, for which its function runs once (``batches.py``)."""


class Owner(Protocol):
    """Hears what becomes of a job; called in the node."""

    def buries(self, ending: Ending) -> bool:
        """Return whether it stores the result itself, together with a dead letter."""

    def on_accepted(self, pid: int, at: float) -> None:
        """Worker ``pid`` began it ``at`` (monotonic seconds)."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Note that its soft limit has passed, or its hard one, which ends it."""

    def on_ended(self, ending: Ending, stored: StoredResult | None) -> None:
        """It ended; ``stored`` is its result, if the node is to store it."""

    def on_lost(self, error: str, blame: Blame) -> None:
        """Note that its worker is gone."""

    def on_terminated(self, signal: str) -> None:
        """Note that it was revoked: its worker was ended for that, or it had not begun."""


class Call(NamedTuple):
    """A call that goes to a worker."""

    kind: Kind
    name: str
    """The name of the operation."""
    payload: bytes
    """Plain data, as ``marshal`` writes it."""
    reservation: str | None = None
    """The reservation of its message, by its id."""
    suspect: bool = False
    """Whether it was running when a worker with several died."""
    is_acknowledged: bool = False
    """Whether the message is acknowledged already: nobody else has the operation."""
    wants_traceback: bool = False
    """Whether the node wants to know the traceback of an error."""


class TimeKeeper(Protocol):
    """Has the time limits of jobs count; ``timeouts.Deadlines`` is one."""

    def set(self, job: Job, soft: float | None, hard: float | None) -> None:
        """Have the limits of a job that was accepted count."""

    def cancel(self, job: Job) -> None:
        """Have them count no more: it has ended."""


class JobPool(Protocol):
    """A pool that holds jobs until they have ended."""

    jobs: dict[int, Job]
    deadlines: TimeKeeper


class Job(ApplyResult):
    """An operation in the process pool; billiard's, without locks: one thread uses it.

    Args:
        pool: The pool, whose cache it is in until it has ended.
        call: The call that a worker is to run.
        owner: Hears what becomes of it.
        limits: Soft and hard time limit in seconds.
        correlation_id: The operation's id.
    """

    number = 0
    """The place of the job in what was written to its worker."""
    estimate = 0.0
    """Seconds that it takes at the most, as it seems."""
    least = 0.0
    """Seconds that it takes at the least."""
    blame = Blame.CERTAIN
    ended_its_worker = False
    """Whether its worker is ended because of it."""

    def __init__(
        self,
        pool: JobPool,
        call: Call,
        owner: Owner,
        *,
        limits: tuple[float | None, float | None],
        correlation_id: str | None,
    ) -> None:
        self.key = self._job = next(job_counter)
        self.call = call
        self.owner = owner
        self.name = call.name
        self.correlation_id = correlation_id
        self._soft_timeout, self._timeout = limits
        self._callbacks_propagate = ()
        self._deadlines = pool.deadlines
        self._is_ready = False
        self._accepted = False
        self._worker_pid: int | None = None
        self._time_accepted: float | None = None
        self._terminated: int | None = None
        self._lost_worker_timeout = 0.0
        self._cache = pool.jobs
        self._cache[self.key] = self

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Soft and hard time limit in seconds."""
        return self._soft_timeout, self._timeout

    def ready(self) -> bool:
        """Return whether it has ended."""
        return self._is_ready

    def is_wanted(self) -> bool:
        """Return whether somebody still waits for its end."""
        return self.key in self._cache

    def is_suspect(self) -> bool:
        """Return whether it was running when a worker with several died."""
        return self.call.suspect

    def is_failure(self) -> bool:
        """Return whether it tells of a failure."""
        return self.call.kind is Kind.FAILURE

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

    def written(self, accepts_first: bool, claim: Claim | None) -> tuple[Any, ...]:
        """Return it as it is written to its worker, in plain data.

        Args:
            accepts_first: Whether the worker says that it begins it.
            claim: The reservation that the worker may complete.
        """
        call = self.call
        its = (self.number, self.key, accepts_first, claim and tuple(claim))
        return (*its, int(call.kind), call.wants_traceback, call.payload)

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
            self._deadlines.set(self, self._soft_timeout, self._timeout)
        self.safe_apply_callback(self.owner.on_accepted, pid, at)

    def end(self, ending: Ending, stored: StoredResult | None) -> None:
        """Take how it ended, as its worker says."""
        if self._leave():
            self.safe_apply_callback(self.owner.on_ended, ending, stored)

    def expire(self) -> None:
        """End it because its hard limit has passed; what runs it may go on."""
        if self._leave():
            self.handle_timeout(soft=False)

    def handle_timeout(self, soft: bool = False) -> None:
        """Tell of a limit that has passed; billiard calls this."""
        limit = self._soft_timeout if soft else self._timeout
        self.safe_apply_callback(self.owner.on_timeout, soft, limit)

    def _set(self, _i: Any, outcome: tuple[bool, Any]) -> None:
        """Take how it ended, as billiard says in the node: nothing here comes from a worker."""
        if not self._leave():
            return
        error = error_of(outcome[1])
        if isinstance(error, Terminated):
            self.safe_apply_callback(self.owner.on_terminated, str(error))
        elif not isinstance(error, TimeLimitExceeded):  # of that handle_timeout tells
            self.safe_apply_callback(self.owner.on_lost, str(error), self.blame)

    def _leave(self) -> bool:
        """Take it for ended; return False if it had ended before."""
        if self._is_ready:
            return False
        if self._accepted:
            self._deadlines.cancel(self)
        self._is_ready = True
        self._cache.pop(self.key, None)
        return True

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


@dataclass
class Begun:
    """An operation that a worker has begun by itself, until its node has a job of it."""

    worker: Worker
    number: int
    """Its number in the worker's turn."""
    since: float
    """When it began, in monotonic seconds."""
    reservation: str
    job: Job | None = None

    def is_of(self, call: Call) -> bool:
        """Return whether a call is this operation's."""
        return call.kind is Kind.OPERATION and call.reservation == self.reservation

    def take(self, job: Job) -> None:
        """Take its job."""
        self.job = job
        job.number = self.number
        self.worker.lane.jobs[self.number] = job
        job.write_to(self.worker)
        job.accept(self.worker.pid, self.since)


@dataclass
class Lane:
    """The jobs that were written to one worker and are not done, oldest first."""

    turn: Turn = field(default_factory=Turn)
    jobs: dict[int, Job] = field(default_factory=dict)
    written: int = 0
    written_at: float = 0.0
    """When the last was written, in monotonic seconds."""
    done: int = 0
    load: float = 0.0
    """Seconds that all of it takes at the most, as it seems."""
    least: float = 0.0
    """Seconds that all of it takes at the least."""
    used: int = 0
    """The place of its last operation among all of the node."""
    is_closing: bool = False
    """Whether the worker is about to be killed, with what it begins from now on."""
    lent: Lent | None = None
    """The wait that the node has lent to the worker."""
    unsent: memoryview | None = None
    replies: bytearray = field(default_factory=bytearray)

    def add(self, job: Job) -> None:
        """Put ``job`` behind the others."""
        self.written += 1
        self.written_at = time.monotonic()
        job.number = self.written
        self.jobs[job.number] = job
        self.load += job.estimate
        self.least += job.least

    def send(self, fd: int) -> None:
        """Write what is not sent yet to the worker's pipe.

        Raises:
            OSError: It could not be written to its end.
        """
        while self.unsent:
            self.unsent = self.unsent[os.write(fd, self.unsent) :]

    def is_running(self) -> bool:
        """Return whether the worker has an operation."""
        turn = self.turn
        return bool(self.jobs) or any(turn.slot_of(each) is not None for each in turn.running())

    def is_full(self, slots: int) -> bool:
        """Return whether the worker has as many operations as slots."""
        return len(self.jobs) >= slots or (self.lent is not None and self.is_running())

    def is_busy(self) -> bool:
        """Return whether the worker has an operation, or may get one by itself."""
        return bool(self.jobs) or self.lent is not None

    def is_stuck(self) -> bool:
        """Return whether to write nothing to the worker.

        It is about to be killed, or has taken up nothing since something was taken back from it.
        """
        return self.is_closing or self.turn.recalled() > self.turn.last()

    def is_long(self, number: int, now: float) -> bool:
        """Return whether the operation of that number is still running, and takes long."""
        since = self.turn.running().get(number)
        return since is not None and now - since >= LONG

    def is_held_up(self, now: float) -> bool:
        """Return whether a worker with one slot takes longer than its short operations should."""
        return bool(self.jobs) and (self.is_stuck() or self.is_long(self.turn.last(), now))

    def take(self, number: int) -> Job | None:
        """Remove and return the operation of that number."""
        job = self.jobs.pop(number, None)
        if job is not None:
            self.load = self.load - job.estimate if self.jobs else 0.0
            self.least = self.least - job.least if self.jobs else 0.0
        return job


class Worker(Protocol):
    """A worker process, as the parts of the pool see it."""

    pid: int
    index: int
    """Its place in the node, from 0."""
    inqW_fd: int  # noqa: N815  billiard's name
    """The writing end of the pipe to it."""
    lane: Lane
