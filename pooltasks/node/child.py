"""The worker process: Celery's pool process, which warms up before it takes work."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING, Any

from celery import platforms, signals
from celery.concurrency.asynpool import Worker

from pooltasks.node.events import OperationEvents
from pooltasks.node.warmup import WorkerReport, run_commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.node.scoreboard import Row
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
        row: Its row of the scoreboard.
        **kwargs: As billiard's.
    """

    def __init__(self, *args: Any, plan: Plan, index: int, row: Row, **kwargs: Any) -> None:
        self.plan = plan
        self.index = index
        self.row = row
        self._node_pid = os.getpid()
        self._warm = False
        self._waiting = False
        self._asked_again = False
        super().__init__(*args, **kwargs)

    def after_fork(self) -> None:
        """Initialise the process; the warm-up is the last receiver of its signal."""
        die_with(self._node_pid)
        self.row.attach()
        OperationEvents(self.plan.pool, self.initargs[0].pooltasks.clock).connect()
        if not self.plan.settings.lazy:
            signals.worker_process_init.connect(
                self._warm_up_first, weak=False, dispatch_uid="pooltasks.warm-up"
            )
        super().after_fork()
        signal.signal(REWARM_SIGNAL, self._on_rewarm_signal)

    def _warm_up_first(self, **_: Any) -> None:
        # A signal's receivers may not raise, except by leaving the process.
        if not self._warm_up():
            raise SystemExit(EX_WARM_UP_FAILED)

    def _warm_up(self) -> bool:
        """Run the pool's commands and tell the node; return whether all succeeded."""
        with self.plan.permits.one(self.index):
            self.outq.put((WARMING, (os.getpid(),)))
            report: WorkerReport = run_commands(
                self.initargs[0], self.plan.settings.warmup.commands
            )
        if report.error is None:
            self._warm = True
            # What the warm-up made stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
        self.outq.put((WARMED, (report,)))
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
