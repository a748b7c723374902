"""Submitting many operations: in chunks, each accepted as a whole, once, or not at all.

A chunk is one script call. It carries its number within the submission and the
server notes the last number it accepted, so a chunk whose answer was lost is
sent again without fear: it is pushed once. Only if the server stays away for
as long as ``task_publish_retry_policy`` allows does a chunk remain unknown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from typing import TYPE_CHECKING, Any, overload
from uuid import uuid4

from celery._state import get_current_worker_task
from kombu.exceptions import OperationalError

from pooltasks import keys
from pooltasks.broker.client import key_prefix
from pooltasks.broker.publishing import checked, covering
from pooltasks.broker.pusher import Command
from pooltasks.errors import OperationRefusedError, SubmissionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery.result import AsyncResult

    from pooltasks.broker.message import Draft, Form, Message
    from pooltasks.broker.publishing import Publisher

_MESSAGES = 500
"""Most messages of a chunk: so many may remain unknown."""
_BYTES = 1024 * 1024
"""Size of a chunk at which it is sent."""
_SECONDS = 0.05
"""Age of a chunk at which it is sent: arguments may come slowly."""
_REMEMBERED = 3600
"""Seconds for which the server remembers a submission: far longer than any retry policy."""
_SUBMIT = files("pooltasks.broker").joinpath("submit.lua").read_bytes()


class Results(Sequence["AsyncResult"]):
    """The results of operations that were submitted together.

    It keeps their ids; a result is made when it is asked for.

    Args:
        operation: The operation.
        ids: The ids.
    """

    def __init__(self, operation: Any, ids: Sequence[str] = ()) -> None:
        self._operation = operation
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> AsyncResult: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> AsyncResult | Results:
        if isinstance(index, slice):
            return Results(self._operation, self.ids[index])
        return self._operation.AsyncResult(self.ids[index])

    def __repr__(self) -> str:
        return f"<{len(self)} results of {self._operation.name}>"


class _Chunk:
    """Calls that are sent together."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.messages: list[Message] = []
        self.drafts: list[Draft] = []
        self.in_doubt = False
        """Whether the server may have accepted it and could not say so."""
        self._size = 0
        self._begun = time.monotonic()

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]

    def add(self, call: Any, message: Message, draft: Draft | None) -> None:
        self.calls.append(call)
        self.messages.append(message)
        self._size += len(message.text)
        if draft is not None:
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
        key = key_prefix(operation.app) + keys.submission(uuid4().hex)
        self._key = key.encode()
        self._sent = 0
        self._accepted: list[str] = []
        self._chunk = _Chunk()

    def run(self, calls: Iterable[Any]) -> Sequence[AsyncResult]:
        """Submit an operation for each of ``calls``, in their order.

        Args:
            calls: The arguments of each: a list or tuple of positional ones,
                or a mapping of keyword arguments.

        Raises:
            SubmissionError: It failed after a part was submitted.
            Exception: It failed before anything was submitted.
        """
        options = self._options()
        publisher = covering(self._operation, options)
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
            chunk = self._chunk
            if not (self._accepted or chunk.in_doubt):
                raise
            failure = self._failure(Results(self._operation, self._accepted), error)
            failure.rest = chain(open_call, rest)
            if chunk.in_doubt:
                failure.unknown = Results(self._operation, chunk.ids)
                failure.unknown_calls = chunk.calls
            else:
                failure.rest = chain(chunk.calls, failure.rest)
            raise failure from error
        return Results(self._operation, self._accepted)

    def _prepare(self, publisher: Publisher, form: Form, call: Any) -> tuple[Message, Draft | None]:
        args, kwargs = checked(self._operation, *_arguments(call))
        parent = get_current_worker_task()
        prepared = publisher.prepare(form, args, kwargs, self._options(), parent)
        if prepared is None:
            raise OperationRefusedError(
                f"The application's task_routes send {self._operation.name} elsewhere than to "
                f"{form.queue.name}, or with options of their own. Publish it with apply_async()."
            )
        return prepared

    def _send(self, publisher: Publisher, form: Form) -> None:
        """Send the chunk, and begin the next."""
        chunk = self._chunk
        self._sent += 1
        command = Command(
            b"EVAL",
            _SUBMIT,
            b"2",
            form.list_name(chunk.messages[0].priority).encode(),
            self._key,
            b"%d" % self._sent,
            b"%d" % _REMEMBERED,
            *(message.text for message in chunk.messages),
        )
        try:
            publisher.pusher.execute(command, lambda: publisher.retry_policy({}))
        finally:
            chunk.in_doubt = command.in_doubt
        self._accepted += chunk.ids
        self._chunk = _Chunk()
        for draft in chunk.drafts:
            publisher.tell(form, draft)
        parent = get_current_worker_task()
        if parent:
            for message in chunk.messages:
                publisher.result(form, message, {}, parent)

    def _one_by_one(self, rest: Iterator[Any]) -> Sequence[AsyncResult]:
        """Submit where Celery has to publish."""
        results: list[AsyncResult] = []
        for call in rest:
            options = {**self._options(), "task_id": str(uuid4())}
            try:
                results.append(self._operation.apply_async(*_arguments(call), **options))
            except Exception as error:
                in_doubt = isinstance(error, OperationalError)
                if not (results or in_doubt):
                    raise
                failure = self._failure(results, error)
                failure.rest = rest if in_doubt else chain([call], rest)
                if in_doubt:
                    failure.unknown = Results(self._operation, [options["task_id"]])
                    failure.unknown_calls = [call]
                raise failure from error
        return results

    def _failure(self, accepted: Sequence[AsyncResult], error: Exception) -> SubmissionError:
        failure = SubmissionError(
            f"Of the calls of {self._operation.name}, {len(accepted):,} were accepted before "
            f"{type(error).__name__}: {error}. This error has their results, those of which it is "
            "not known (unknown), and the arguments of the others (rest), to be submitted again."
        )
        failure.accepted = accepted
        return failure


def _arguments(call: Any) -> tuple[Any, Any]:
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
