"""Sizing: a pool has an exact number of workers; missing ones are forked, surplus ones end.

Which of them serve, rest and end is a pure decision (``resizing.py``). Here it is carried out:
now, as far as that can be done, and again whenever something has changed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from pooltasks.node.workforce.resizing import Staff, moves
from pooltasks.optimizer.overflow import Overflow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pooltasks.node.workforce.jobs import Worker

_AGAIN = 0.05
"""Seconds after which a spare is replaced, so that operations that wait for the spare that
took over go first; and after which a pool that could not settle looks again."""
_END_AT_LATEST = 5.0
"""Seconds after which a worker that does not end when it is asked to is killed."""


class Hands(Protocol):
    """The steps of a sizing, as they are done to worker processes."""

    def fork(self, number: int) -> None:
        """Start workers, or later if the last ones could not be warmed."""

    def serve(self, pid: int) -> None:
        """Give a worker operations from now on."""

    def rest(self, pid: int) -> None:
        """Give a worker no more operations."""

    def end(self, pid: int, *, at_once: bool) -> None:
        """Ask a worker to end; with ``at_once`` it is not asked."""

    def kill(self, pid: int) -> None:
        """Kill a worker, if it is still there."""

    def recall(self) -> None:
        """Have the workers return the node's wait, if they have it."""


