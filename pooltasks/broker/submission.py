"""Submitting many operations: in chunks, each accepted as a whole, once, or not at all.

A chunk is one script call. It carries its number within a lane (``lanes.py``) and the
server notes the last number it accepted, so a chunk whose answer was lost is
sent again without fear: it is pushed once. Only if the server stays away for
as long as ``task_publish_retry_policy`` allows does a chunk remain unknown.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, overload
from uuid import uuid4

from celery._state import get_current_worker_task
from kombu.exceptions import OperationalError

from pooltasks.broker.admission import REMEMBERED, Admission, Entry, controlled
from pooltasks.broker.publishing import checked, covering
from pooltasks.broker.pusher import Command
from pooltasks.broker.scripts import text_of
from pooltasks.errors import OperationRefusedError, PoolSaturated, SubmissionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from celery.result import AsyncResult

    from pooltasks.broker.lanes import Lane
    from pooltasks.broker.message import Draft, Form, Message
    from pooltasks.broker.publishing import Publisher

_MESSAGES = 500
"""Most messages of a chunk: so many may remain unknown."""
_BYTES = 1024 * 1024
"""Size of a chunk at which it is sent."""
_SECONDS = 0.05
"""Age of a chunk at which it is sent: arguments may come slowly."""
_SUBMIT = text_of("submit.lua").encode()


class Results(Sequence["AsyncResult"]):
    """The results of operations that were submitted together.

    It keeps their ids; a result is made when it is asked for.

    Args:
        operation: The operation.
        ids: The ids.
        duplicates: Places of those that belong to earlier calls.
    """

    def __init__(
        self, operation: Any, ids: Sequence[str] = (), duplicates: Collection[int] = ()
    ) -> None:
        self._operation = operation
        self.ids = ids
        self.duplicates = duplicates
        """Places of the results that belong to earlier calls of a unique operation."""

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> AsyncResult: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> AsyncResult | Results:
        places = range(len(self.ids))[index]
        if isinstance(places, range):
            duplicates = {n for n, place in enumerate(places) if place in self.duplicates}
            return Results(self._operation, self.ids[index], duplicates)
        result = self._operation.AsyncResult(self.ids[places])
        result.is_duplicate = places in self.duplicates
        return result

    def __repr__(self) -> str:
        return f"<{len(self)} results of {self._operation.name}>"


class _Chunk:
    """Calls that are sent together."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.messages: list[Message] = []
        self.drafts: list[Draft | None] = []
        self.in_doubt = False
        """Whether the server may have accepted it and could not say so."""
        self._size = 0
        self._begun = 0.0

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]

    def add(self, call: Any, message: Message, draft: Draft | None) -> None:
        if not self.calls:
            self._begun = time.monotonic()
        self.calls.append(call)
        self.messages.append(message)
        self._size += len(message.text)
        self.drafts.append(draft)

    def takes(self, message: Message) -> bool:
        """Return whether the message goes to the same list as the others."""
        return not self.messages or self.messages[0].priority == message.priority

    def is_full(self) -> bool:
        return (
            len(self.messages) >= _MESSAGES
            or self._size >= _BYTES
            or time.monotonic() - self._begun >= _SECONDS
        )


