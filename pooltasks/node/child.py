"""The worker process: Celery's pool process, which warms up before it takes work."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from billiard.compat import mem_rss
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import ACK, EX_RECYCLE, SIG_SOFT_TIMEOUT, MaybeEncodingError
from celery import platforms, signals
from celery.concurrency.asynpool import Worker

from pooltasks import coroutines
from pooltasks.broker.results import ResultBackend
from pooltasks.node.events import OperationEvents
from pooltasks.node.health import beat_interval
from pooltasks.node.replies import DONE, SKIPPED
from pooltasks.node.shortcut import Shortcut
from pooltasks.node.slots import Slots
from pooltasks.node.turn import Turn
from pooltasks.node.warmup import WorkerReport, run_commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.node.pulse import Pulse
    from pooltasks.node.row import Row
    from pooltasks.node.shortcut import Claim
    from pooltasks.node.warmup import Plan

WARMING = 64
"""Message to the node: this worker has its permit and begins (pid)."""
WARMED = 65
"""Message to the node: this worker's warm-up ended (report)."""

EX_WARM_UP_FAILED = 70
"""Exit code of a worker whose warm-up failed (EX_SOFTWARE of sysexits.h)."""

REWARM_SIGNAL = signal.SIGUSR2
"""The node asks a worker to warm up again."""


def die_with(node_pid: int) -> None:
    """Have the kernel kill this process when the node ends; end now if it has already.

    Celery asks the kernel too, but does not look whether its parent was gone
    before: such a worker would stay for ever.
    """
    platforms.set_pdeathsig("SIGKILL")
    if os.getppid() != node_pid:
        os._exit(os.EX_UNAVAILABLE)


