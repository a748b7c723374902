"""The runner: has Celery run an operation in a worker, and says how it ended in plain data."""

from __future__ import annotations

from traceback import format_exception
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from celery.app.task import Context
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.exceptions import Reject
from celery.utils.log import get_logger

from pooltasks.node.intake.failures import report_failure, tell
from pooltasks.node.worker.error_reports import ErrorReporter
from pooltasks.node.worker.outcome import UNTOLD, Ending, Fate, How, Run, ending_of, error_of, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.node.worker.batch_run import BatchRun
    from pooltasks.node.worker.events import OperationEvents

logger = get_logger(__name__)

_SUCCEEDED, _ACKNOWLEDGE = int(How.SUCCEEDED), int(Fate.ACKNOWLEDGE)


class Runner:
    """Runs operations, and tells of failures, in this process.

    Args:
        app: The application.
        report: Takes what there is to be told of an error.
    """

    def __init__(self, app: Celery, report: Callable[..., None]) -> None:
        self._app: Any = app
        self._trace = fast_trace_task if self._app.use_fast_trace_task else trace_task_ret
        self._errors = ErrorReporter(app, report)

    def run(
        self,
        events: OperationEvents | BatchRun | None,
        wants_traceback: bool,
        arguments: tuple[Any, ...],
    ) -> Run:
        """Run an operation; without ``events``, tell of a failure that the node found.

        Args:
            events: Hears that it starts.
            wants_traceback: Whether the node wants to know the traceback of an error.
            arguments: Of Celery's tracer.
        """
        if events is None:
            return self.report(*arguments)
        name, _, headers, *_ = arguments
        try:
            events.start(name, headers)
            has_failed, value, seconds = self._trace(*arguments)
        except BaseException as error:  # a result, whatever it is, but for the end of this process
            if terminate_handler_fired():
                raise
            self._errors.tell(error, arguments, None)
            return self._ended(name, headers, error, wants_traceback, is_told=False)
        if not has_failed:
            text = str.__str__(value) if wants_traceback else None
            return Run((_SUCCEEDED, _ACKNOWLEDGE, text, None, None, None, True, seconds))
        raised = error_of(value)
        self._errors.tell(raised, arguments, value.traceback)
        traceback = value.traceback if wants_traceback else None
        # Celery leaves it to the node to tell of what is rejected for good.
        is_told = not isinstance(raised, Reject) or bool(raised.requeue)
        return self._ended(name, headers, raised, traceback, is_told=is_told)

    def _ended(
        self,
        name: str,
        headers: dict[str, Any],
        error: BaseException,
        traceback: str | bool | None,
        *,
        is_told: bool,
    ) -> Run:
        """Return how an operation ended that raised ``error``; tell whoever is to hear of it."""
        app = self._app
        if traceback is True:
            traceback = "".join(format_exception(error))
        ending = ending_of(
            error,
            app.tasks[name],
            headers,
            now=app.pooltasks.clock.now(),
            traceback=str.__str__(traceback) if traceback else None,
        )
        leave = error if ending.how == How.LEFT else None
        if not is_told and leave is None and ending.fate != Fate.GIVE_BACK:
            try:
                tell(app, Context(headers), error)
            except BaseException as failure:  # of an errback, or of whatever the message names
                if terminate_handler_fired():
                    raise
                logger.exception("nobody can be told that %s failed", name)
                ending = ending._replace(is_told=False)
                leave = failure if isinstance(failure, SystemExit | KeyboardInterrupt) else None
        return Run(ending.plain(), error, leave)

    def report(self, *arguments: Any) -> Run:
        """Tell of a failure that the node found."""
        try:
            report_failure(self._app, *arguments)
        except BaseException as error:  # of an errback, or of whatever the message names
            if terminate_handler_fired():
                raise
            leave = error if isinstance(error, SystemExit | KeyboardInterrupt) else None
            return Run(UNTOLD._replace(text=words(error)).plain(), error, leave)
        return Run(Ending().plain())
