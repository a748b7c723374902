"""The worker process: Celery's pool process, which warms up before it takes work."""

from __future__ import annotations

import gc
import marshal
import os
import select
import signal
import sys
import threading
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from billiard.compat import mem_rss
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import ACK, EX_RECYCLE, SIG_SOFT_TIMEOUT
from celery import signals
from celery.concurrency.asynpool import Worker
from celery.utils.log import get_logger

from pooltasks import coroutines
from pooltasks.broker.loan import Loan
from pooltasks.broker.results import share
from pooltasks.node.intake.plain import PlainOperations
from pooltasks.node.worker import joining
from pooltasks.node.worker.batch_run import BatchRun
from pooltasks.node.worker.descendants import die_with, lead
from pooltasks.node.worker.error_reports import ERRED
from pooltasks.node.worker.events import OperationEvents
from pooltasks.node.worker.outcome import Run, too_late
from pooltasks.node.worker.own_wait import OwnWait
from pooltasks.node.worker.runner import Runner
from pooltasks.node.worker.shortcut import Claim, Shortcut
from pooltasks.node.worker.slots import Slots
from pooltasks.node.worker.turn import Turn
from pooltasks.node.worker.warmup import WorkerReport, run_commands
from pooltasks.node.workforce.frames import LOAN
from pooltasks.node.workforce.health import beat_interval
from pooltasks.node.workforce.jobs import Kind
from pooltasks.node.workforce.replies import DONE, PART, SKIPPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.broker.results import ResultBackend, StoredResult
    from pooltasks.node.scoreboard.row import Row
    from pooltasks.node.worker.pulse import Pulse
    from pooltasks.node.worker.warmup import Plan
    from pooltasks.pool_settings import WarmUp

logger = get_logger(__name__)

WARMING = 64
"""Message to the node: this worker has its permit and begins (pid)."""
WARMED = 65
"""Message to the node: this worker's warm-up ended (report)."""

_IDLE_SECONDS = 5.0
"""How long a worker without an operation keeps its connection to the server."""

EX_WARM_UP_FAILED = 70
"""Exit code of a worker whose warm-up failed (EX_SOFTWARE of sysexits.h)."""