class Submission:
    """Submits many calls of one operation.

    Args:
        operation: The operation.
        options: Gives the options of a call, with its queue and its times.
    """

    def __init__(self, operation: Any, options: Callable[[], dict[str, Any]]) -> None:
        self._operation = operation
        self._options = options
        self._lane: Lane | None = None
        self._accepted: list[str] = []
        self._duplicates: set[int] = set()
        self._chunk = _Chunk()

    def run(self, calls: Iterable[Any]) -> Sequence[AsyncResult]:
        """Submit an operation for each of ``calls``, in their order.

        Args:
            calls: The arguments of each: a list or tuple of positional ones,
                or a mapping of keyword arguments.

        Raises:
            PoolSaturated: The pool is full. The operations that fitted are submitted.
            SubmissionError: It failed after a part was submitted.
            Exception: It failed before anything was submitted.
        """
        options = self._options()
        # An operation whose base class publishes it is asked about each call; plain tasks are not.
        is_own = getattr(self._operation, "own_publisher", None) is not None
        publisher = None if is_own else covering(self._operation, options)
        form = publisher.form(self._operation, options) if publisher else None
        rest = iter(calls)
        if publisher is None or form is None:
            return self._one_by_one(rest)
        open_call: list[Any] = []
        try:
            for call in rest:
                open_call = [call]
                message, draft = self._prepare(publisher, form, call)
                if not self._chunk.takes(message):
                    self._send(publisher, form)
                self._chunk.add(call, message, draft)
                open_call = []
                if self._chunk.is_full():
                    self._send(publisher, form)
            if self._chunk.messages:
                self._send(publisher, form)
        except Exception as error:
            failure = self._half_way(error)
            if failure is None:
                raise
            failure.rest = chain(failure.rest, open_call, rest)
            if failure is error:
                raise
            raise failure from error
        finally:
            if self._lane is not None and not self._chunk.in_doubt:
                publisher.lanes.give_back(form.queue.name, self._lane)
        return self._results()

    def _half_way(self, error: Exception) -> SubmissionError | None:
        """Return the error that names the submitted calls, and those of the chunk that are not.

        Returns:
            None if nothing was submitted, unless the reason is a full pool.
        """
        chunk = self._chunk
        if isinstance(error, PoolSaturated):
            failure: SubmissionError = error
            error.fits = len(self._accepted)
        elif self._accepted or chunk.in_doubt:
            failure = self._failure(error)
        else:
            return None
        failure.accepted = self._results()
        if chunk.in_doubt:
            failure.unknown = Results(self._operation, chunk.ids)
            failure.unknown_calls = chunk.calls
        else:
            failure.rest = chunk.calls
        return failure

    def _results(self) -> Results:
        return Results(self._operation, self._accepted, self._duplicates)

    def _prepare(self, publisher: Publisher, form: Form, call: Any) -> tuple[Message, Draft | None]:
        args, kwargs = checked(self._operation, *arguments(call))
        parent = get_current_worker_task()
        options = self._options()
        if form.is_controlled:
            options = controlled(self._operation, args, kwargs, options)
        prepared = publisher.prepare(form, args, kwargs, options, parent)
        if prepared is None:
            raise OperationRefusedError(
                f"The application's task_routes send {self._operation.name} elsewhere than to "
                f"{form.queue.name}, or with options of their own. Publish it with apply_async()."
            )
        return prepared

    def _send(self, publisher: Publisher, form: Form) -> None:
        """Send the chunk, and begin the next."""
        chunk = self._chunk
        lane = self._lane
        if lane is None or lane.pid != os.getpid():  # the arguments may come from a fork
            lane = self._lane = publisher.lanes.take(form.queue.name)
        command = self._command(publisher, form, lane)
        try:
            answer = publisher.pusher.execute(command, lambda: publisher.retry_policy({}))
        finally:
            chunk.in_doubt = command.in_doubt
        ids = chunk.ids
        verdict = None
        if form.is_controlled:
            verdict = Admission.verdict(answer)
            ids = verdict.ids
        begun = len(self._accepted)
        new = [id_ == message.id for id_, message in zip(ids, chunk.messages, strict=False)]
        self._duplicates.update(place for place, is_new in enumerate(new, begun) if not is_new)
        self._accepted += ids
        self._chunk = _Chunk()
        for draft, is_new in zip(chunk.drafts, new, strict=False):
            if draft is not None and is_new:
                publisher.tell(form, draft)
        parent = get_current_worker_task()
        if parent:
            for message, id_ in zip(chunk.messages, ids, strict=False):
                publisher.result(form, replace(message, id=id_), {}, parent)
        if verdict is not None and verdict.retry_after:
            self._chunk.calls = chunk.calls[len(ids) :]
            raise publisher.admission(form.queue.name).refusal(self._operation.name, verdict)

    def _command(self, publisher: Publisher, form: Form, lane: Lane) -> Command:
        messages = self._chunk.messages
        if form.is_controlled:
            entries = [
                Entry(message, draft.headers if draft else {})
                for message, draft in zip(messages, self._chunk.drafts, strict=True)
            ]
            return publisher.admission(form.queue.name).command(entries, lane)
        return Command(
            b"EVAL",
            _SUBMIT,
            b"2",
            form.list_name(messages[0].priority).encode(),
            lane.key,
            b"%d" % lane.next_number(),
            b"%d" % REMEMBERED,
            *(message.text for message in messages),
        )

    def _one_by_one(self, rest: Iterator[Any]) -> Sequence[AsyncResult]:
        """Submit calls that Celery has to publish."""
        results: list[AsyncResult] = []
        for call in rest:
            options = {**self._options(), "task_id": str(uuid4())}
            try:
                results.append(self._operation.apply_async(*arguments(call), **options))
            except Exception as error:
                in_doubt = isinstance(error, OperationalError)
                is_full = isinstance(error, PoolSaturated)
                if not (results or in_doubt or is_full):
                    raise
                self._accepted = [result.id for result in results]
                failure = error if isinstance(error, PoolSaturated) else self._failure(error)
                failure.accepted = results
                failure.rest = rest if in_doubt else chain([call], rest)
                if in_doubt:
                    failure.unknown = Results(self._operation, [options["task_id"]])
                    failure.unknown_calls = [call]
                if isinstance(failure, PoolSaturated):
                    failure.fits = len(results)
                    raise
                raise failure from error
        return results

    def _failure(self, error: Exception) -> SubmissionError:
        return SubmissionError(
            f"Of the calls of {self._operation.name}, {len(self._accepted):,} were accepted before "
            f"{type(error).__name__}: {error}. This error has their results, those of which it is "
            "not known (unknown), and the arguments of the others (rest), to be submitted again."
        )


def arguments(call: Any) -> tuple[Any, Any]:
    """Return positional and keyword arguments.

    Raises:
        TypeError: They are no list, tuple or mapping.
    """
    if isinstance(call, Mapping):
        return (), dict(call)
    if isinstance(call, list | tuple):
        return call, {}
    raise TypeError(
        f"The arguments of one operation are a list or tuple, or a mapping of keyword "
        f"arguments, not {type(call).__name__}: {call!r:.100}"
    )
