"""The telemetry of a worker: what becomes of an operation, in its row and as pooltasks' events.

A worker tells of an operation just before and just after it has Celery run it.
Celery's signals would say the same in ten times the time: sending two of them
costs an operation that does nothing 3 % of its throughput, with empty receivers.
For the same reason the row is written directly, and events are made up only
where somebody listens.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from pooltasks import telemetry
from pooltasks.ages import taken, waited
from pooltasks.errors import Category, categorize
from pooltasks.node.scoreboard.notes import ended
from pooltasks.node.worker.outcome import outcome_of
from pooltasks.task import Operation, clocked
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.app import PoolApp
    from pooltasks.node.scoreboard.row import Row

# To look up a member takes ten times as long.
_SUCCESS, _RETRY, _FAILURE = Outcome.SUCCESS, Outcome.RETRY, Outcome.FAILURE
_CLIENT_ERROR = Outcome.CLIENT_ERROR
_SUCCEEDED = ended(Outcome.SUCCESS)
_AT_START = ("worker.checkout", "operation.start")
_AT_END = ("operation.stop", "operation.exception", "error", "worker.checkin")


class OperationEvents:
    """Tells of the operations of one worker, which runs one at a time.

    Args:
        app: The application.
        pool: The pool that the worker serves.
        row: The worker's.
    """

    def __init__(self, app: PoolApp, pool: str, row: Row) -> None:
        self.pool = pool
        self._app = app
        self._server_time = app.pooltasks.clock.at
        self._row = row
        self.worker = os.getpid()
        self._operation = ""
        self._request: dict[str, Any] = {}
        self._wait: float | None = None
        self._has_run = False

    def start(self, operation: str, request: dict[str, Any], since: float | None = None) -> None:
        """Note that an operation starts: ``worker.checkout``, ``operation.start``.

        Args:
            operation: Its name.
            request: The fields of its message, as Celery's tracer gets them.
            since: When the batch began that has run it already, in monotonic seconds.
        """
        self._operation, self._request, self._wait = operation, request, None
        self._has_run = since is not None
        clocked.run, clocked.blames_caller = None, False
        now = time.monotonic()
        # An operation that comes back from a dead worker or node had its wait before.
        wait = None
        if not _redelivered(request):
            wait = waited(request, self._server_time(now if since is None else since))
        self._row.start(operation, wait, now)
        self._wait = wait  # of an operation that has begun
        if telemetry.has_listener(_AT_START):
            measurements = {"wait": wait}
            metadata = self._metadata()
            telemetry.execute("worker.checkout", measurements, metadata)
            telemetry.execute("operation.start", measurements, metadata)

    def finish(self, raised: BaseException | None) -> None:
        """Note that it ended: ``operation.stop`` or ``.exception``, ``error``, ``worker.checkin``.

        Args:
            raised: The error that it raised, None if it returned.
        """
        now = time.monotonic()
        request, run = self._request, clocked.run
        outcome, error, category, end = _SUCCESS, None, None, _SUCCEEDED
        if raised is not None:
            outcome, error = outcome_of(raised)
            category = None if error is None else categorize(error)
            if clocked.blames_caller:
                category = Category.CLIENT
                outcome = _CLIENT_ERROR if outcome is _FAILURE else outcome
            end = ended(outcome, category)
        busy = now - self._row.started
        if outcome is _RETRY:
            latency = None  # what is run again has no result yet
        elif self._wait is None or self._has_run or "submitted_at" in request:
            latency = taken(request, self._server_time(now))
        else:
            latency = self._wait + busy
        if run is None and not isinstance(self._app.tasks.get(self._operation), Operation):
            run = busy  # not timed from inside
        self._row.finish(self._operation, end, run, latency, now)
        if telemetry.has_listener(_AT_END):
            self._tell(
                {"wait": self._wait, "run": run, "busy": busy, "latency": latency},
                {**self._metadata(), "outcome": outcome, "category": category, "exception": error},
            )

    @staticmethod
    def _tell(measurements: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        if metadata["exception"] is None:
            telemetry.execute("operation.stop", measurements, metadata)
        else:
            telemetry.execute("operation.exception", measurements, metadata)
            telemetry.execute("error", {"count": 1}, metadata)
        telemetry.execute("worker.checkin", measurements, metadata)

    def _metadata(self) -> dict[str, Any]:
        request = self._request
        return {
            "pool": self.pool,
            "operation": self._operation,
            "id": request["id"],
            "worker": self.worker,
            "retries": request.get("retries", 0),
            "redelivered": _redelivered(request),
        }


def _redelivered(request: Mapping[str, Any]) -> bool:
    delivery = request.get("delivery_info")
    return bool(delivery and delivery.get("redelivered"))
