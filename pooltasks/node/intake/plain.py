"""Plain operations: those that a worker may begin without its node.

A node looks at each message: it may not be due, be revoked, come from a node that died, have
limits. A worker that reserves for itself begins only what has nothing of that, and hands all
else to its node.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery.app import trace
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from celery.worker.request import Request

from pooltasks import keys
from pooltasks.broker.serialization import is_decoded_by_kombu
from pooltasks.broker.uniqueness import HEADER
from pooltasks.broker.validation import body_of, read_operation
from pooltasks.node.intake.checks import check_arguments, check_body
from pooltasks.node.intake.message import TYPED
from pooltasks.node.intake.request import OperationRequest
from pooltasks.node.intake.request_class import refusal
from pooltasks.task import Operation
from pooltasks.time_limits import seconds_left, time_limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

celerys_logger = get_logger("celery.worker.strategy")

_SHORTEST_LIMIT = 1.0
"""Seconds of the shortest time limit of which a node learns in time."""
_PARTS = {"body", "content-type", "content-encoding", "headers", "properties"}
"""The parts of a message as its producer sent it: what scripts and nodes note stands beside."""
_SPECIAL = (
    *("deliveries", "redelivered", "interrupted", "suspect", "attempts"),
    *("eta", "expires", HEADER),
)
"""Headers of messages that are the node's."""


class PlainOperations:
    """Reads the messages that a worker has reserved.

    Args:
        app: The application.
        pool: The pool.
        hostname: The node's name.
        limit: The pool's limit for operations, in seconds; None: it has none.
    """

    def __init__(self, app: Celery, pool: str, hostname: str, limit: float | None) -> None:
        self._app: Any = app
        self._queue = keys.queue(pool)
        self._hostname = hostname
        self._limit = limit
        self._decodes = is_decoded_by_kombu()
        self._tasks: dict[str, Any] = {}
        """The tasks whose operations may be plain, and None for each other name."""

    def read(self, raw: bytes, reservation: str) -> tuple[Any, ...] | None:
        """Return the arguments of Celery's tracer for an operation; None if it is the node's.

        Args:
            raw: The message.
            reservation: Its reservation.
        """
        try:
            payload = read_operation(raw, None, self._queue)
            if not payload.keys() <= _PARTS:
                return None
            return self._arguments(payload, reservation)
        except Exception:  # noqa: BLE001  its node says what is wrong, and to whom
            return None

    def _arguments(self, payload: dict[str, Any], reservation: str) -> tuple[Any, ...] | None:
        headers, properties = payload["headers"], payload["properties"]
        if any(headers.get(name) is not None for name in _SPECIAL):
            return None
        task = self._task(headers["task"])
        if task is None or not self._has_time(task, headers):
            return None
        body = body_of(payload)
        text = body.decode()
        content = json.loads(text)
        check_body(content)
        args, kwargs, _ = content
        check_arguments(task, headers["task"], args, kwargs)
        properties["delivery_tag"] = reservation
        its = {"exchange": "", "routing_key": self._queue, "redelivered": False}
        properties["delivery_info"] = its
        headers.update(
            properties=properties,
            reply_to=properties.get("reply_to"),
            correlation_id=properties.get("correlation_id"),
            hostname=self._hostname,
            delivery_info={**its, "priority": properties.get("priority")},
        )
        self._log(headers)
        if self._decodes and TYPED not in text:  # Celery need not decode it once more
            return headers["task"], headers["id"], headers, tuple(content), None, None
        kind, encoded = payload.get("content-type"), payload.get("content-encoding")
        return headers["task"], headers["id"], headers, body, kind, encoded

    def _task(self, name: str) -> Any:
        if name not in self._tasks:
            task = self._app.tasks.get(name)
            self._tasks[name] = task if task is not None and _may_be_plain(task) else None
        return self._tasks[name]

    def _has_time(self, task: Any, headers: Mapping[str, Any]) -> bool:
        """Return whether no limit of an operation is so short that its node has to know at once."""
        hard, soft = headers.get("timelimit") or (None, None)
        if isinstance(task, Operation):
            left = seconds_left(headers, self._app.pooltasks.clock.now)
            hard, soft = time_limits((hard, soft), task, self._limit, left)
        else:  # a plain Celery task has Celery's limits
            hard, soft = hard or task.time_limit, soft or task.soft_time_limit
        return all(limit is None or limit >= _SHORTEST_LIMIT for limit in (hard, soft))

    @staticmethod
    def _log(headers: Mapping[str, Any]) -> None:
        """Say that it was received, as Celery does in the node."""
        if not celerys_logger.isEnabledFor(20):
            return
        context = {
            "id": headers["id"],
            "name": headers.get("shadow") or headers["task"],
            "args": headers.get("argsrepr", ""),
            "kwargs": headers.get("kwargsrepr", ""),
            "eta": None,
        }
        celerys_logger.info(trace.LOG_RECEIVED, context, extra={"data": context})


def _may_be_plain(task: Any) -> bool:
    """Return whether a task's operations need nothing of their node before they begin."""
    named = symbol_by_name(task.Request)
    return (
        refusal(task) is None
        and (named in (Request, OperationRequest) or vars(named).get("is_plain") is True)
        and task.acks_late
        and task.reject_on_worker_lost
        and task.rate_limit is None
        and getattr(task, "batching", None) is None
    )
