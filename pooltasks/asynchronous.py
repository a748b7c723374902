"""Submitting operations and waiting for them on an event loop; nothing of it blocks the loop.

A loop has one connection on which it publishes and asks, and one on which it
hears of results. Both are opened at their first use, and closed when
``asyncio.run()`` ends. There are no threads. A limit is asyncio's own:
``async with asyncio.timeout(5): await result``.
"""

from __future__ import annotations

from bisect import bisect
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery._state import app_or_default, get_current_worker_task
from celery.result import AsyncResult
from celery.utils.functional import maybe_list
from vine import promise

from pooltasks.broker.admission import controlled, entry_of, is_controlled, told_apart
from pooltasks.broker.captured import Captured
from pooltasks.broker.client import key_prefix
from pooltasks.broker.message import Message
from pooltasks.broker.publishing import checked, covering, publisher_of
from pooltasks.broker.queues import lists_of
from pooltasks.loop_connections import of_this_loop, redis_backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

    from pooltasks.broker.admission import Entry
    from pooltasks.loop_connections import Connections


class AwaitableResult(AsyncResult):
    """Celery's result of a call; ``await`` gives the value, or raises what the operation raised.

    ``await`` raises ``kombu.exceptions.OperationalError`` if the server could not be heard for 5 s;
    the result can be awaited again.
    """

    def __init__(
        self,
        id: str,  # noqa: A002  Celery's name
        backend: Any = None,
        task_name: str | None = None,  # noqa: ARG002  Celery copies a result with it
        app: Celery | None = None,
        parent: Any = None,
    ) -> None:
        # Celery's makes a promise with each result, and the two refer to each other. A loop that
        # drops thousands of them a second would stand still for the garbage collector.
        self.id, self.app, self.parent = id, app_or_default(app), parent
        self.backend = backend or self.app.backend
        self._cache = None
        self._ignored = False

    @cached_property
    def on_ready(self) -> Any:
        """Celery's promise, for who calls :meth:`then`."""
        return promise(self._on_fulfilled, weak=True)

    def __await__(self) -> Any:
        return self._value().__await__()

    async def _value(self) -> Any:
        app = self.app
        if _is_local(app):
            return self.get(disable_sync_subtasks=False)  # the result is there, or never comes
        if not self._cache:
            backend = redis_backend(app)
            key = backend.get_key_for_task(self.id)
            stored = await (await of_this_loop(app)).results.final(key, backend)
            self._set_cache(backend.meta_from_decoded(stored))
            if "on_ready" in vars(self):
                self.on_ready(self)
        self.maybe_throw()
        return self.result


async def apply_async(
    task: Any, args: Any, kwargs: Any, options: dict[str, Any]
) -> AwaitableResult:
    """Publish a call of an operation.

    Args:
        task: The operation.
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: As those of :meth:`pooltasks.task.Operation.apply_async`.

    Raises:
        kombu.exceptions.OperationalError: It may not have been published.
        kombu.exceptions.EncodeError: The arguments are not JSON.
        TypeError: They do not fit the operation.
    """
    app = task.app
    deadline = options.pop("deadline", None)
    if _is_local(app):
        return _awaitable(task, task.apply_async(args, kwargs, deadline=deadline, **options).id)
    connections = await of_this_loop(app)
    args, kwargs = checked(task, args, kwargs)
    options = task.addressed(options, deadline)
    if is_controlled(task, options["queue"]):
        return (await _admit(connections, task, [(args, kwargs)], options))[0]
    result = await _publish_filled_in(connections, task, args, kwargs, options)
    if result is not None:
        return result
    call = _Call(task, args, kwargs, options)
    await connections.publish(call.place, [call.text])
    return call.result


async def _publish_filled_in(
    connections: Connections, task: Any, args: Any, kwargs: Any, options: dict[str, Any]
) -> AwaitableResult | None:
    """Publish a message that is a form filled in; return None if Celery has to make it."""
    publisher = covering(task, options)
    form = connections.forms.form(task, options["queue"]) if publisher else None
    if publisher is None or form is None:
        return None
    prepared = publisher.prepare(form, args, kwargs, options, get_current_worker_task())
    if prepared is None:
        return None
    message, draft = prepared
    await connections.publish(form.list_name(message.priority).encode(), [message.text])
    if draft is not None:
        publisher.tell(form, draft)
    return _awaitable(task, message.id)


