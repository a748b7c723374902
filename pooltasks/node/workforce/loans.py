"""Loans: a node whose operations come one by one lends its wait at the server to its workers.

They reserve, run and complete (:mod:`pooltasks.node.worker.own_wait`), and the node only looks
on: 25 times a second it looks for operations that take long, and makes them its own. So time
limits, deaths and orders find such an operation like any other. The node takes its wait back as
soon as it has anything to do with its workers, and lends again some time later.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.worker import state

from pooltasks.node.worker.own_wait import LONG, SHORT, Why
from pooltasks.node.workforce.frames import LOAN, frame
from pooltasks.node.workforce.jobs import Begun
from pooltasks.node.workforce.lent import Lent
from pooltasks.node.workforce.replies import FETCHED, HANDED, RETURNED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from pooltasks.node.workforce.dispatch import Dispatch
    from pooltasks.node.workforce.jobs import Job, Worker
    from pooltasks.node.workforce.lent import Lender

_LOOK = 0.04
"""Seconds between two looks at the workers that have loans."""
_TAKES_LONG = 2 * LONG
"""Seconds after which an operation is made the node's own."""
_RATE = 4.0
"""Operations a second and worker from which on the node lends: below, it waits itself."""
_MEASURED = 0.25
"""Seconds for which the rate is measured."""
_SILENCE = 4.0
"""Seconds in which a worker begins an operation, or returns its loan; one that does not hangs."""
_SHORT = 0.02
"""Seconds that operations take on average at the most: of longer ones the way costs little."""
_FIRST_REST, _LONGEST_REST = 0.1, 5.0
"""Seconds for which a node does not lend after it had to take its wait back."""


