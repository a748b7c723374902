"""A batch in a worker: the function runs once, and then each call gets what was made of it."""

from __future__ import annotations

import marshal
import time
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from billiard.exceptions import SoftTimeLimitExceeded
from celery.app.task import Context
from kombu.serialization import loads, prepare_accept_content

from pooltasks.batching import Part, parts
from pooltasks.errors import CheckoutTimeout, DeadlineExceeded
from pooltasks.node.worker.outcome import Ending, How, Run, words

if TYPE_CHECKING:
    from celery import Celery

    from pooltasks.node.worker.events import OperationEvents


class BatchRun:
    """One run for many calls; also their telemetry, in the place of ``OperationEvents``.

    Args:
        app: The application.
        payload: What the node has sent: for each call the arguments of Celery's tracer.
        events: Tells of the operations of the slot that it runs in.
    """

    def __init__(self, app: Celery, payload: bytes, events: OperationEvents) -> None:
        self.calls: list[tuple[Any, ...]] = [
            marshal.loads(each)  # noqa: S302  our own node's
            for each in marshal.loads(payload)  # noqa: S302
        ]
        self._events = events
        self._clock = app.pooltasks.clock
        self._accept = prepare_accept_content(app.conf.accept_content)
        name, self._first, headers, *_ = self.calls[0]
        self._task = app.tasks[name]
        self._began = time.monotonic()
        events.start(name, headers)

    def run(self) -> Run:
        """Run the function for those calls that come in time; a soft limit may strike here."""
        now, calls = self._clock.now(), {}
        for _, identifier, headers, *body in self.calls:
            # Until it is known what was made of it: a limit may strike anywhere.
            part = parts[identifier] = Part(now, SoftTimeLimitExceeded())
            try:
                self._task.check_in_time(Context(headers), now)
                args, kwargs, _ = loads(*body, accept=self._accept)
                calls[identifier] = self._task.batching.bound((args, kwargs))
            except (CheckoutTimeout, DeadlineExceeded):
                pass  # it is told so when it is run
            except TypeError as error:
                part.outcome = error
        return self._run(now, calls) if calls else _ENDED

    def _run(self, now: float, calls: dict[str, Any]) -> Run:
        begun, ended, traceback = time.perf_counter(), _ENDED, None
        outcomes: Any
        try:
            outcomes = self._task.batching.run(self._task, list(calls.values()))
        except BaseException as error:  # a result, whatever it is, but for the end of this process
            if terminate_handler_fired():
                raise
            if isinstance(error, SystemExit | KeyboardInterrupt):
                ended = Run(Ending(How.LEFT, text=words(error)).plain(), error, error)
            outcomes, traceback = [error] * len(calls), error.__traceback__
        seconds = time.perf_counter() - begun
        for identifier, its in zip(calls, outcomes, strict=True):
            parts[identifier] = Part(now, its, traceback, seconds, seconds / len(calls))
        return ended

    def start(self, name: str, headers: dict[str, Any]) -> None:
        """Tell that a call starts; the first did so for all of them."""
        if headers["id"] != self._first:
            self._events.start(name, headers, self._began)

    def finish(self, raised: BaseException | None) -> None:
        """Tell that a call has ended, or all of them at once."""
        self._events.finish(raised)

    def forget(self) -> None:
        """Forget what was made of calls whose ends were not told."""
        for _, identifier, *_ in self.calls:
            parts.pop(identifier, None)


_ENDED = Run(Ending().plain())
