"""Failures that a node finds: a worker tells their callers and callbacks.

A message names code that is to run when its operation fails: errbacks, the rest
of its chord. So does the application: ``Task.on_failure``, receivers of
``task_failure``. None of that runs in the node. The node says what happened in a
:class:`Failure`, and has a worker run :func:`report_failure` like an operation.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.einfo import ExceptionInfo
from celery import signals
from celery.app.task import Context
from celery.app.trace import task_has_custom
from celery.exceptions import (
    NotRegistered,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.states import FAILURE, REVOKED
from kombu.utils.json import loads

from pooltasks.errors import MessageRefusedError, PoisonedError

if TYPE_CHECKING:
    from celery import Celery

_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (
        MessageRefusedError,
        NotRegistered,
        PoisonedError,
        TaskRevokedError,
        TimeLimitExceeded,
        TypeError,
        WorkerLostError,
    )
}


class Failure(NamedTuple):
    """A failure of an operation that its node found."""

    error: str
    """Name of the error's class: one of those that the node itself finds."""
    argument: Any
    """The error's only argument: text or a number."""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return a failure that is this error."""
        return cls(type(error).__name__, *error.args)

    def exception(self) -> Exception:
        """Return the error."""
        return _ERRORS[self.error](self.argument)

    @property
    def state(self) -> str:
        """Celery's state of the operation."""
        is_revoked = self.error == TaskRevokedError.__name__
        return str(REVOKED if is_revoked else FAILURE)


def reported(failure: Failure, headers: dict[str, Any], body: Any) -> bytes:
    """Return the message with which a worker calls :func:`report_failure`.

    Raises:
        ValueError: The headers are no plain data.
    """
    return marshal.dumps((headers["task"], headers["id"], headers, body, tuple(failure)))


def report_failure(  # noqa: PLR0917  what a node writes, as of an operation
    app: Celery,
    name: str,  # noqa: ARG001
    identifier: str,  # noqa: ARG001
    headers: dict[str, Any],
    body: Any,
    failed: tuple[str, Any],
) -> None:
    """Tell of a failure, in a worker: its caller, its chord, its errbacks, the application.

    Args:
        app: The application.
        name: Of the operation.
        identifier: The operation's id.
        headers: Of the message, and what Celery adds to them.
        body: Of the message.
        failed: A plain :class:`Failure`.

    Raises:
        BaseException: Any error of the code that the message names.
    """
    failure = Failure(*failed)
    args, kwargs, embed = loads(body) if isinstance(body, str | bytes) else body
    context = Context({**headers, **(embed or {}), "args": args, "kwargs": kwargs})
    tell(app, context, failure.exception(), failure.state)


def tell(app: Celery, context: Context, error: BaseException, state: str = FAILURE) -> None:
    """Tell of the failure ``error`` as Celery does in a node.

    Args:
        app: The application.
        context: The operation's request.
        error: The failure.
        state: Celery's.
    """
    task: Any = app.tasks.get(context.task)
    backend = app.backend if task is None else task.backend
    ignores = context.ignore_result
    if ignores is None:
        ignores = task is not None and task.ignore_result
    stores = not ignores or (task is not None and task.store_errors_even_if_ignored)
    if state == REVOKED:
        backend.mark_as_revoked(context.id, str(error), request=context, store_result=stores)
        return
    try:
        raise error
    except type(error):
        info = ExceptionInfo()
    if task is None:
        backend.mark_as_failure(context.id, error, request=context, store_result=stores)
        return
    task.request_stack.push(context)
    try:
        backend.mark_as_failure(context.id, error, request=context, store_result=stores)
        if isinstance(error, TimeLimitExceeded):
            task.on_failure(error, context.id, context.args, context.kwargs, info)
            if task_has_custom(task, "after_return"):
                task.after_return(state, error, context.id, context.args, context.kwargs, None)
        signals.task_failure.send(
            sender=task,
            task_id=context.id,
            exception=error,
            args=context.args,
            kwargs=context.kwargs,
            traceback=error.__traceback__,
            einfo=info,
        )
    finally:
        task.request_stack.pop()