class Loans:
    """The loans of one node.

    Args:
        workers: All workers, at any time.
        open_to: Those of them that are given operations, at any time.
        dispatch: The operations that the node has.
        on_lost: Takes an operation whose worker is gone, and the worker.
        on_end: Takes a worker that has returned a loan.
        on_look: Called at each look, with monotonic seconds.
    """

    def __init__(
        self,
        workers: Collection[Worker],
        open_to: Collection[Worker],
        dispatch: Dispatch,
        *,
        on_lost: Callable[[Job, Any], None],
        on_end: Callable[[Worker], None],
        on_look: Callable[[float], None],
    ) -> None:
        self.intake: Lender | None = None
        """None: the wait is not the node's, but kombu's."""
        self._workers, self._open_to, self._dispatch = workers, open_to, dispatch
        self._on_lost, self._on_end, self._on_look = on_lost, on_end, on_look
        self._is_lending = False
        self._is_broken = False
        """Whether the server may have reserved a message of which nobody knows."""
        self._dead: list[Lent] = []
        """Loans of workers that have ended, until their operations are known."""
        self._is_held = False
        """Whether nothing is mended now."""
        self._hub: Any = None
        self._looks = False
        self._began = 0.0
        self._rest, self._not_before = _FIRST_REST, 0.0
        self._measured: tuple[float, int] = (0.0, 0)
        self._rate = 0.0

    def start(self, hub: Any) -> None:
        """Attach to an event loop."""
        self._hub = hub
        if self._looks:  # the loop before has forgotten its timers
            self._look_later()

    def _lent(self) -> list[tuple[Worker, Lent]]:
        return [(each, each.lane.lent) for each in self._workers if each.lane.lent is not None]

    def is_out(self) -> bool:
        """Return whether a worker has a loan, or has ended with it."""
        return bool(self._dead) or any(worker.lane.lent for worker in self._workers)

    @property
    def takes_begun(self) -> bool:
        """Whether the operation that comes next is one that a worker has begun by itself."""
        return self._dispatch.begun is not None

    def may_cover(self, reservation: str) -> bool:
        """Return whether a reservation may be that of a worker, though the node has not seen it."""
        its = (*self._dead, *(lent for _, lent in self._lent()))
        return any(lent.may_be(reservation) for lent in its)

    # The wait is lent.

    def begin(self, *, is_crowded: bool) -> bool:
        """Lend the wait that the node is about to begin, if that is right; return whether it is.

        Args:
            is_crowded: Whether messages may be waiting.
        """
        now = time.monotonic()
        self._measure(now)
        if not self._may_begin(now) or (is_crowded and self._dispatch.durations.mean <= SHORT):
            return False
        self._is_lending, self._began = True, now
        self._lend_to_idle()
        return True

    def goes_on(self) -> bool:
        """Return whether the wait is lent; lend it to workers that are idle by now."""
        if not self._is_lending:
            return False
        if self._dispatch.waiting or not self._may_lend():
            self.recall()
            return False
        self._lend_to_idle()
        return True

    def _lend_to_idle(self) -> None:
        for worker in list(self._open_to):
            lane = worker.lane
            if not (lane.is_busy() or lane.is_stuck() or lane.unsent):
                self._lend(worker)

    def _measure(self, now: float) -> None:
        at, before = self._measured
        if now - at >= _MEASURED:
            done = sum(worker.lane.done for worker in self._workers)
            self._rate = (done - before) / (now - at)
            self._measured = now, done

    def _may_begin(self, now: float) -> bool:
        return (
            now >= self._not_before
            and self._rate >= _RATE * len(self._open_to)
            and not self._is_open()
            and not self._dispatch.waiting
            and not self._is_broken
            and self._dispatch.durations.mean <= _SHORT
            and self._may_lend()
        )

    def _may_lend(self) -> bool:
        return self.intake is not None and self.intake.may_lend()

    def _lend(self, worker: Worker) -> None:
        assert self.intake is not None  # noqa: S101  for the type checker: it may lend
        lane = worker.lane
        loan = self.intake.lend(lane.written + 1, len(self._open_to))
        lane.written = loan.end - 1
        lane.lent = Lent(loan, lane.done, heard_at=time.monotonic())
        lane.unsent = frame(LOAN, tuple(loan))
        self._dispatch.write(worker)
        if not self._looks:
            self._look_later()

    def _look_later(self) -> None:
        self._looks = True
        self._hub.call_later(_LOOK, self._look)

    # The node looks on.

    def _look(self) -> None:
        self._looks = False
        now = time.monotonic()
        try:
            for worker, lent in self._lent():
                self._look_at(worker, lent, now)
            if self._is_lending and self._dispatch.durations.mean > 2 * _SHORT:
                self.recall()
            self._on_look(now)
            self.goes_on()
            self._mend()
        finally:
            if self.is_out() and not self._looks:
                self._look_later()

    def _look_at(self, worker: Worker, lent: Lent, now: float) -> None:
        turn = worker.lane.turn
        last = turn.last()
        if last != lent.heard and last < lent.loan.end - 1 and not lent.is_given_up:
            worker.lane.done = lent.done + max(0, last - lent.loan.operation)
            lent.heard, lent.heard_at = last, now
        for number, since in turn.running().items():
            # Of one that has ended the node hears only if it took long.
            if now - since >= _TAKES_LONG and turn.slot_of(number) is not None:
                self._find(worker, lent, number, since)
            if turn.slot_of(number) is not None:
                lent.heard_at = now
        if now - lent.heard_at >= _SILENCE and not lent.is_given_up:
            turn.recall(lent.loan.end - 1)
            # Read after that: it may have begun another one just now.
            lent.heard = turn.last()
            lent.is_given_up = self._is_broken = True
            self.recall()

    def _find(self, worker: Worker, lent: Lent, number: int, since: float) -> None:
        """Make an operation that a worker has begun the node's own."""
        if number <= max(lent.asked, lent.ended) or self.intake is None:
            return
        lent.asked = number
        reservation = lent.loan.reservation_of(number)

        def found(raw: bytes | None) -> None:
            is_its = lent.is_dead or worker.lane.lent is lent
            if raw is not None and is_its and number > lent.ended:
                is_known = self._make_known(worker, lent, number, since, raw)
                lent.asked = number if is_known else 0
            if lent in self._dead:
                self._dead.remove(lent)
            self._mend()

        self.intake.find(reservation, found)

    def _make_known(
        self, worker: Worker, lent: Lent, number: int, since: float, raw: bytes
    ) -> bool:
        """Make an operation the node's own; return False if that has to wait."""
        intake = self.intake
        if number in worker.lane.jobs or intake is None or not intake.is_of(lent.loan):
            return True
        reservation = lent.loan.reservation_of(number)
        begun = self._dispatch.begun = Begun(worker, number, since, reservation)
        try:
            is_known = intake.make_known(reservation, raw)
        finally:
            self._dispatch.begun = None
        if begun.job is not None:
            lent.known[begun.job.name] += 1
        if lent.is_dead and begun.job is not None:
            self._on_lost(begun.job, worker)
        return is_known

    # The wait is taken back.

    def handlers(self) -> dict[int, Callable[..., None]]:
        """Return what takes the messages of workers, by their kinds."""
        return {
            HANDED: self.on_handed,
            FETCHED: self.on_fetched,
            RETURNED: self.on_returned,
        }

    def recall(self) -> None:
        """Take the wait back: nothing begins any more, and what runs goes on."""
        if not self._is_lending:
            return
        now = time.monotonic()
        self._is_lending = False
        self._rest = _FIRST_REST if now - self._began > 1 else min(_LONGEST_REST, 2 * self._rest)
        self._not_before = now + self._rest
        for worker, lent in self._lent():
            worker.lane.turn.recall(lent.loan.end - 1)

    def on_handed(self, worker: Worker, reservation: str, raw: bytes) -> None:
        """Take a message that a worker has reserved, and leaves to the node."""
        lent = worker.lane.lent
        if lent is None or not lent.may_be(reservation) or self.intake is None:
            return  # it was given back
        if self.intake.is_of(lent.loan):
            self.intake.take(reservation, raw)

    def on_fetched(self, worker: Worker, number: int, reservation: str, raw: bytes) -> None:
        """Take the message of an operation whose end the worker tells next."""
        lent = worker.lane.lent
        if lent is None:
            return
        if not self._make_known(worker, lent, number, time.monotonic(), raw):
            self.on_handed(worker, reservation, raw)  # it runs again: nobody can hear of its end

    def on_returned(
        self, worker: Worker, why: int, done: int, ran: dict[str, tuple[int, float]]
    ) -> None:
        """Take a loan back.

        Args:
            worker: The worker that had it.
            why: The reason.
            done: How many operations it has run.
            ran: How many of each name, and the seconds that the last of them has taken.
        """
        lane, lent = worker.lane, worker.lane.lent
        if lent is None:
            return
        lane.lent = None
        lane.done = lent.done + done
        for name, (number, seconds) in ran.items():
            self._dispatch.durations.note(name, seconds)
            # Celery counts those that are the node's own, when they begin.
            state.total_count[name] += number - lent.known[name]
        self._is_broken |= why == Why.BROKEN
        lane.is_closing |= why == Why.LEAVING
        if why not in (Why.ENDED, Why.LEAVING):
            self.recall()
        self._mend()
        self._on_end(worker)

    def on_gone(self, worker: Worker) -> None:
        """Take note of a worker that has ended; what it was running is lost with it."""
        lent = worker.lane.lent
        if lent is None:
            return
        worker.lane.lent = None
        self._is_broken = lent.is_dead = True
        self._dead.append(lent)
        self.recall()
        running = [
            (number, since)
            for number, since in worker.lane.turn.running().items()
            if number > lent.ended and number not in worker.lane.jobs
        ]
        for number, since in running:
            lent.asked = 0
            self._find(worker, lent, number, since)
        if not running:
            self._dead.remove(lent)
        self._mend()

    @contextmanager
    def deaths(self) -> Iterator[None]:
        """Mend nothing before all deaths that are found meanwhile are known."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self._mend()

    def _mend(self) -> None:
        """Join again if a wait was lost, once it is known of all others what they have reserved."""
        if self._is_broken and not self._is_held and not self._is_open():
            self._is_broken = False
            if self.intake is not None:
                self.intake.join_again()

    def _is_open(self) -> bool:
        """Return whether there may still be a reservation that the node does not know."""
        return bool(self._dead) or any(
            not lent.is_given_up and lent.loan.operation > max(worker.lane.jobs, default=0)
            for worker, lent in self._lent()
        )