async def submit_many(
    task: Any, calls: Sequence[tuple[Any, Any]], options: Mapping[str, Any]
) -> list[AwaitableResult]:
    """Publish many calls of an operation, all with one command.

    Args:
        task: The operation.
        calls: The arguments of each, positional ones and keyword arguments.
        options: As those of :func:`apply_async`, for each.

    Raises:
        kombu.exceptions.OperationalError: It is not known whether they were published.
    """
    app = task.app
    if _is_local(app):
        return [await apply_async(task, *call, dict(options)) for call in calls]
    connections = await of_this_loop(app)
    its = dict(options)
    deadline = its.pop("deadline", None)
    queue = options.get("queue")
    if queue and is_controlled(task, queue):
        checked_calls = [checked(task, *call) for call in calls]
        return await _admit(connections, task, checked_calls, task.addressed(its, deadline))
    made = [
        _Call(task, *checked(task, *call), task.addressed(dict(its), deadline)) for call in calls
    ]
    if made:
        await connections.publish(made[0].place, [call.text for call in made])
    return [call.result for call in made]


async def _admit(
    connections: Connections, task: Any, calls: Sequence[tuple[Any, Any]], options: dict[str, Any]
) -> list[AwaitableResult]:
    """Publish calls under the controls of their pool, all of them or none."""
    made, entries = [], []
    for args, kwargs in calls:
        its = controlled(task, args, kwargs, options)
        call = _Call(task, args, kwargs, dict(its))
        made.append(call)
        entries.append(call.entry(its))
    if not made:
        return []
    admission = publisher_of(task.app).admission(options["queue"])
    verdict = await connections.admit(admission, entries)
    if verdict.retry_after:
        raise admission.refusal(task.name, verdict)
    results = []
    for call, entry, first_id in zip(made, entries, verdict.ids, strict=True):
        message, is_duplicate = told_apart(task.name, entry, first_id, options)
        result = _awaitable(task, message.id) if is_duplicate else call.result
        result.is_duplicate = is_duplicate
        results.append(result)
    return results


async def forget(result: AwaitableResult) -> None:
    """Remove a result from the server."""
    app = result.app
    if _is_local(app):
        result.forget()
        return
    key = redis_backend(app).get_key_for_task(result.id)
    await (await of_this_loop(app)).forget(key)


def _is_local(app: Celery) -> bool:
    """Return whether no server is asked: a test runs or records operations, or they are eager."""
    extension = app.pooltasks
    return bool(extension.is_diverted or not extension.has_server or app.conf.task_always_eager)


def _awaitable(task: Any, task_id: str) -> AwaitableResult:
    return AwaitableResult(task_id, backend=task.backend, task_name=task.name, app=task.app)


class _Call(Captured):
    """The message of a call as it lies in its list; Celery makes it, and tells the listeners."""

    def __init__(self, task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
        super().__init__()
        app = self._app = task.app
        self.result = _awaitable(task, options.pop("task_id", None) or str(uuid4()))
        merged = {**task._get_exec_options(), **options}  # noqa: SLF001  Celery's name
        merged = app.amqp.router.route(merged, task.name, args, kwargs, task)
        parent = app.current_worker_task
        of_message = {
            "callbacks": maybe_list(merged.pop("link", None)),
            "errbacks": maybe_list(merged.pop("link_error", None)),
            "ignore_result": merged.pop("ignore_result", task.ignore_result),
            "parent_id": parent.request.id if parent else None,
            "reply_to": app.thread_oid,
            "root_id": (parent.request.root_id or parent.request.id) if parent else None,
        }
        message = app.amqp.create_task_message(
            self.result.id, task.name, args, kwargs, **of_message, **merged
        )
        app.amqp.send_task_message(self, task.name, message, **merged)

    def entry(self, options: Mapping[str, Any]) -> Entry:
        """Return the call as the server is to admit it."""
        due = self.headers["published_at"] if self.headers.get("eta") else None
        message = Message(self.result.id, self.text, self.priority, due)
        return entry_of(self._app, message, self.headers, options)

    @property
    def place(self) -> bytes:
        """The key of its list."""
        steps = self._app.conf.broker_transport_options.get("priority_steps", (0, 3, 6, 9))
        names = lists_of(self._app, self.routing_key)
        return f"{key_prefix(self._app)}{names[bisect(steps, self.priority) - 1]}".encode()
