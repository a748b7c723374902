"""A worker's own wait at the server, on loan from its node.

Where operations come one by one, the way by the node costs more than the operation's own: the
node wakes twice, and writes and reads a pipe. So an idle node lends its wait to its workers
(:mod:`pooltasks.node.workforce.loans`). A worker that has it completes an operation and reserves
the next one with one write. It begins plain operations only, and hands its node all others.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.utils.log import get_logger
from hiredis import PushNotification
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as TimedOutError

from pooltasks.broker.link import ANSWER_SECONDS
from pooltasks.broker.loan import WAIT_SECONDS
from pooltasks.node.worker.outcome import Fate, How
from pooltasks.node.workforce.replies import DONE, FETCHED, HANDED, RETURNED

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.broker.loan import Loan
    from pooltasks.broker.results import StoredResult
    from pooltasks.broker.wire import Wire
    from pooltasks.node.intake.plain import PlainOperations
    from pooltasks.node.worker.outcome import Run
    from pooltasks.node.worker.shortcut import Shortcut
    from pooltasks.node.worker.turn import Turn

logger = get_logger(__name__)

LONG = 0.02
"""Seconds of an operation whose end its node hears, as it may have begun to look after it."""
SHORT = 0.004
"""Seconds of operations of which a node that takes many at once does more than workers do."""
_IDLE_SECONDS = 1.0
"""Seconds without an operation after which a loan is returned."""
_CONFIRMATION = 3
"""Bytes of the answer to a completion that is done."""
_AT_ONCE = 0.002
"""Seconds within which a message comes that waited already."""
_IN_A_ROW = 8
"""Operations that came without a wait, after which the length of the queue is asked."""


class Why(IntEnum):
    """The reason for which a worker returns its loan."""

    ENDED = 0
    """The node wants it back, or its numbers are used up."""
    IDLE = 1
    """Nothing came."""
    CROWDED = 2
    """So much waits that the node had better take many at once."""
    HANDED_OVER = 3
    """A message came that is the node's."""
    REFUSED = 4
    """The server gives this node nothing, or not under these terms."""
    LEAVING = 5
    """The worker ends, to be replaced."""
    BROKEN = 6
    """The connection broke: the server may have reserved a message of which nobody knows."""


class _Finished(NamedTuple):
    """An operation that has ended and is not completed yet."""

    number: int
    raw: bytes
    run: Run
    stored: StoredResult | None
    seconds: float
    """How long it ran."""
    is_long: bool
    """Whether the node may have begun to look after it."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing is to be done but to store its result and to acknowledge its message."""
        how, fate, *_ = self.run.ending
        return self.run.raised is None and how == How.SUCCEEDED and fate == Fate.ACKNOWLEDGE


