"""The telemetry of a worker: Celery's signals around an operation, as pooltasks' events.

One receiver before and one after an operation: the second gets from Celery what
``task_failure`` and ``task_retry`` would tell it.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from celery import signals, states
from celery.exceptions import Ignore, Reject, Retry

from pooltasks import telemetry
from pooltasks.errors import categorize
from pooltasks.task import Operation, taken, waited
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.broker.clock import ServerClock

_OUTCOMES: Mapping[str | None, Outcome] = {
    states.SUCCESS: Outcome.SUCCESS,
    states.FAILURE: Outcome.FAILURE,
    states.RETRY: Outcome.RETRY,
    states.IGNORED: Outcome.IGNORED,
    states.REJECTED: Outcome.REJECTED,
}


class OperationEvents:
    """Emits the events of the operations of one worker, which runs one at a time."""

    def __init__(self, pool: str, clock: ServerClock) -> None:
        self.pool = pool
        self._clock = clock
        self.worker = os.getpid()
        self._started = 0.0
        self._wait: float | None = None
        self._request: Any = None
        self._metadata: dict[str, Any] = {}

    def connect(self) -> None:
        """Listen to Celery's signals in this process from now on."""
        signals.task_prerun.connect(self.on_prerun, weak=False, dispatch_uid="pooltasks.prerun")
        signals.task_postrun.connect(self.on_postrun, weak=False, dispatch_uid="pooltasks.postrun")

    def on_prerun(self, task_id: str, task: Any, **_: Any) -> None:
        """Emit ``worker.checkout`` and ``operation.start``."""
        request = task.request
        if request.is_eager:  # called by an operation, and a part of it
            return
        self._request = request
        self._started = time.perf_counter()
        redelivered = bool((request.delivery_info or {}).get("redelivered"))
        # What comes back from a dead worker or node had its wait before.
        self._wait = None if redelivered else waited(request, self._clock.now())
        metadata = self._metadata = {
            "pool": self.pool,
            "operation": task.name,
            "id": task_id,
            "worker": self.worker,
            "retries": request.retries,
            "redelivered": redelivered,
        }
        measurements = {"wait": self._wait}
        telemetry.execute("worker.checkout", measurements, metadata)
        telemetry.execute("operation.start", measurements, metadata)

    def on_postrun(self, task_id: str, task: Any, retval: Any, state: str | None, **_: Any) -> None:
        """Emit ``operation.stop`` or ``operation.exception``, and ``worker.checkin``."""
        request = self._request
        if request is None or request.id != task_id:  # one that an operation called
            return
        # Set while an error passes Celery's tracer: the operation ends the
        # process, or its result could not be stored.
        passing = sys.exception()
        if passing is not None and terminate_handler_fired():
            return  # the worker is being ended; the node counts the operation as lost
        self._request = None
        outcome, error = _outcome(state, retval, passing)
        busy = time.perf_counter() - self._started
        run = getattr(request, "run_seconds", None)
        if run is None and not isinstance(task, Operation):
            run = busy  # a plain Celery task is not timed from inside
        category = None if error is None else categorize(error)
        # What is run again has no result yet.
        latency = None if outcome is Outcome.RETRY else taken(request, self._clock.now())
        measurements = {"wait": self._wait, "run": run, "busy": busy, "latency": latency}
        metadata = {**self._metadata, "outcome": outcome, "category": category, "exception": error}
        if error is None:
            telemetry.execute("operation.stop", measurements, metadata)
        else:
            telemetry.execute("operation.exception", measurements, metadata)
            telemetry.execute("error", {"count": 1}, metadata)
        telemetry.execute("worker.checkin", measurements, metadata)


def _outcome(
    state: str | None, retval: Any, passing: BaseException | None
) -> tuple[Outcome, BaseException | None]:
    """Return the outcome and, of a failure or retry, the error."""
    if isinstance(passing, Reject):
        return Outcome.REJECTED, None
    if isinstance(passing, Ignore):
        return Outcome.IGNORED, None
    if passing is not None:
        return Outcome.FAILURE, passing
    outcome = _OUTCOMES.get(state, Outcome.FAILURE)
    if outcome is Outcome.RETRY and isinstance(retval, Retry):
        # An operation may ask for a retry without an error.
        return outcome, retval.exc if isinstance(retval.exc, BaseException) else retval
    if outcome in (Outcome.FAILURE, Outcome.RETRY):
        return outcome, retval if isinstance(retval, BaseException) else None
    return outcome, None
