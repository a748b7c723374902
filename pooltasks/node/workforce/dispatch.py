"""Dispatch: operations on their way from a node to its workers and back.

A worker gets several short operations in one write, so that it never waits for its
node between two; how many follows from how long operations of that name took lately.
It says in shared memory which one it has begun (:mod:`pooltasks.node.worker.turn`), and sends
one message when it is done. When one takes longer than expected, the operations that
wait behind it are taken back and go to other workers.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pooltasks.broker.results import StoredResult
from pooltasks.node.worker.outcome import UNTOLD, Ending
from pooltasks.node.workforce.durations import Durations
from pooltasks.node.workforce.frames import JOBS, frame
from pooltasks.node.workforce.jobs import Blame, Job
from pooltasks.node.workforce.sharing import AHEAD, MOST, TOGETHER, fits, least_loaded, share_out

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, MutableMapping

    from pooltasks.node.worker.shortcut import Claims
    from pooltasks.node.workforce.jobs import Begun, Call, Lane, Owner, TimeKeeper, Worker

_STUCK = 0.1
"""Seconds after which a worker with several slots should have begun what was written to it."""


class Dispatch:
    """The operations that wait in a node, and those that its workers have.

    Args:
        workers: All workers, at any time.
        open_to: Those of them that are given operations, at any time.
        jobs: Gets the jobs that have not ended, by their keys.
        writes: Gets how many operations were written to the worker of each place.
        strategy: Which idle worker is next: ``lifo`` the one used last, whose
            caches are warm, ``fifo`` the one that has rested longest.
        slots: How many operations a worker runs at once.
        accepts_first: Returns whether the task of this name is acknowledged
            before it runs.
        claims: Says which operations a worker may complete itself.
        on_written: Called when operations were written to workers.
        on_result: Takes the result that a worker made for the caller.
        on_end: Takes a worker that is done with an operation.
        deadlines: Has the time limits of operations count.
    """

    def __init__(
        self,
        workers: Collection[Worker],
        open_to: Collection[Worker],
        jobs: dict[int, Job],
        writes: MutableMapping[int, int],
        *,
        strategy: str,
        slots: int,
        accepts_first: Callable[[str], bool],
        claims: Claims,
        on_written: Callable[[], None],
        on_result: Callable[[StoredResult], None],
        on_end: Callable[[Worker], None],
        deadlines: TimeKeeper,
    ) -> None:
        self.jobs = jobs
        self.deadlines = deadlines
        self.waiting: deque[Job] = deque()
        """Jobs that no worker has, those that go first at the left."""
        self._workers, self._open_to, self._writes = workers, open_to, writes
        self._strategy, self._slots = strategy, slots
        self._accepts_first, self._claims = accepts_first, claims
        self._on_written, self._on_result, self._on_end = on_written, on_result, on_end
        self._is_open = True
        self.ahead = AHEAD
        """Seconds of work that a worker with one slot may have waiting."""
        self._hub: Any = None
        self._uses = 0
        self.begun: Begun | None = None
        """The operation, begun by a worker, of which the next job is."""
        self.durations = Durations()

    def start(self, hub: Any) -> None:
        """Attach to an event loop, and go on with what is written by half."""
        self._hub = hub
        for worker in self._workers:
            if worker.lane.unsent is not None:
                hub.add_writer(worker.inqW_fd, self.write, worker)

    def depth(self) -> int:
        """Return how many operations a slot may have at a time, if they stay as short as now."""
        if self._slots > 1:
            return 1
        return max(1, min(MOST, int(2 * self.ahead / max(self.durations.longest, 1e-9))))

    def submit(
        self,
        call: Call,
        owner: Owner,
        *,
        limits: tuple[float | None, float | None],
        correlation_id: str | None,
    ) -> Job | None:
        """Have a worker run ``call``.

        Args:
            call: The operation to run.
            owner: Hears how it ends.
            limits: Soft and hard time limit in seconds.
            correlation_id: The operation's id.

        Returns:
            None if the pool takes nothing more.
        """
        if not self._is_open:
            return None
        job = Job(self, call, owner, limits=limits, correlation_id=correlation_id)
        if self.begun is not None and self.begun.is_of(call):
            self.begun.take(job)
            return job
        if job.is_failure():
            self.waiting.appendleft(job)  # somebody has waited for it already
        else:
            self.waiting.append(job)
        # Very short ones wait for the loop's next turn: several go to a worker with one write.
        if self.durations.of(job.name)[1] > TOGETHER and len(self.waiting) == 1 and self._rests():
            self.hand_out()
        return job

    def _rests(self) -> bool:
        """Return whether a slot has nothing to do; it need not wait for the loop's next turn."""
        its = (worker.lane for worker in self._open_to)
        return any(len(lane.jobs) < self._slots and lane.lent is None for lane in its)

    def hand_out(self) -> None:
        """Write waiting operations to workers that have room; called at each turn of the loop."""
        waiting = self.waiting
        if not waiting:
            return
        its = self._open_to
        open_to = [each for each in its if each.lane.unsent is None and each.lane.lent is None]
        if self._slots > 1:
            self._fill(worker for worker in open_to if not worker.lane.is_stuck())
            return
        now = time.monotonic()
        open_to = [worker for worker in open_to if not worker.lane.is_held_up(now)]
        free = self._in_order(open_to)
        # The others have enough for now: few long writes cost less than many short ones.
        hungry = [worker for worker in open_to if worker.lane.load <= self.ahead / 2]
        batches: dict[int, tuple[Worker, list[Job]]] = {}
        while waiting:
            job = waiting[0]
            job.estimate, job.least = self.durations.of(job.name)
            while free and not fits(free[-1], job.least):
                free.pop()
            worker = free[-1] if free else least_loaded(hungry, job.estimate, self.ahead)
            if worker is None:
                break
            waiting.popleft()
            worker.lane.add(job)
            job.write_to(worker)
            batches.setdefault(worker.pid, (worker, []))[1].append(job)
        self._send(batches.values())

    def _in_order(self, open_to: Iterable[Worker]) -> list[Worker]:
        """Return the workers that take an operation at once, those that go first at the end.

        First those that run very short ones, the fullest of them first, so that fewer are
        woken; then the idle ones.
        """
        sign = -1 if self._strategy == "fifo" else 1
        return sorted(
            (worker for worker in open_to if worker.lane.least < TOGETHER),
            key=lambda worker: (worker.lane.least, sign * worker.lane.used),
        )

    def _fill(self, open_to: Iterable[Worker]) -> None:
        """Write waiting operations to the free slots."""
        batches: dict[int, tuple[Worker, list[Job]]] = {}
        fifo = self._strategy == "fifo"
        for worker, job in share_out(self.waiting, open_to, self._slots, fifo=fifo):
            worker.lane.add(job)
            job.write_to(worker)
            batches.setdefault(worker.pid, (worker, []))[1].append(job)
        self._send(batches.values())

    def _send(self, batches: Iterable[tuple[Worker, list[Job]]]) -> None:
        for worker, jobs in batches:
            self._uses += 1
            worker.lane.used = self._uses
            self._writes[worker.index] += len(jobs)
            is_alone = self._slots == len(worker.lane.jobs) == 1 and not self.waiting
            worker.lane.unsent = frame(JOBS, [self._written(job, is_alone) for job in jobs])
            self.write(worker)
        self._on_written()

    def _written(self, job: Job, is_alone: bool) -> tuple[Any, ...]:
        accepts_first = not job.is_failure() and self._accepts_first(job.name)
        claim = self._claims.of(job) if is_alone and not accepts_first else None
        return job.written(accepts_first, claim)

    def write(self, worker: Worker) -> None:
        """Write what is not sent yet to a worker's pipe, now or when there is room."""
        lane, fd = worker.lane, worker.inqW_fd
        try:
            lane.send(fd)
        except BlockingIOError:
            self._hub.add_writer(fd, self.write, worker)
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EBADF):  # its death ends the operation
                raise
        lane.unsent = None
        if fd in self._hub.writers:  # removing what is not there costs a failed call to the kernel
            self._hub.remove_writer(fd)

    def on_done(  # noqa: PLR0917  what a worker sends
        self,
        worker: Worker,
        number: int,
        ending: tuple[Any, ...],
        stored: tuple[Any, ...] | None,
        seconds: float,
        is_completed: bool,
    ) -> None:
        """Take a worker's report of an operation that is done.

        Args:
            worker: The worker.
            number: The operation's place among those that were written to the worker.
            ending: How it ended.
            stored: The result that its caller gets.
            seconds: How long it kept the worker busy.
            is_completed: Whether the worker has stored and acknowledged it.
        """
        lent = worker.lane.lent
        if lent is None:
            worker.lane.done += 1
        else:
            lent.ended = number
        job = worker.lane.take(number)
        if job is None or not job.is_wanted():
            return  # it was given up: ended by its time limit, or reserved anew
        # How long it takes to tell of a failure says nothing about the operation.
        self.durations.note("" if job.is_failure() else job.name, seconds)
        ended = Ending(*ending)
        result = None if stored is None else StoredResult(*stored)
        if result is not None and not job.owner.buries(ended):
            self._on_result(result)
        if is_completed:
            self._claims.completed(job)
        job.accept(worker.pid, time.monotonic() - seconds)
        job.end(ended, result)
        self._on_end(worker)

    def on_skipped(self, worker: Worker, number: int) -> None:
        """Give an operation to another worker: this one had been told to leave it."""
        job = worker.lane.take(number)
        if job is not None:
            self.put_back(job)

    def put_back(self, job: Job) -> None:
        """Have a job that has not begun go to another worker; one that was revoked ends."""
        if not job.is_wanted() or job.accepted():
            return
        if job.is_revoked():
            job.end_revoked()
        else:
            job.write_to(None)
            self.waiting.appendleft(job)

    def is_watched(self) -> bool:
        """Return whether there is something to look at."""
        return any(worker.lane.jobs for worker in self._workers)

    def look(self, now: float) -> None:
        """Look at the workers: start time limits, take back operations that wait too long.

        Args:
            now: Monotonic seconds.
        """
        for worker in self._workers:
            self.accept_begun(worker)
            self._take_back(worker.lane, now)

    def accept_begun(self, worker: Worker) -> None:
        """Note which operations a worker is running."""
        for number, since in worker.lane.turn.running().items():
            job = worker.lane.jobs.get(number)
            if job is not None:
                job.accept(worker.pid, since)

    def _take_back(self, lane: Lane, now: float) -> None:
        number = lane.turn.last()
        if not lane.jobs or (self._slots == 1 and not lane.is_long(number, now)):
            return
        last = next(reversed(lane.jobs))
        if self._slots > 1 and (last <= number or now - lane.written_at < _STUCK):
            return
        if last > lane.turn.recalled():
            lane.turn.recall(last)  # the next look takes back the operations not begun by then
            return
        for later in [other for other in lane.jobs if other > number]:
            job = lane.take(later)
            if job is not None:
                self.put_back(job)

    def lose(self, job: Job, exitcode: int, *, with_node: bool) -> bool:
        """Judge an operation whose worker is gone; return whether it is lost.

        One that was revoked has ended as it should.

        Args:
            job: The operation.
            exitcode: The worker's.
            with_node: Whether the worker was ended because its node ends.
        """
        if job.is_terminated():
            job.end_terminated(exitcode)
            return False
        if with_node:
            job.blame = Blame.INNOCENT
        else:
            job.lose()
        return True

    def recall(self) -> None:
        """Have no worker begin any more of the operations that were written to it."""
        for worker in self._workers:
            worker.lane.turn.recall(worker.lane.written)

    def forget_what_has_not_begun(self) -> None:
        """Forget every operation that no worker has begun: other nodes run it."""
        self.recall()
        for worker in self._workers:
            self.accept_begun(worker)
        undecided = self._undecided()
        for job in list(self.jobs.values()):
            if job.call.is_acknowledged or job.accepted() or job.is_failure():
                continue  # nobody else has it
            if job.key not in undecided:
                job.discard()
        # A failure is told once: its message is the node's until that is done.
        staying = [job for job in self.waiting if job.is_failure() or job.call.is_acknowledged]
        self.waiting.clear()
        self.waiting.extend(staying)

    def is_decided(self) -> bool:
        """Return whether it is known of every operation whether a worker has begun it."""
        return not self._undecided()

    def _undecided(self) -> set[int]:
        """Return the keys of jobs that a worker has begun or left out; it has not said which."""
        return {
            job.key
            for worker in self._workers
            for number, job in worker.lane.jobs.items()
            if number <= worker.lane.turn.last() and not job.accepted() and not job.is_failure()
        }

    def stop(self) -> None:
        """Take nothing more."""
        self._is_open = False

    def close(self) -> None:
        """Take nothing more; a failure that no worker can tell of any more is the node's."""
        self.stop()
        for job in [job for job in self.waiting if job.is_failure()]:
            self.waiting.remove(job)
            job.end(UNTOLD, None)