class WorkerProcess(Worker):
    """One worker.

    Args:
        *args: As billiard's.
        plan: How this node's workers warm up.
        index: The worker's place in its node, from 0.
        rows: Of the scoreboard, one for each of its slots.
        stores: Whether it stores results itself; otherwise its node does,
            together with the acknowledgement.
        pulse: By which the node knows that it is alive.
        **kwargs: As billiard's.
    """

    def __init__(
        self,
        *args: Any,
        plan: Plan,
        index: int,
        rows: list[Row],
        pulse: Pulse,
        stores: bool,
        **kwargs: Any,
    ) -> None:
        self.plan = plan
        self.index = index
        self.rows = rows
        self.pulse = pulse
        self.turn = Turn(len(rows))
        self._slots: Slots | None = None
        self._pipe = threading.Lock()
        self._keepers: dict[int, ResultBackend | None] = {}
        self._stores = stores
        self._shortcut: Shortcut
        self._outq_fd = -1
        self._node_pid = os.getpid()
        self._warm = False
        self._waiting = False
        self._asked_again = False
        super().__init__(*args, **kwargs)

    def after_fork(self) -> None:
        """Initialise the process; the warm-up is the last receiver of its signal."""
        die_with(self._node_pid)
        self._outq_fd = self.outq._writer.fileno()  # noqa: SLF001  billiard's name
        pool = self.plan.pool
        self._shortcut = Shortcut(self.initargs[0])
        self.events = [OperationEvents(self.initargs[0], pool, row) for row in self.rows]
        if not self.plan.settings.lazy:
            signals.worker_process_init.connect(
                self._warm_up_first, weak=False, dispatch_uid="pooltasks.warm-up"
            )
        super().after_fork()
        self.pulse.start(beat_interval(self.plan.settings.health_check_interval))
        signal.signal(REWARM_SIGNAL, self._on_rewarm_signal)
        signal.signal(SIG_SOFT_TIMEOUT, self._on_soft_limit)

    def _on_soft_limit(self, *_: Any) -> None:
        # The operation that it was sent for may have ended meanwhile.
        for slot, number in self.turn.targets().items():
            if self._slots is not None:
                self._slots.interrupt(slot, number)
            elif not coroutines.interrupt(threading.get_ident()):
                raise SoftTimeLimitExceeded

    def _warm_up_first(self, **_: Any) -> None:
        # A signal's receivers may not raise, except by leaving the process.
        if not self._warm_up():
            raise SystemExit(EX_WARM_UP_FAILED)

    def _warm_up(self) -> bool:
        """Run the pool's commands and tell the node; return whether all succeeded."""
        with self.plan.permits.one(self.index):
            self._reply(WARMING, (os.getpid(),))
            report: WorkerReport = run_commands(
                self.initargs[0], self.plan.settings.warmup.commands
            )
        if report.error is None:
            self._warm = True
            # What the warm-up made stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
        self._reply(WARMED, (report,))
        return report.error is None

    def _on_rewarm_signal(self, *_: Any) -> None:
        # Only while waiting for work is nothing half-written in the pipe.
        if self._waiting:
            self._warm_up()
        else:
            self._asked_again = True

    def _make_protected_receive(self, conn: Any) -> Callable[[], Any]:
        receive = super()._make_protected_receive(conn)

        def receive_when_warm() -> Any:
            self._waiting = True
            try:
                if self._asked_again:
                    self._asked_again = False
                    self._warm_up()
                job = receive()
            finally:
                self._waiting = False
            # Lazy: the first operation waits for the warm-up. It has not been
            # accepted yet, so the node gives it to another worker if this one fails.
            if job is not None and not self._warm and not self._warm_up():
                raise SystemExit(EX_WARM_UP_FAILED)
            return job

        return receive_when_warm

    def workloop(self, debug: Any = None, now: Any = None, pid: int | None = None) -> int:  # noqa: ARG002  billiard's arguments
        """Run what the node writes, until it writes no more; return the exit code."""
        if len(self.rows) > 1:
            self._slots = Slots(len(self.rows), self._operate)
            return self._hand_out(self._slots)
        most, done = self.maxtasks or sys.maxsize, 0
        while done < most:
            message = self.wait_for_job()
            for number, *task in message[1] if message else ():
                if done >= most or not self.turn.begin(number):
                    self._reply(SKIPPED, (number,))
                    continue
                leave = self._operate(0, number, *task)
                done += 1
                if leave is not None:
                    raise leave
                if self._is_too_large():
                    done = most
        return int(EX_RECYCLE)

    def _hand_out(self, slots: Slots) -> int:
        """Do the same with several slots: what is written begins at once, in a thread."""
        most, begun = self.maxtasks or sys.maxsize, 0
        try:
            while begun < most and not self._is_too_large():
                message = self.wait_for_job()
                for number, *task in message[1] if message else ():
                    slot = slots.take()
                    if begun >= most or not self.turn.begin(number, slot):
                        slots.give_back(slot)
                        self._reply(SKIPPED, (number,))
                        continue
                    begun += 1
                    slots.start(slot, number, *task)
            slots.finish()
        except SystemExit:
            if not terminate_handler_fired():
                slots.finish()
            raise
        finally:
            if terminate_handler_fired():
                # From here on only this thread writes, to say that it ends.
                self._pipe.acquire()
        return int(EX_RECYCLE)

    def _is_too_large(self) -> bool:
        return bool(self.max_memory_per_child) and mem_rss() > self.max_memory_per_child

    def _operate(  # noqa: PLR0917  a slot, and what the node writes
        self,
        slot: int,
        number: int,
        job: int,
        accept_first: bool,
        claim: Claim | None,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
    ) -> BaseException | None:
        """Run an operation and send the node its outcome.

        Returns:
            What the operation raised to leave the process with; with several slots it stays.
        """
        if accept_first:
            self._reply(ACK, (job, None, time.monotonic(), os.getpid(), None))
        keeper = self._keeper(slot)
        if keeper is not None:
            keeper.keep(args[1])
        events = self.events[slot]
        begun = time.perf_counter()
        if self._slots is None:
            outcome, leave = self._run(events, function, args, kwargs)
        else:
            outcome, leave = self._slots.run(
                slot, number, self._run, events, function, args, kwargs
            )
        seconds = time.perf_counter() - begun
        self.turn.end(slot)
        raised = _raised(outcome)
        events.finish(raised)  # now: no soft limit interrupts it any more
        stored = None if keeper is None else keeper.release(args[1])
        is_completed = False
        if claim is not None and stored is not None and raised is None:
            is_completed = self._shortcut.complete(claim, stored)
        if self._slots is not None:
            self._slots.give_back(slot)
        self._reply_done(number, outcome, None if is_completed else stored, seconds, is_completed)
        return leave

    def _keeper(self, slot: int) -> ResultBackend | None:
        """Return what keeps results for the node; Celery has a backend for each thread."""
        if slot not in self._keepers:
            backend = self.initargs[0].backend
            keeps = isinstance(backend, ResultBackend) and not self._stores
            self._keepers[slot] = backend if keeps else None
        return self._keepers[slot]

    @staticmethod
    def _run(
        events: OperationEvents, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[tuple[bool, Any], BaseException | None]:
        """Return the outcome, and what the operation raised to leave the process with."""
        try:
            events.start(args[0], args[2])
            return (True, function(*args, **kwargs)), None
        except BaseException as error:  # a result, whatever it is, but for the end of this process
            if terminate_handler_fired():
                raise
            leave = error if isinstance(error, SystemExit | KeyboardInterrupt) else None
            return (False, ExceptionInfo()), leave

    def _reply_done(self, number: int, outcome: tuple[bool, Any], *rest: Any) -> None:
        try:
            self._reply(DONE, (number, outcome, *rest))
        except Exception as error:  # noqa: BLE001  pickle raises anything of anything
            failure = MaybeEncodingError(error, outcome[1])
            info = ExceptionInfo((MaybeEncodingError, failure, error.__traceback__))
            self._reply(DONE, (number, (False, info), *rest))

    def _reply(self, kind: int, arguments: tuple[Any, ...]) -> None:
        """Send a message to the node, in one write."""
        payload = pickle.dumps((kind, arguments), pickle.HIGHEST_PROTOCOL)
        rest = memoryview(len(payload).to_bytes(4, "big") + payload)
        with self._pipe:
            while rest:
                rest = rest[os.write(self._outq_fd, rest) :]


def _raised(outcome: tuple[bool, Any]) -> ExceptionInfo | None:
    """Return what an operation raised, whether Celery's tracer caught it or not; None: nothing."""
    was_traced, value = outcome
    if not was_traced:
        return value
    has_failed, einfo_or_result, _seconds = value
    return einfo_or_result if has_failed else None
