"""Permission to wait for another operation's result: each operation has its own.

An operation that waits for another one may wait for itself. So Celery refuses it, except within
``allow_join_result()``. Celery keeps that permission in one variable of the process: where
several operations run at once, the end of one's permission takes the others' away.
"""

from __future__ import annotations

from contextvars import ContextVar

from celery import _state, result

_is_refused: ContextVar[bool | None] = ContextVar("_is_refused", default=None)
"""The word of ``allow_join_result()`` here; None: it has said nothing, so the process decides."""


def separate() -> None:
    """Give each thread and each coroutine of this process, a worker, a permission of its own."""
    result.task_join_will_block = _refuses
    result._set_task_join_will_block = _refuse  # noqa: SLF001  Celery's


def _refuses() -> bool:
    its = _is_refused.get()
    return bool(_state.task_join_will_block()) if its is None else its


def _refuse(refused: bool) -> None:
    _is_refused.set(None if refused == _state.task_join_will_block() else refused)
