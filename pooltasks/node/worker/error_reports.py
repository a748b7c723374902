"""A worker's report of an error, so that somebody can mend it: plain data for its node.

A full example of each kind of error travels only now and then; the other reports
are a few words. An operation that succeeds costs nothing of this.
"""

from __future__ import annotations

import os
import sysconfig
import time
from collections import defaultdict
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.exceptions import Ignore, Reject, Retry
from celery.utils.serialization import UnpickleableExceptionWrapper
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import loads, prepare_accept_content

from pooltasks.broker.dead_letters import attempts_of
from pooltasks.broker.protection import HIDDEN, hides_arguments
from pooltasks.errors import Category, categorize
from pooltasks.metrics.error_groups import Head
from pooltasks.metrics.error_text import folded, masked, told_arguments
from pooltasks.metrics.message_text import masked_attempts
from pooltasks.node.worker.outcome import words
from pooltasks.task import clocked

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from celery import Celery

ERRED = 69
"""Message to the node: an operation raised an error (report)."""

_AGAIN = 10.0
"""Seconds after which another example of a kind of error is told."""
_MOST_MESSAGES = 8
"""Different messages of the same error in the same place that a worker tells apart."""
_MOST_PLACES = 256
_MANY_MESSAGES = "(many different messages)"
_TRACEBACK = 8000
"""Characters."""
_OWN = str(Path(__file__).parents[2])
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_MACHINERY = ("celery", "kombu", "billiard")


class ErrorReport(NamedTuple):
    """One error of an operation."""

    head: Head
    is_final: bool
    """Whether the operation failed with it; else it runs again."""
    example: tuple[Any, ...] | None = None
    """Operation's id, arguments, traceback, earlier attempts, number of the attempt, process."""

    def plain(self) -> tuple[Any, ...]:
        """Return it as ``marshal`` writes it."""
        return (tuple(self.head), self.is_final, self.example)

    @classmethod
    def of(cls, head: Any, is_final: bool, example: Any) -> ErrorReport:
        """Return the report that is this plain data."""
        return cls(Head(*head), is_final, example)


class ErrorReporter:
    """Makes the reports of one worker.

    Args:
        app: The application.
        tell: Sends a plain report to the node.
    """

    def __init__(self, app: Celery, tell: Callable[[tuple[Any, ...]], None]) -> None:
        self._app = app
        self._tell = tell
        self._told: dict[str, float] = {}
        self._messages: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)

    def tell(
        self, raised: BaseException, operation: tuple[Any, ...], traceback: str | None
    ) -> None:
        """Tell the node what an operation raised, unless that is no error.

        The node itself tells of an error that makes its worker leave.

        Args:
            raised: The error that the operation raised.
            operation: The operation as Celery's tracer has it: name, id, headers, body, and the
                type and the encoding of the body; None where it is decoded.
            traceback: As text, if it was made already.
        """
        is_put_back = isinstance(raised, Reject) and raised.requeue
        if is_put_back or isinstance(raised, Ignore | SystemExit | KeyboardInterrupt):
            return
        self._tell(self._report(raised, operation, traceback).plain())

    def _report(
        self, raised: BaseException, operation: tuple[Any, ...], traceback: str | None
    ) -> ErrorReport:
        name, identifier, headers, *body = operation
        error, is_final = raised, True
        if isinstance(raised, Retry):
            is_final = False
            if isinstance(raised.exc, BaseException):
                error, traceback = raised.exc, None
        head = self._head(name, error)
        now = time.monotonic()
        if now - self._told.get(head.group, -_AGAIN) < _AGAIN:
            return ErrorReport(head, is_final)
        if len(self._told) >= _MOST_PLACES:
            self._told.clear()
        self._told[head.group] = now
        example = (
            identifier,
            self._arguments(name, body),
            masked(_end(traceback or _formatted(error))),
            [dict(attempt) for attempt in masked_attempts(attempts_of(headers))],
            _number(headers.get("retries")) + 1,
            os.getpid(),
        )
        return ErrorReport(head, is_final, example)

    def _head(self, operation: str, error: BaseException) -> Head:
        cls, place = _class_of(error), place_of(error.__traceback__)
        message = folded(_message(error.reason if isinstance(error, Reject) else error))
        known = self._messages[operation, cls, place]
        if message not in known:
            if len(known) >= _MOST_MESSAGES:
                message = _MANY_MESSAGES
            elif len(self._messages) > _MOST_PLACES:
                self._messages.clear()
            else:
                known.add(message)
        category = Category.CLIENT if clocked.blames_caller else categorize(error)
        said = words(error)
        if isinstance(error, Reject):
            said = f"rejected by the operation: {error.reason}"
        return Head(operation, cls, message, place, str(category), folded(said))

    def _arguments(self, name: str, body: list[Any]) -> str | None:
        if hides_arguments(self._app):
            return HIDDEN
        content, kind, encoding = body
        try:
            if kind is not None:  # else it is decoded
                accepted = prepare_accept_content(self._app.conf.accept_content)
                content = loads(content, kind, encoding, accept=accepted)
            args, kwargs, _ = content
        except (ContentDisallowed, DecodeError, TypeError, ValueError):
            return None  # its sender wrote it in another way
        return told_arguments(self._app.tasks[name].run, args, kwargs)


def place_of(trace: TracebackType | None) -> str:
    """Return file, line and function where the application's own code raised.

    Where only libraries are in the traceback it is the last of them that is neither
    Celery nor pooltasks; empty without a traceback.
    """
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append((code.co_filename, trace.tb_lineno, code.co_qualname))
        trace = trace.tb_next
    for is_its in (_is_own, _is_no_machinery, bool):
        its = [frame for frame in frames if is_its(frame[0])]
        if its:
            filename, line, function = its[-1]
            return f"{filename}, line {line} in {function}"
    return ""


def _is_own(filename: str) -> bool:
    return (
        not filename.startswith("<")
        and not filename.startswith((*_LIBRARIES, _OWN))
        and "-packages" not in filename
    )


def _is_no_machinery(filename: str) -> bool:
    parts = Path(filename).parts
    return not filename.startswith(("<", _OWN)) and not any(name in parts for name in _MACHINERY)


def _class_of(error: BaseException) -> str:
    if isinstance(error, UnpickleableExceptionWrapper):
        return f"{error.exc_module}.{error.exc_cls_name}"
    cls = type(error)
    is_pythons = cls.__module__ == "builtins"
    return cls.__qualname__ if is_pythons else f"{cls.__module__}.{cls.__qualname__}"


def _message(error: object) -> str:
    try:
        return str.__str__(str(error))
    except Exception as failure:  # noqa: BLE001  it is the application's code
        return f"<its text raises {type(failure).__name__}>"


def _formatted(error: BaseException) -> str:
    try:
        return "".join(format_exception(error))
    except Exception as failure:  # noqa: BLE001  it is the application's code
        return f"<its traceback raises {type(failure).__name__}>"


def _end(text: str) -> str:
    """Return the end of a traceback: that is where it was raised."""
    return text if len(text) <= _TRACEBACK else f"…\n{text[-_TRACEBACK:]}"


def _number(retries: Any) -> int:
    return retries if isinstance(retries, int) and retries > 0 else 0
