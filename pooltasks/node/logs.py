"""Logs as JSON: one object a line, with the pool, node, worker and operation that it is about."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any

from celery import signals
from celery._state import get_current_task

_OF_LOGGING = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}
_OF_CELERY = {"data", "task_id", "task_name"}


def log_as_json(pool: str, node: str) -> None:
    """Have Celery log as JSON in this process, a node, and in the workers that it forks."""
    formatter = JsonFormatter(pool, node)

    def format_as_json(logger: logging.Logger, **_: Any) -> None:
        for handler in logger.handlers:
            handler.setFormatter(formatter)

    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(format_as_json, weak=False, dispatch_uid="pooltasks.logs")


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object.

    Always there: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``,
    ``pool``, ``node``. Where it applies: ``worker`` (process id), ``operation``
    (its name) and ``id``, ``exception`` and ``stack`` (text), and the fields that
    the record was given as ``extra``, such as the trace of OpenTelemetry.

    Args:
        pool: The pool that this process serves.
        node: The node's name.
    """

    def __init__(self, pool: str, node: str) -> None:
        super().__init__()
        self._place = {"pool": pool, "node": node}
        self._node_pid = os.getpid()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._place,
        }
        if os.getpid() != self._node_pid:
            line["worker"] = os.getpid()
        line |= _operation_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        for name, value in record.__dict__.items():
            if name not in _OF_LOGGING and name not in _OF_CELERY:
                line.setdefault(name, value)
        return json.dumps(line, default=repr, skipkeys=True)


def _operation_of(record: logging.LogRecord) -> dict[str, str]:
    """Return the operation that runs, or the one that Celery writes about."""
    task = get_current_task()
    if task and task.request.id:
        return {"operation": task.name, "id": task.request.id}
    about = getattr(record, "data", None)
    if isinstance(about, dict) and "id" in about and "name" in about:
        return {"operation": about["name"], "id": about["id"]}
    return {}