class OwnWait:
    """The wait of one worker.

    Args:
        shortcut: The worker's connection.
        plain: Reads messages.
        turn: Of the worker.
        operate: Runs an operation: takes its number and the arguments of Celery's tracer, and
            returns how it ended, its result and the seconds that it took.
        is_worn: Returns whether the worker is to be replaced.
        reply: Sends the node a message.
    """

    def __init__(
        self,
        shortcut: Shortcut,
        plain: PlainOperations,
        turn: Turn,
        *,
        operate: Callable[[int, tuple[Any, ...]], tuple[Run, StoredResult | None, float]],
        is_worn: Callable[[], bool],
        reply: Callable[[int, tuple[Any, ...]], None],
    ) -> None:
        self._shortcut, self._plain, self._turn = shortcut, plain, turn
        self._operate, self._is_worn, self._reply = operate, is_worn, reply
        self._loan: Loan
        self._wire: Wire
        self._number = 0
        """Number of the next operation."""
        self._most = 0
        """Number of the operation before which the worker is replaced."""
        self._finished: _Finished | None = None
        """The operation whose completion the server has not confirmed."""
        self._leave: BaseException | None = None
        self._ran: dict[str, tuple[int, float]] = {}
        """How many operations of each name were run, and the seconds that the last has taken."""
        self._in_a_row = 0
        """Operations that came without a wait."""
        self._seconds = 0.0
        """How long the last operation has taken."""

    def serve(self, loan: Loan, most: int) -> tuple[int, BaseException | None]:
        """Run what comes until the loan is returned.

        Args:
            loan: Its terms.
            most: How many operations the worker may run until it is replaced.

        Returns:
            How many operations were run, and the exception with which the last of them leaves
            the process.
        """
        self._loan, self._number = loan, loan.operation
        self._most = loan.operation + most
        self._leave, self._ran, self._in_a_row = None, {}, 0
        why = self._run()
        self._turn.leave_out(loan.end - 1)
        done = sum(number for number, _ in self._ran.values())
        self._reply(RETURNED, (int(why), done, self._ran))
        return done, self._leave

    def _run(self) -> Why:
        try:
            self._wire = self._shortcut.join(self._loan)
        except RedisError as error:
            logger.info("this worker cannot wait at the server itself: %s", error)
            self._shortcut.close()
            return Why.REFUSED
        try:
            why = self._take_what_comes()
            self._wire.wake_at(1)
        except RedisError as error:
            logger.info("the connection broke over which this worker waited: %s", error)
            self._shortcut.close()
            why = Why.BROKEN
        finally:
            if self._finished is not None:  # it may be completed; to do it again changes nothing
                self._tell(self._finished)
        return why

    def _take_what_comes(self) -> Why:
        loan = self._loan
        wait, since = loan.wait(), time.monotonic()
        while self._goes_on():
            moved, message = self._exchange(wait + loan.take(self._number), 2)
            for each in (moved, message):
                if isinstance(each, Exception):
                    raise each  # the message that was moved may be in no list
            if isinstance(message, int) or (moved is not None and loan.is_last_chance(moved)):
                return Why.REFUSED
            if message is None:
                if time.monotonic() - since >= _IDLE_SECONDS:
                    return Why.IDLE
                continue
            if not self._take(message):
                return Why.HANDED_OVER
            if self._is_crowded():
                return Why.CROWDED
            since = time.monotonic()
        self._complete()
        is_leaving = self._leave is not None or self._number >= self._most or self._is_worn()
        return Why.LEAVING if is_leaving else Why.ENDED

    def _goes_on(self) -> bool:
        its = self._turn.recalled() < self._number < min(self._loan.end, self._most)
        return its and self._leave is None and not self._is_worn()

    def _exchange(self, commands: bytes, expected: int) -> list[Any]:
        """Complete what has finished, send commands, and return their answers.

        Raises:
            redis.RedisError: The connection broke, or the server is silent.
        """
        if self._finished is not None:
            commands = self._loan.complete(self._finished.number, self._finished.stored) + commands
            expected += 1
        # A confirmation alone does not wake the worker, unless the node waits for the end.
        is_quiet = expected > 1 and self._finished is not None and not self._finished.is_long
        self._wire.wake_at(_CONFIRMATION + 1 if is_quiet else 1)
        self._wire.send(commands)
        answers: list[Any] = []
        sent_at = time.monotonic()
        while expected:
            if not self._wire.wait(WAIT_SECONDS + ANSWER_SECONDS):
                raise TimedOutError("the server is silent")
            for answer in self._wire.arrived():
                if isinstance(answer, PushNotification):
                    continue
                expected -= 1
                if self._finished is None:
                    answers.append(answer)
                else:
                    self._confirm(self._finished, answer)
            if expected:
                self._wire.wake_at(1)  # the rest may be less
        is_at_once = time.monotonic() - sent_at < _AT_ONCE
        self._in_a_row = self._in_a_row + 1 if is_at_once else 0
        return answers

    def _complete(self) -> None:
        if self._finished is not None:
            self._exchange(b"", 0)

    def _is_crowded(self) -> bool:
        """Return whether so much waits that the node had better take many at once."""
        if self._in_a_row < _IN_A_ROW or self._seconds > SHORT:
            return False
        self._in_a_row = 0
        (length,) = self._exchange(self._loan.length(), 1)
        return isinstance(length, int) and length >= self._loan.crowd

    def _confirm(self, finished: _Finished, answer: Any) -> None:
        """Take the server's answer to a completion."""
        if isinstance(answer, Exception):
            self._tell(finished)
            return
        self._finished = None
        if finished.is_long:
            its = (finished.number, finished.run.ending, None, finished.seconds, True)
            self._reply(DONE, its)
        self._turn.told()

    def _take(self, raw: bytes) -> bool:
        """Run the operation of a message; return False if the message goes to the node."""
        number, self._number = self._number, self._number + 1
        reservation = self._loan.reservation_of(number)
        arguments = self._plain.read(raw, reservation)
        before = time.monotonic()  # not later than what the node reads of it
        if arguments is None or not self._turn.begin(number):
            self._reply(HANDED, (reservation, raw))
            return False
        its = self._operate(number, arguments)
        finished = _Finished(number, raw, *its, time.monotonic() - before >= LONG)
        count, _ = self._ran.get(arguments[0], (0, 0.0))
        self._seconds = finished.seconds
        self._ran[arguments[0]] = count + 1, finished.seconds
        self._leave = finished.run.leave
        if finished.is_plain:
            self._finished = finished
        else:
            self._tell(finished)
        return True

    def _tell(self, finished: _Finished) -> None:
        """Have the node know an operation, and end it."""
        self._finished = None
        number, run, stored = finished.number, finished.run, finished.stored
        self._reply(FETCHED, (number, self._loan.reservation_of(number), finished.raw))
        result = None if stored is None else tuple(stored)
        self._reply(DONE, (number, run.ending, result, finished.seconds, False))
        self._turn.told()