class Sizing:
    """The workers of a node: who serves, who rests, who is to end.

    A worker that rests is warm and is given nothing until it is needed. So a spare takes
    over, and an idle worker stops taking operations, at once and in one step.

    Args:
        workers: All workers, at any time, the oldest first.
        hands: Does what is decided.
        size: How many workers serve.
        spares: How many more are kept warm.
        overflow: How many temporary ones there may be.
        wait: The objective's, in seconds.
        slots: How many operations a worker runs at once.
        queued: Returns how many operations are in the queue.
    """

    def __init__(
        self,
        workers: Collection[Worker],
        hands: Hands,
        *,
        size: int,
        spares: int,
        overflow: int,
        wait: float,
        slots: int,
        queued: Callable[[], int],
    ) -> None:
        self.size = size
        self.spares = spares
        self.overflow = Overflow(overflow, wait)
        self.room: int | None = None
        """The most workers that the host has room for; None if that is not known."""
        self.warm: set[int] = set()
        """Workers that have reported that they can take operations, spares too."""
        self.serving: set[int] = set()
        """Workers that are given operations; the others rest."""
        self.outgoing: set[int] = set()
        """Workers that are to be replaced, and go on until that is done."""
        self.coming = 0
        """Workers that are forked in the next rounds of the event loop."""
        self._all, self._hands = workers, hands
        self._slots, self._queued = slots, queued
        self._ending: set[int] = set()
        self._is_open = True
        self._hub: Any = None
        self._timer: Any = None

    def start(self, hub: Any) -> None:
        """Attach to an event loop; before that, workers are forked all at once."""
        self._hub = hub

    def stop(self) -> None:
        """Leave the workers as they are from now on."""
        self._is_open = False

    # The state of the workers.

    @property
    def wanted(self) -> int:
        """How many workers are to serve now, temporary ones too."""
        return self.size + self.overflow.count

    def lacking(self) -> int:
        """Return how many workers are missing from those that are to serve now."""
        return max(0, self.wanted - sum(worker.pid in self.serving for worker in self._all))

    def temporary(self) -> int:
        """Return how many of the workers that serve are temporary ones."""
        return min(self.overflow.count, max(0, len(self.serving) - self.size))

    def workers(self) -> list[Worker]:
        """Return the workers that are warm and to stay so, the oldest first."""
        return [worker for worker in self._all if worker.pid in self.warm]

    def staff(self) -> Staff:
        """Return the workers by what they do."""
        workers = [worker.pid for worker in self._all if worker.pid not in self._ending]
        return Staff(
            serving=[pid for pid in workers if pid in self.serving],
            resting=[pid for pid in workers if pid in self.warm and pid not in self.serving],
            cold=[pid for pid in workers if pid not in self.warm],
            busy={worker.pid for worker in self._all if worker.lane.is_running()},
            lent={worker.pid for worker in self._all if worker.lane.lent is not None},
            outgoing=self.outgoing,
        )

    # Orders.

    def resize(self, size: int, spares: int | None = None) -> None:
        """Have ``size`` workers serve and ``spares`` rest (None: as many as before).

        Missing workers are forked before this returns; a surplus worker ends as soon
        as it has no operation.
        """
        self.overflow.take_over(max(0, size - self.size))
        self.size = size
        self.spares = self.spares if spares is None else spares
        self.settle()

    def replace(self, pid: int) -> None:
        """End a worker as soon as another is warm in its place and it has no operation."""
        self.outgoing.add(pid)
        self.settle(behind=True)

    def is_watched(self) -> bool:
        """Return whether there is something to look at: temporary workers."""
        return self.overflow.count > 0

    def look(self, now: float, *, waiting: int, run: float) -> None:
        """Have another temporary worker if one is lacking, or fewer if they have been idle.

        Args:
            now: Monotonic seconds.
            waiting: How many operations no worker has.
            run: Seconds that an operation runs.
        """
        if not self.overflow.most and not self.overflow.count:
            return
        full = [worker.pid for worker in self._all if worker.lane.is_full(self._slots)]
        if self.overflow.look(
            now,
            self.size,
            serving=len(self.serving),
            busy=len(self.serving.intersection(full)),
            waiting=self._workers_for(waiting),
            queued=lambda: self._workers_for(self._queued()),
            run=run,
            resting=len(self.warm - self.serving),
            room=self.room,
        ):
            self.settle()

    def _workers_for(self, operations: int) -> int:
        return math.ceil(operations / self._slots)

    # Events of workers.

    def on_warm(self, pid: int) -> None:
        """Let a worker rest that has become warm; it serves once the workers are settled."""
        self.warm.add(pid)
        self._rest(pid)

    def is_ending(self, pid: int) -> bool:
        """Return whether a worker was asked to end."""
        return pid in self._ending

    def on_done(self, worker: Worker) -> None:
        """Let a worker rest that has finished, if there are more than enough."""
        if len(self.serving) > self.wanted or self.outgoing:
            pid = worker.pid
            if pid in self.serving and self._may_rest(pid):
                # Now, before another job is written to it; the others when this turn is done.
                self._rest(pid)
                self._hub.call_soon(self.settle)

    def _may_rest(self, pid: int) -> bool:
        if len(self.serving) > self.wanted:
            return True
        return pid in self.outgoing and bool(self.warm - self.serving - self.outgoing)

    def on_gone(self, pid: int) -> None:
        """Forget a worker that is no more."""
        self._forget(pid)
        self._ending.discard(pid)

    def _forget(self, pid: int) -> None:
        self.warm.discard(pid)
        self.serving.discard(pid)
        self.outgoing.discard(pid)

    # The steps to the size that is wanted.

    def settle(self, *, behind: bool = False) -> None:
        """Bring the workers to the size that is wanted, as far as that can be done now.

        Args:
            behind: Whether to fork spares too. Otherwise they follow a moment later.
        """
        if not self._is_open:
            return
        if len(self.serving) > self.wanted or self.outgoing:
            self._hands.recall()
        staff = self.staff()
        to_do = moves(staff, self.wanted, self.overflow.spares(self.spares))
        for pid in to_do.release:
            self._serve(pid)
        for pid in to_do.rest:
            self._rest(pid)
        for pid in to_do.end:
            self._end(pid)
        lacking = self.wanted - len(self.serving) - len(staff.cold)
        now = to_do.fork if behind or self._hub is None else min(to_do.fork, max(0, lacking))
        self._fork_one_by_one(now, behind=behind)
        # Not every operation that leaves a worker has a result: some are taken back.
        late = {*staff.busy, *staff.lent} - self.serving
        unsettled = len(self.serving) > self.wanted or self.outgoing or late
        if (now < to_do.fork or unsettled) and self._timer is None:
            self._timer = self._hub.call_later(_AGAIN, self._settle_again)

    def _settle_again(self) -> None:
        self._timer = None
        self.settle(behind=True)

    def _fork_one_by_one(self, number: int, *, behind: bool) -> None:
        """Fork one worker now and the others in the next rounds of the event loop.

        A fork takes milliseconds, of many at once nearly a second, in which no
        operation is dispatched: just when some wait for the workers to come.
        """
        if self._hub is None:
            self._hands.fork(number)
            return
        before = len(self._all)
        self._hands.fork(min(number, 1))
        self.coming = number - 1 if len(self._all) > before else 0
        if self.coming:
            self._hub.call_soon(self._fork_another, self.coming, behind)

    def _fork_another(self, coming: int, behind: bool) -> None:
        if coming == self.coming:  # otherwise somebody has settled since
            self.settle(behind=behind)

    def _serve(self, pid: int) -> None:
        self.serving.add(pid)
        self._hands.serve(pid)

    def _rest(self, pid: int) -> None:
        self.serving.discard(pid)
        self._hands.rest(pid)

    def _end(self, pid: int) -> None:
        self._ending.add(pid)
        # Right after its fork a worker still ignores SIGTERM.
        self._hands.end(pid, at_once=pid not in self.warm)
        self._forget(pid)
        self._hub.call_later(_END_AT_LATEST, self._kill_if_ending, pid)

    def _kill_if_ending(self, pid: int) -> None:
        if pid in self._ending:
            self._hands.kill(pid)
