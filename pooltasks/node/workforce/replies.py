"""Replies: what a node reads from its workers."""

from __future__ import annotations

import marshal
import os
import select
from typing import TYPE_CHECKING, Any

from billiard.pool import TERMINATE, WorkersJoined
from celery.concurrency.asynpool import ResultHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pooltasks.node.workforce.dispatch import Dispatch

DONE = 67
"""Message to the node: an operation is done (see ``Dispatch.on_done``)."""
SKIPPED = 68
"""Message to the node: an operation was taken back before it began (its number)."""
PART = 70
"""Message to the node: a call of a batch is done (see ``batches.take_part``)."""
HANDED = 72
"""Message to the node: one that a worker has reserved, and has not begun (``Loans.on_handed``)."""
FETCHED = 73
"""Message to the node: one that a worker has reserved, and run (``Loans.on_fetched``)."""
RETURNED = 74
"""Message to the node: a worker's loan has ended (``Loans.on_returned``)."""

_HEADER = 4
_CHUNK = 65536
_AGAIN = 0.5


class Replies(ResultHandler):
    """Reads all that has arrived from a worker at once; Celery reads a message a turn."""

    dispatch: Dispatch
    of_loans: Mapping[int, Callable[..., None]]
    """Takes messages of workers that wait for themselves, by their kinds."""

    def _make_process_result(self, hub: Any) -> Callable[[int], None]:
        def on_readable(fd: int) -> None:
            process = self.fileno_to_outq.get(fd)
            if process is None or not self._read(process):
                hub.remove_reader(fd)

        return on_readable

    def drain(self, process: Any) -> None:
        """Handle everything that a worker has sent."""
        while not process.outq._reader.closed and self._read(process, more=True):  # noqa: SLF001  billiard's name
            pass

    def _read(self, process: Any, *, more: bool = False) -> bool:
        """Read once and handle what is whole.

        Args:
            process: The worker.
            more: Return False if nothing was there.

        Returns:
            False at the end of the pipe.
        """
        try:
            data = os.read(process.outqR_fd, _CHUNK)
        except BlockingIOError:
            return not more
        except OSError:  # it was closed
            return False
        if not data:
            return False
        received = process.lane.replies
        received += data
        at = 0
        while len(received) - at >= _HEADER:
            end = at + _HEADER + int.from_bytes(received[at : at + _HEADER], "big")
            if len(received) < end:
                break
            # Plain data, as every node and its workers run one interpreter: nothing of
            # the application's is made here.
            message = marshal.loads(received[at + _HEADER : end])  # noqa: S302  our own worker's
            at = end
            self._handle(process, message)
        del received[:at]
        return True

    def _handle(self, process: Any, message: Any) -> None:
        kind, arguments = message
        if kind == DONE:
            self.dispatch.on_done(process, *arguments)
        elif kind == SKIPPED:
            self.dispatch.on_skipped(process, *arguments)
        elif kind in self.of_loans:
            self.of_loans[kind](process, *arguments)
        else:
            self.on_state_change(message)

    def on_stop_not_started(self) -> None:
        """Read on while the pool stops, until its workers have ended or nothing is awaited."""
        while self.cache and self._state != TERMINATE:
            if self.check_timeouts is not None:
                self.check_timeouts()
            try:
                self.join_exited_workers(shutdown=True)
            except WorkersJoined:
                return
            workers = {
                fd: process
                for fd, process in self.fileno_to_outq.items()
                if not process.outq._reader.closed  # noqa: SLF001  billiard's name
            }
            if not workers:
                return
            for process in workers.values():
                self.dispatch.accept_begun(process)
            poller = select.poll()
            for fd in workers:
                poller.register(fd, select.POLLIN)
            for fd, _ in poller.poll(_AGAIN * 1000):
                if not self._read(workers[fd]):
                    del self.fileno_to_outq[fd]
