"""Permission to wait for another operation's result: each operation has its own.

An operation that waits for another one may wait for itself. So Celery refuses it, except within
``allow_join_result()``. Celery keeps that permission in one variable of the process: where
several operations run at once, the end of one's permission takes the others' away.
"""

from __future__ import annotations

from contextvars import ContextVar

from celery import result

_is_refused: ContextVar[bool] = ContextVar("_is_refused", default=True)


def separate() -> None:
    """Give each thread and each coroutine of this process, a worker, a permission of its own."""
    result.task_join_will_block = _is_refused.get
    result._set_task_join_will_block = _is_refused.set  # noqa: SLF001  Celery's