REWARM_SIGNAL = signal.SIGUSR2
"""The node asks a worker to warm up again."""


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
        self.has_threads = len(rows) > 1
        self._slots: Slots | None = None
        self._pipe = threading.Lock()
        self._stores = stores
        self._shortcut: Shortcut
        self._runner: Runner
        self._keeper: ResultBackend | None
        self._outq_fd = -1
        self._node_pid = os.getpid()
        self._warm = False
        self._waiting = False
        self._asked_again = False
        super().__init__(*args, **kwargs)

    def after_fork(self) -> None:
        """Initialize the process; the warm-up is the last receiver of its signal."""
        die_with(self._node_pid)
        self._outq_fd = self.outq._writer.fileno()  # noqa: SLF001  billiard's name
        self.outq.put = self._write  # billiard's own messages: it is up, and it ends
        lead(self.inq._reader.fileno(), self._outq_fd)  # noqa: SLF001  billiard's name
        joining.separate()
        self.prepare()
        self._begin()

    def prepare(self) -> None:
        """Make what runs operations."""
        pool = self.plan.pool
        app = self.initargs[0]
        backend = share(app)
        self._keeper = None if self._stores else backend
        self._shortcut = Shortcut(app)
        self._runner = Runner(app, partial(self._reply, ERRED))
        self.events = [OperationEvents(app, pool, row) for row in self.rows]

    def _begin(self) -> None:
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

    def _warm_up(self, order: WarmUp | None = None) -> bool:
        """Run the commands and tell the node; return whether all succeeded.

        Args:
            order: The commands to run; by default those of the pool's settings.
        """
        order = order or self.plan.settings.warmup
        with self.plan.permits.one(self.index, order.strategy):
            self._reply(WARMING, (os.getpid(),))
            report: WorkerReport = run_commands(
                self.initargs[0], order.commands, order.command_timeout
            )
        if report.error is None:
            self._warm = True
            # The warm-up's objects stay: the collector need not look at them again.
            gc.collect()
            gc.freeze()
        self._reply(WARMED, report.plain())
        return report.error is None

    def _on_rewarm_signal(self, *_: Any) -> None:
        # Only while waiting for work is nothing half-written in the pipe.
        if self._waiting:
            self._warm_up(self.plan.orders.last())
        else:
            self._asked_again = True

    def _make_protected_receive(self, conn: Any) -> Callable[[], Any]:
        receive = super()._make_protected_receive(conn)

        def receive_when_warm() -> Any:
            self._waiting = True
            try:
                if self._asked_again:
                    self._asked_again = False
                    self._warm_up(self.plan.orders.last())
                if self._shortcut.is_open and not self._has_work_within(_IDLE_SECONDS):
                    self._shortcut.close()
                job = receive()
            finally:
                self._waiting = False
            # Lazy: the first operation waits for the warm-up. It has not been
            # accepted yet, so the node gives it to another worker if this one fails.
            if job is not None and not self._warm and not self._warm_up():
                raise SystemExit(EX_WARM_UP_FAILED)
            return job

        return receive_when_warm

    def _has_work_within(self, seconds: float) -> bool:
        """Wait for something to read; return whether it has come."""
        poller = select.poll()
        poller.register(self.inq._reader.fileno(), select.POLLIN)  # noqa: SLF001  billiard's name
        return bool(poller.poll(seconds * 1000))

    def workloop(self, debug: Any = None, now: Any = None, pid: int | None = None) -> int:  # noqa: ARG002  billiard's arguments
        """Run what the node writes, until it writes no more; return the exit code."""
        if self.has_threads:
            self._slots = Slots(len(self.rows), self._operate, too_late)
            return self._hand_out(self._slots)
        most, done = self.maxtasks or sys.maxsize, 0
        while done < most:
            message = self.wait_for_job()
            if message and message[0] == LOAN:
                number, leave = self._own_wait.serve(Loan(*message[1]), most - done)
                done += number
                if leave is not None:
                    raise leave
                if self._is_too_large():
                    done = most
                continue
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
        claim: tuple[str, str] | None,
        kind: int,
        wants_traceback: bool,
        payload: bytes,
    ) -> BaseException | None:
        """Run an operation and send the node its end.

        Returns:
            The exception with which the operation leaves the process; with several slots it stays.
        """
        if accept_first:
            self._reply(ACK, (job, None, time.monotonic(), os.getpid(), None))
        if kind == Kind.BATCH:
            return self._operate_batch(slot, number, job, wants_traceback, payload)
        arguments: tuple[Any, ...] = marshal.loads(payload)  # noqa: S302  our own node's
        events = None if kind == Kind.FAILURE else self.events[slot]
        ended, stored, seconds = self._trace(slot, number, events, wants_traceback, arguments)
        is_completed = False
        if claim is not None and stored is not None and ended.raised is None:
            is_completed = self._shortcut.complete(Claim(*claim), stored)
        result = None if stored is None or is_completed else tuple(stored)
        self._reply(DONE, (number, ended.ending, result, seconds, is_completed))
        self.turn.told(slot)
        if self._slots is not None:
            self._slots.give_back(slot)
        return ended.leave

    def _trace(
        self,
        slot: int,
        number: int,
        events: OperationEvents | None,
        wants_traceback: bool,
        arguments: tuple[Any, ...],
    ) -> tuple[Run, StoredResult | None, float]:
        """Run an operation; return how it ended, its result, and the seconds that it took."""
        begun = time.perf_counter()
        identifier: str = arguments[1]
        keeper = self._keeper
        if keeper is not None:
            keeper.keep(identifier)
        if self._slots is None:
            ended = self._runner.run(events, wants_traceback, arguments)
        else:
            ended = self._slots.run(
                slot, number, self._runner.run, events, wants_traceback, arguments
            )
        seconds = time.perf_counter() - begun
        self.turn.end(slot)
        if events is not None:
            events.finish(ended.raised)  # now: no soft limit interrupts it any more
        return ended, None if keeper is None else keeper.release(identifier), seconds

    @cached_property
    def _own_wait(self) -> OwnWait:
        app, hostname = self.initargs
        settings = self.plan.settings
        plain = PlainOperations(app, self.plan.pool, hostname, settings.operation_timeout)

        def operate(
            number: int, arguments: tuple[Any, ...]
        ) -> tuple[Run, StoredResult | None, float]:
            return self._trace(0, number, self.events[0], False, arguments)

        return OwnWait(
            self._shortcut,
            plain,
            self.turn,
            operate=operate,
            is_worn=self._is_too_large,
            reply=self._reply,
        )

    def _operate_batch(
        self, slot: int, number: int, job: int, wants_traceback: bool, payload: bytes
    ) -> BaseException | None:
        """Run a batch, and send the node the end of each of its calls, and its own."""
        begun = time.perf_counter()
        batch = BatchRun(self.initargs[0], payload, self.events[slot])
        if self._slots is None:
            try:
                ended = batch.run()
            except SoftTimeLimitExceeded as error:  # just before or after the function ran
                ended = too_late(error)
        else:
            ended = self._slots.run(slot, number, batch.run)
        self.turn.end(slot)  # no soft limit is for what follows
        if ended.leave is not None:
            batch.finish(ended.raised)
        else:
            ended = self._tell_of(batch, job, wants_traceback) or ended
        batch.forget()
        seconds = time.perf_counter() - begun
        self._reply(DONE, (number, ended.ending, None, seconds, False))
        self.turn.told(slot)
        if self._slots is not None:
            self._slots.give_back(slot)
        return ended.leave

    def _tell_of(self, batch: BatchRun, job: int, wants_traceback: bool) -> Run | None:
        """Run each call with what was made of it; return the end of one that ends the process."""
        keeper = self._keeper
        for place, arguments in enumerate(batch.calls):
            if keeper is not None:
                keeper.keep(arguments[1])
            ended = self._runner.run(batch, wants_traceback, arguments)
            batch.finish(ended.raised)
            stored = None if keeper is None else keeper.release(arguments[1])
            self._reply(PART, (job, place, ended.ending, stored and tuple(stored)))
            if ended.leave is not None:
                return ended
        return None

    def _reply(self, kind: int, arguments: tuple[Any, ...]) -> None:
        """Send a message to the node, in one write."""
        with self._pipe:
            self._write((kind, arguments))

    def _write(self, message: tuple[int, tuple[Any, ...]]) -> None:
        """Write a message, of plain data only: the node makes nothing else of it."""
        payload = marshal.dumps(message)
        rest = memoryview(len(payload).to_bytes(4, "big") + payload)
        while rest:
            rest = rest[os.write(self._outq_fd, rest) :]
