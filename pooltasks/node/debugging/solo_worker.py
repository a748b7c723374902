"""The worker of a debugging node: threads of the node's own process.

It is a worker process's code without the process: the same warm-up, checks, limits,
results and events. A debugger that is attached to the node, or a ``breakpoint()``,
stops in an operation as in any other program.
"""

from __future__ import annotations

import bdb
import marshal
import sys
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import billiard
from celery import signals
from celery.utils.log import get_logger

from pooltasks.node.worker.child import WorkerProcess
from pooltasks.node.worker.pulse import Pulse
from pooltasks.node.worker.slots import Slots
from pooltasks.node.workforce.backoff import StartBackoff
from pooltasks.node.workforce.replies import DONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.node.scoreboard.row import Row
    from pooltasks.node.worker.outcome import Run
    from pooltasks.node.worker.warmup import Plan

logger = get_logger(__name__)


class SoloWorker(WorkerProcess):
    """A worker in this process.

    Args:
        app: The application.
        hostname: The node's name.
        plan: How it warms up.
        rows: Of the scoreboard, one for each slot.
        stores: Whether it stores results itself.
        tell: Takes each message to the node, from any thread.
    """

    def __init__(
        self,
        app: Celery,
        hostname: str,
        plan: Plan,
        rows: list[Row],
        *,
        stores: bool,
        tell: Callable[[int, tuple[Any, ...]], None],
    ) -> None:
        unused = billiard.get_context().SimpleQueue()
        super().__init__(
            unused,
            unused,
            initargs=(app, hostname),
            plan=plan,
            index=0,
            rows=rows,
            pulse=Pulse(),
            stores=stores,
        )
        self._tell = tell
        self._tasks: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._teller = Slots(1, self._report_failure, _never)
        self._ends = threading.Event()
        self.wait_for_job = self._wait_for_job
        self.has_threads = True

    def start(self) -> None:
        """Warm up, and run what is given, from now on."""
        threading.Thread(target=self._work, name="pooltasks-worker", daemon=True).start()

    def run(self, *task: Any) -> None:
        """Run an operation in the next free slot; the arguments are those of a worker process."""
        self._tasks.put(task)

    def report(self, number: int, payload: bytes) -> None:
        """Tell of a failure that the node found, whatever the slots do meanwhile."""
        self._teller.start(0, number, payload)

    def warm_again(self) -> None:
        """Warm up again before the next operation, at once if there is none."""
        self._tasks.put(None)

    def interrupt(self, number: int) -> None:
        """Raise SoftTimeLimitExceeded in an operation, if it runs."""
        slot = self.turn.slot_of(number)
        if slot is not None and self._slots is not None:
            self._slots.interrupt(slot, number)

    def is_held(self, number: int) -> bool:
        """Return whether a debugger has stopped in an operation."""
        slot = self.turn.slot_of(number)
        thread = None if slot is None or self._slots is None else self._slots.thread(slot)
        return thread is not None and is_held(thread)

    def end(self) -> None:
        """Begin nothing more; what runs goes on."""
        self._ends.set()
        self._tasks.put(())

    def _work(self) -> None:
        app, hostname = self.initargs
        app.loader.init_worker_process()
        signals.worker_process_init.send(sender=hostname)
        self.prepare()
        if not self.plan.settings.lazy and not self._becomes_warm():
            return
        with suppress(SystemExit):  # the end of a process; a thread ends by itself
            self.workloop()

    def _becomes_warm(self) -> bool:
        """Warm up, again and again until it succeeds; return False if the node ends first."""
        backoff = StartBackoff()
        while not self._warm and not self._ends.is_set():
            if not self._warm_up():
                pause = backoff.failed(time.monotonic())
                logger.error("the next warm-up begins in %.1f s", pause)
                self._ends.wait(pause)
        return self._warm

    def _wait_for_job(self) -> Any:
        while True:
            task = self._tasks.get()
            if self._ends.is_set():
                raise SystemExit
            if task is None:
                # Also if it is lazy and cold: then the order is its first warm-up.
                self._waiting = True  # as a process is that may be interrupted
                self._on_rewarm_signal()
            elif self._becomes_warm():
                return None, (task,)
            else:
                raise SystemExit

    def _report_failure(self, _: int, number: int, payload: bytes) -> None:
        arguments = marshal.loads(payload)  # noqa: S302  our own node's
        identifier = arguments[1]
        keeper = self._keeper
        if keeper is not None:
            keeper.keep(identifier)
        ended = self._runner.report(*arguments)
        stored = None if keeper is None else keeper.release(identifier)
        result = None if stored is None else tuple(stored)
        self._reply(DONE, (number, ended.ending, result, 0.0, False))

    def _reply(self, kind: int, arguments: tuple[Any, ...]) -> None:
        self._tell(kind, arguments)


def _never(error: BaseException) -> Run:
    raise AssertionError("nothing interrupts what tells of failures") from error


def is_held(thread: int) -> bool:
    """Return whether a debugger waits for its user in a thread: pdb and its kind, or pydevd."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  Python's own, documented
    while frame is not None:
        name = frame.f_code.co_name
        if name == "interaction" and isinstance(frame.f_locals.get("self"), bdb.Bdb):
            return True
        if name == "do_wait_suspend" and "pydevd" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
