"""How a node stops: it reserves nothing more, finishes its operations, and leaves.

The event loop goes on until the last operation has ended: the lease is renewed,
results reach their callers, a second signal is heard. Celery would wait for its
workers outside the loop.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery import platforms, signals
from celery.apps import worker as celery_worker
from celery.exceptions import WorkerTerminate
from celery.platforms import EX_FAILURE, EX_OK
from celery.utils.log import get_logger
from celery.worker import state

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)

_RECALLED_SECONDS = 0.02
"""How long a worker may take to begin an operation that it had read before the recall."""
_SETTLE_SECONDS = 2.0
"""How long the server may take to hear of the last results."""


class Stop(IntEnum):
    """How urgently a node is to stop; a further signal makes it more urgent."""

    WARM = 1
    """Running operations finish."""
    SOFT = 2
    """Running operations have ``worker_soft_shutdown_timeout`` to finish; the rest is put back."""
    COLD = 3
    """Running operations are ended and put back."""
    HARD = 4
    """The node ends at once."""


class Shutdown:
    """The requests to stop of one node.

    Args:
        hostname: The node's name.
        soft_seconds: Celery's ``worker_soft_shutdown_timeout``.
    """

    def __init__(self, hostname: str, soft_seconds: float) -> None:
        self._hostname = hostname
        self._soft_seconds = soft_seconds
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self.urgency: Stop | None = None
        self.deadline: float | None = None
        """When running operations are ended, in monotonic seconds; None: never."""

    def install(self) -> None:
        """Handle Celery's signals to stop."""
        self._handle("SIGTERM", self._next_cold if _is_remapped() else self._warm)
        self._handle("SIGQUIT", self._next_cold)
        self._handle("SIGINT", self._interrupted)

    def _handle(self, name: str, urgency: Callable[[], Stop]) -> None:
        def on_signal(*_: Any) -> None:
            if current_process()._name == "MainProcess":  # noqa: SLF001  as Celery asks
                self.request(urgency(), name)

        platforms.signals[name] = on_signal

    @staticmethod
    def _warm() -> Stop:
        return Stop.WARM

    def _next_cold(self) -> Stop:
        if self.urgency in (None, Stop.WARM):
            return Stop.SOFT if self._soft_seconds else Stop.COLD
        return Stop.COLD if self.urgency is Stop.SOFT else Stop.HARD

    def _interrupted(self) -> Stop:
        return Stop.WARM if self.urgency is None else self._next_cold()

    def request(self, urgency: Stop, signal: str) -> None:
        """Stop; called in a signal's handler, so it only takes note."""
        if urgency is Stop.HARD:
            raise WorkerTerminate(EX_FAILURE)
        is_more = self.urgency is None or urgency > self.urgency
        how = "Warm" if urgency is Stop.WARM else "Cold"
        celery_worker.safe_say(
            f"worker: {how} shutdown (MainProcess)", celery_worker.sys.__stdout__
        )
        exitcode = EX_OK if signal == "SIGTERM" and urgency is Stop.WARM else EX_FAILURE
        signals.worker_shutting_down.send(
            sender=self._hostname, sig=signal, how=how, exitcode=exitcode
        )
        if is_more:
            self.urgency = urgency
            seconds = {Stop.WARM: None, Stop.SOFT: self._soft_seconds, Stop.COLD: 0.0}[urgency]
            self.deadline = None if seconds is None else time.monotonic() + seconds
        state.should_stop = exitcode
        with suppress(BlockingIOError):  # the loop has not read the last ones: it is awake
            os.write(self._writer, b"!")

    def wake(self, hub: Any) -> None:
        """Have a signal wake the event loop; called again when the loop starts anew."""
        hub.add_reader(self._reader, self._read)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def drain(self, node: Any) -> bool:
        """Run the event loop until no operation is left; return whether none was interrupted.

        Args:
            node: Celery's worker program.
        """
        if self.urgency is None:
            self.urgency = Stop.WARM
        self.wake(node.hub)
        return _Drain(self, node.consumer, node.pool, node.hub).run()


class _Drain:
    """The last turns of a node's event loop."""

    def __init__(self, shutdown: Shutdown, consumer: Any, pool: Any, hub: Any) -> None:
        self._shutdown = shutdown
        self._consumer = consumer
        self._intake = consumer.intake
        self._pool = pool
        self._hub = hub
        self._has_given_back = False
        self._settle_until: float | None = None
        self._wakes_at: float | None = None
        """The deadline at which a timer wakes the loop."""

    def run(self) -> bool:
        """Return whether every operation has ended."""
        self._intake.stop()
        self._pool.recall()
        self._hub.call_later(_RECALLED_SECONDS, self._give_back)
        loop = self._hub.create_loop()
        while not self._is_over():
            if self._intake.session.side.wire is None:
                _tell_nobody(self._consumer)  # each event would wait for the server
            try:
                next(loop)
            except StopIteration:
                loop = self._hub.create_loop()
            except self._consumer.connection_errors as error:
                logger.info("remote control ends before the last operation: %s", error)
                _leave_celerys_connection(self._consumer, self._hub)
                loop = self._hub.create_loop()
        return self._has_given_back and bool(self._pool.is_idle())

    def _give_back(self) -> None:
        """Put back the operations that no worker has begun, once each has named those it has begun.

        An operation that has begun does not go back, even if it has ended since.
        """
        if not self._pool.forget_what_has_not_begun():
            self._hub.call_later(_RECALLED_SECONDS, self._give_back)
            return
        self._has_given_back = True
        number = self._intake.give_back_all_but(_running())
        if number:
            logger.info("put %d operations back that had not begun", number)

    def _is_over(self) -> bool:
        now, deadline = time.monotonic(), self._shutdown.deadline
        if deadline is not None:
            # A worker that was stopped may never say what it has begun.
            last = deadline if self._has_given_back else deadline + _SETTLE_SECONDS
            if now >= last:
                return True
        if deadline != self._wakes_at:
            self._wakes_at = deadline
            if deadline is not None:
                self._hub.call_later(deadline - now, _nothing)
        if not self._has_given_back or not self._pool.is_idle():
            return False
        self._settle_until = self._settle_until or now + _SETTLE_SECONDS
        return bool(self._intake.is_settled()) or now > self._settle_until


def _is_remapped() -> bool:
    return bool(celery_worker.REMAP_SIGTERM == "SIGQUIT")


def _running() -> set[str]:
    """Return the reservations of the operations that workers run."""
    return {request.message.delivery_tag for request in state.active_requests}


def _leave_celerys_connection(consumer: Any, hub: Any) -> None:
    """Have the loop ask Celery's connection for nothing more."""
    _tell_nobody(consumer)
    cycle = consumer.connection.transport.cycle if consumer.connection else None
    for callback in list(hub.on_tick):
        owner = getattr(callback, "__self__", None)
        if (cycle is not None and owner is cycle) or getattr(callback, "__module__", "") == (
            "kombu.transport.redis"
        ):
            hub.on_tick.discard(callback)
    if cycle is not None:
        for fd in list(cycle.fds):
            hub.remove(fd)


def _tell_nobody(consumer: Any) -> None:
    """Send no more of Celery's events."""
    if consumer.event_dispatcher is not None:
        consumer.event_dispatcher.enabled = False


def say_no_goodbye(consumer: Any) -> None:
    """Have Celery's consumer end without a word to a server that is away: it waits for each."""
    _tell_nobody(consumer)
    for step in consumer.steps:
        box = getattr(step, "box", None)  # of remote control
        if box is not None:
            box.node.channel = None
    consumer.connection = None


def _nothing() -> None:
    """Only wake the loop."""
