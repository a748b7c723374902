"""A debugging node's replacement of worker processes: one worker that is no process.

A process pool can kill a worker, but nothing can kill a thread. An operation that ignores
its soft limit, or is revoked while it runs, has ended for its caller and goes on in its
slot. While a debugger has stopped in an operation, its limits wait.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from pooltasks import telemetry
from pooltasks.broker.results import StoredResult
from pooltasks.node.debugging.solo_worker import SoloWorker
from pooltasks.node.worker.child import WARMED, WARMING
from pooltasks.node.worker.error_reports import ERRED, ErrorReport
from pooltasks.node.worker.outcome import UNTOLD, Ending
from pooltasks.node.worker.warmup import WorkerReport
from pooltasks.node.workforce.batches import take_part
from pooltasks.node.workforce.jobs import Job
from pooltasks.node.workforce.replies import DONE, PART
from pooltasks.node.workforce.resizing import Staff
from pooltasks.node.workforce.rounds import tell_of_start
from pooltasks.node.workforce.warm_ups import WarmUps
from pooltasks.optimizer.overflow import Overflow

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.node.scoreboard.scoreboard import Scoreboard
    from pooltasks.node.worker.warmup import Plan
    from pooltasks.node.workforce.jobs import Call, Owner, TimeKeeper
    from pooltasks.pool_settings import WarmUp

logger = get_logger(__name__)

_LOOK = 0.05
"""Seconds between two looks at the limits of what runs."""


@dataclass
class Clock:
    """How long an operation has run: what counts against its limits.

    Args:
        soft: Seconds; None: no limit.
        hard: As ``soft``.
        looked_at: Monotonic seconds at which it began.
    """

    soft: float | None
    hard: float | None
    looked_at: float
    elapsed: float = field(default=0.0, init=False)
    is_interrupted: bool = field(default=False, init=False)

    def look(self, now: float, *, is_held: bool) -> None:
        """Count the time since the last look, unless a debugger has stopped.

        One that stops every thread of the process stops the looks too: the gap counts
        as two looks.
        """
        if not is_held:
            self.elapsed += min(now - self.looked_at, 2 * _LOOK)
        self.looked_at = now

    def is_soft_due(self) -> bool:
        """Return, once, that the soft limit has passed."""
        if self.is_interrupted or self.soft is None or self.elapsed < self.soft:
            return False
        self.is_interrupted = True
        return True

    def is_hard_due(self) -> bool:
        """Return whether the hard limit has passed."""
        return self.hard is not None and self.elapsed >= self.hard


class _NoTimer:
    """Keeps no time: each look asks the clock of what runs."""

    def set(self, job: Job, soft: float | None, hard: float | None) -> None:
        """Do nothing."""

    def cancel(self, job: Job) -> None:
        """Do nothing."""


class NoLoans:
    """The loans of a node whose operations run in its own process: there are none."""

    takes_begun = False

    def recall(self) -> None:
        """Do nothing."""

    def is_out(self) -> bool:
        """Return False."""
        return False


class OneWorker:
    """The pool of a debugging node, with one worker that is no process.

    Used by the node's event loop alone; what the worker says comes through a pipe.

    Args:
        *_: What Celery gives a pool of processes.
        initargs: The application and the node's name.
        plan: How the worker warms up.
        scoreboard: Where it tells what it does.
        stores: Whether it stores results itself.
        on_result: Takes the result that it made for the caller.
        on_error: Takes what the worker tells of errors of operations.
        **__: Further arguments of a pool of processes.
    """

    loans = NoLoans()
    size = 1
    spares = 0
    coming = 0
    room: int | None = None

    def __init__(
        self,
        *_: Any,
        initargs: tuple[Celery, str],
        plan: Plan,
        scoreboard: Scoreboard,
        stores: bool,
        on_result: Callable[[StoredResult], None],
        on_error: Callable[[ErrorReport], None],
        **__: Any,
    ) -> None:
        self.plan = plan
        self.slots = plan.settings.slots
        self.scoreboard = scoreboard
        self.overflow = Overflow(0)
        self.pid = os.getpid()
        self.jobs: dict[int, Job] = {}
        self.deadlines: TimeKeeper = _NoTimer()
        self.dispatch = self.sizing = self  # with one worker there is nothing to tell apart
        self.warm_ups = WarmUps(plan)
        self.done = 0
        self.began = time.monotonic()
        self._on_result = on_result
        self._failed_starts = 0
        self._is_warm = plan.settings.lazy
        self._is_open = True
        self._waiting: deque[Job] = deque()
        self._running: dict[int, tuple[Job, Clock]] = {}
        self._numbers = 0
        self._messages: SimpleQueue[tuple[int, tuple[Any, ...]]] = SimpleQueue()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._timer: Any = None
        self._handlers: dict[int, Callable[..., None]] = {
            WARMING: lambda _pid: None,
            WARMED: self._on_warmed,
            DONE: self._on_done,
            PART: partial(take_part, self, on_result),
            ERRED: lambda *plain: on_error(ErrorReport.of(*plain)),
        }
        rows = [scoreboard.row(0, slot) for slot in range(self.slots)]
        self._worker = SoloWorker(*initargs, plan, rows, stores=stores, tell=self._tell)
        if self._is_warm:
            scoreboard.serves(0)
        self._worker.start()

    def register_with_event_loop(self, hub: Any) -> None:
        """Attach to the loop; called again after each reconnection."""
        hub.add_reader(self._reader, self._read)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = hub.call_repeatedly(_LOOK, self._look)

    # Messages of the worker.

    def _tell(self, kind: int, arguments: tuple[Any, ...]) -> None:
        self._messages.put((kind, arguments))
        with suppress(BlockingIOError):  # the loop has not read the last ones: it is awake
            os.write(self._writer, b"!")

    def _read(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)
        with suppress(Empty):
            while True:
                kind, arguments = self._messages.get_nowait()
                self._handlers[kind](*arguments)

    def _on_warmed(self, *plain: Any) -> None:
        report = WorkerReport.of(*plain)
        self.warm_ups.on_warmed(report)
        if report.error:
            self._failed_starts += not self._is_warm
        elif not self._is_warm:
            self._is_warm = True
            self.scoreboard.serves(0)
            seconds = time.monotonic() - self.began
            logger.info("pool %s: warm after %.3f s", self.plan.pool, seconds)
            worker = {"pool": self.plan.pool, "worker": self.pid}
            telemetry.execute("worker.init", {"duration": seconds}, worker)
            tell_of_start(self.plan, seconds, 1, self._failed_starts)

    def _on_done(
        self,
        number: int,
        ending: tuple[Any, ...],
        stored: tuple[Any, ...] | None,
        _seconds: float,
        _is_completed: bool,
    ) -> None:
        job, _ = self._running.pop(number)
        if job.is_wanted() and job.is_terminated():
            job.end_terminated(0)
        elif job.is_wanted():
            self.done += 1
            ended = Ending(*ending)
            result = None if stored is None else StoredResult(*stored)
            if result is not None and not job.owner.buries(ended):
                self._on_result(result)
            job.end(ended, result)
        self._hand_over()

    # Calls of the node.

    def hand_out(self) -> None:
        """Do nothing: what is submitted is the worker's at once."""

    def submit(
        self,
        call: Call,
        owner: Owner,
        *,
        limits: tuple[float | None, float | None],
        correlation_id: str | None,
    ) -> Job | None:
        """Have the worker run ``call``; the arguments are those of a process pool's."""
        if not self._is_open:
            return None
        job = Job(self, call, owner, limits=limits, correlation_id=correlation_id)
        if job.is_failure():
            self._begin(job)
        else:
            self._waiting.append(job)
            self._hand_over()
        return job

    def _hand_over(self) -> None:
        while self._waiting and len(self._operations()) < self.slots:
            job = self._waiting.popleft()
            if not job.is_wanted():
                continue
            if job.is_revoked():
                job.end_revoked()
            else:
                self._begin(job)

    def _operations(self) -> list[Job]:
        """Return what the slots run, also what has ended for everybody else."""
        return [job for job, _ in self._running.values() if not job.is_failure()]

    def _begin(self, job: Job) -> None:
        self._numbers += 1
        job.number = self._numbers
        now = time.monotonic()
        soft, hard = job.limits
        self._running[job.number] = job, Clock(soft, hard, now)
        call = job.call
        if job.is_failure():
            self._worker.report(job.number, call.payload)
        else:
            job.accept(self.pid, now)
            self._worker.run(
                *(job.number, job.key, False, None),
                *(int(call.kind), call.wants_traceback, call.payload),
            )

    def _look(self) -> None:
        now = time.monotonic()
        for number, (job, clock) in list(self._running.items()):
            if not job.is_wanted():
                continue
            clock.look(now, is_held=self._worker.is_held(number))
            if clock.is_soft_due():
                self._worker.interrupt(number)
                job.handle_timeout(soft=True)
            if clock.is_hard_due():
                logger.error(
                    "%s goes on in its slot: a debugging node cannot end what it runs", job.name
                )
                job.expire()

    def terminate_job(self, _pid: int, _signal: int | None = None) -> None:
        """Say that what is revoked goes on; its caller is told that it was revoked."""
        logger.warning("a debugging node ends nothing that runs: what is revoked goes on")

    def warm_again(self, order: WarmUp) -> int:
        """Ask the worker to run ``order``; return the number of the round."""
        number = self.warm_ups.begin(order, self.warm)
        self._worker.warm_again()
        return number

    def is_running(self) -> bool:
        """Return whether operations are taken."""
        return self._is_open

    @property
    def warm(self) -> set[int]:
        """The process id of the node, once the worker is warm."""
        return {self.pid} if self._is_warm else set()

    serving = warm

    def staff(self) -> Staff:
        """Return what the worker does."""
        return Staff(
            serving=[*self.warm],
            cold=[] if self._is_warm else [self.pid],
            busy=self.warm if self._running else frozenset(),
        )

    def temporary(self) -> int:
        """Return 0: there is one worker."""
        return 0

    def depth(self) -> int:
        """Return how many operations a slot can have at a time."""
        return 1

    def maintain_pool(self) -> None:
        """Do nothing: a thread does not die."""

    def resize(self, size: int, spares: int | None = None) -> None:
        """Do nothing: there is one worker."""

    def refuse(self, *_: Any, **__: Any) -> None:
        """Refuse what Celery asks of pools of processes only."""
        raise NotImplementedError("a debugging node has one worker")

    apply_async = grow = shrink = refuse

    # How it ends.

    def recall(self) -> None:
        """Begin no operation any more that nobody has begun, unless it is this node's alone."""
        for job in self._waiting:
            if not job.call.is_acknowledged:
                job.discard()
        self._waiting = deque(job for job in self._waiting if job.is_wanted())

    flush = recall

    def is_decided(self) -> bool:
        """Return True: what was handed over has begun."""
        return True

    def close(self) -> None:
        """Take nothing more; a failure that nobody has told of yet is the node's."""
        self._is_open = False
        self._worker.end()
        for job, _ in list(self._running.values()):
            if job.is_failure():
                job.end(UNTOLD, None)

    def ended(self) -> None:
        """Account for the worker that was there to the end."""
        self.scoreboard.died(0)
