"""Publishing operations: Celery's messages and Celery's signals, with one command and no detours.

Stock Celery makes each message from nothing, takes a producer out of a pool,
subscribes to the result and goes through four layers of clients. Here a form
is filled in (``message.py``) and pushed over a connection that stays open
(``pusher.py``). Celery itself sends the messages that this does not cover: with
rare options, to queues with arguments, to brokers that are not Redis, and of
applications that change how Celery sends tasks.
"""

from __future__ import annotations

import os
from types import NoneType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import Celery, Task, signals
from celery._state import get_current_worker_task
from celery.app import amqp, base
from celery.app import task as celery_task
from kombu.common import maybe_declare

from pooltasks import keys
from pooltasks.broker.admission import (
    Admission,
    Entry,
    controlled,
    entry_of,
    is_controlled,
    told_apart,
)
from pooltasks.broker.client import key_prefix
from pooltasks.broker.coverage import COVERED, PLAIN, is_celerys, is_covered, is_covered_by
from pooltasks.broker.delayed import publish as publish_delayed
from pooltasks.broker.lanes import Lanes
from pooltasks.broker.message import Form
from pooltasks.broker.names import Names
from pooltasks.broker.pusher import Command, Pusher
from pooltasks.broker.queues import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pooltasks.broker.message import Draft, Message

_HEADERS = ({"deadline", "published_at"}, {"deadline", "deadline_given", "published_at"})
"""A call with these options and headers alone is a form filled in."""
_POSITIONAL = (tuple, list, NoneType)
_KEYWORDS = (dict, NoneType)
_OWN_ROUTES = "pooltasks.app"
"""The module whose routes name a queue and nothing else."""


class Publisher:
    """Publishes the operations of one application.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.pusher = Pusher(app)
        self.lanes = Lanes(app)
        app.conf.task_always_eager  # noqa: B018  loads the configuration, if it is not yet
        self._eager_names = app.conf._to_keys("task_always_eager")  # noqa: SLF001  Celery's name
        self._forms: dict[tuple[str, str], Form | None] = {}
        self._routers: Sequence[Any] | None = None
        self._routes_are_own = False
        self._lists: dict[tuple[str, int], bytes] = {}
        self._admissions: dict[str, Admission] = {}

    def is_eager(self) -> bool:
        """Return Celery's setting ``task_always_eager``, which tests change at any time.

        As the configuration looks it up, in a fifth of the time.
        """
        for settings in self.app.conf.maps:
            for name in self._eager_names:
                if name in settings:
                    return bool(settings[name])
        return False

    def _has_own_routes(self, routers: Sequence[Any]) -> bool:
        """Return whether the application has no routes but ours, which name queues only."""
        if routers is not self._routers:
            self._routers = routers
            self._routes_are_own = all(
                getattr(router, "__module__", None) == _OWN_ROUTES for router in routers
            )
        return self._routes_are_own

    def form(self, operation: Any, options: Mapping[str, Any]) -> Form | None:
        """Return the form of an operation's messages; None if Celery has to publish them.

        Args:
            operation: The operation.
            options: Options of a call; they name the queue and may have a retry policy.

        Raises:
            celery.exceptions.QueueNotFound: There is no such queue.
            kombu.exceptions.OperationalError: The server is away.
        """
        key = operation.name, options["queue"]
        form = self._forms.get(key)
        if form is not None and form.operation is operation and form.pid == os.getpid():
            return form
        if form is None and key in self._forms:
            return None
        queue = self.app.amqp.router.expand_destination({"queue": options["queue"]})["queue"]
        if is_covered(operation, queue):

            def make(channel: Any) -> Form:
                maybe_declare(queue, channel)
                return Form(operation, queue, operation._get_exec_options(), channel)  # noqa: SLF001

            form = self.pusher.with_channel(make, lambda: self.retry_policy(options))
            form.is_controlled = is_controlled(operation, queue.name)
        else:
            form = None
        self._forms[key] = form
        return form

    def prepare(
        self, form: Form, args: Any, kwargs: Any, options: dict[str, Any], parent: Any
    ) -> tuple[Message, Draft | None] | None:
        """Return the message of a call, and tell the listeners that it is about to be published.

        The second value is for :meth:`tell`; None while nobody listens.

        Args:
            form: The operation's form.
            args: Positional arguments.
            kwargs: Keyword arguments.
            options: Options of the call, ``queue`` and ``headers`` among them.
            parent: The task in which this happens, if in one.

        Returns:
            None if Celery has to publish it, because a route of the
            application sends it elsewhere or with other options.

        Raises:
            MessageTooLargeError: The arguments are too large for a message.
            kombu.exceptions.EncodeError: The arguments are not JSON.
            TypeError: ``args`` is no list or tuple, or ``kwargs`` no mapping.
        """
        before = signals.before_task_publish
        listened = before.receivers or signals.after_task_publish.receivers
        if (
            not listened
            and options.keys() == PLAIN
            and options["headers"].keys() in _HEADERS
            and isinstance(args, _POSITIONAL)
            and isinstance(kwargs, _KEYWORDS)
            and self._has_own_routes(_cached(_cached(self.app, "amqp"), "router").routes)
            and not (parent and self.app.conf.task_inherit_parent_priority)
        ):
            return form.fill(args or (), kwargs or {}, options["headers"], parent), None
        operation = form.operation
        merged = {**operation._get_exec_options(), **options}  # noqa: SLF001  Celery's name
        merged.setdefault("ignore_result", operation.ignore_result)
        merged = self.app.amqp.router.route(merged, operation.name, args, kwargs, operation)
        if not is_covered_by(form, merged):
            return None
        draft = form.draft(args, kwargs, merged, parent)
        if before.receivers:
            policy = options["retry_policy"] = self._rules(options)
            before.send(
                sender=operation.name,
                body=draft.body,
                exchange="",
                routing_key=form.queue.name,
                declare=[form.queue],
                headers=draft.headers,
                properties=draft.properties,
                retry_policy=policy,
            )
        return form.finish(draft), draft

    def push(self, form: Form, message: Message, options: Mapping[str, Any]) -> None:
        """Put a message on its list.

        Args:
            form: The operation's form.
            message: The message.
            options: Options of the call; they may say how to try again.

        Raises:
            kombu.exceptions.OperationalError: It could not be published.
        """
        # A node with kombu's own transport keeps operations that are not due in its memory.
        if message.due is not None and self.app.pooltasks.settings.broker_transport != "stock":
            self._delay(form, message, options)
            return
        place = form.queue.name, message.priority
        name = self._lists.get(place)
        if name is None:
            name = self._lists[place] = form.list_name(message.priority).encode()
        self.pusher.execute(
            Command(b"LPUSH", name, message.text), lambda: self.retry_policy(options)
        )

    def admission(self, queue: str) -> Admission:
        """Return the admission that publishes under the controls of a queue's pool."""
        if queue not in self._admissions:
            self._admissions[queue] = Admission(self.app, queue)
        return self._admissions[queue]

    def admit(
        self, name: str, queue: str, entry: Entry, options: Mapping[str, Any]
    ) -> tuple[Message, bool]:
        """Publish a message under the controls of its pool.

        Args:
            name: Of the operation.
            queue: The pool's.
            entry: The call.
            options: Options of the call; they may say how to try again.

        Returns:
            The message with the id that its result has, and whether that is another call's.

        Raises:
            PoolSaturated: The pool is full.
            DuplicateError: Another call came first, and others wait for this very one.
            kombu.exceptions.OperationalError: It could not be published.
        """
        admission = self.admission(queue)
        answer = self.pusher.execute(admission.command([entry]), lambda: self.retry_policy(options))
        verdict = admission.verdict(answer)
        if not verdict.ids:
            raise admission.refusal(name, verdict)
        return told_apart(name, entry, verdict.ids[0], options)

    def _delay(self, form: Form, message: Message, options: Mapping[str, Any]) -> None:
        """Have the server keep a message until its operation is due."""
        queue = form.queue.name
        pool = self.app.pooltasks.settings.pool_settings(queue.removeprefix(keys.QUEUE_PREFIX))
        names = Names(
            queue, key_prefix(self.app), self.app.conf.broker_transport_options.get("sep")
        )
        place = place_of(message.priority, pool.priorities)
        assert message.due is not None  # noqa: S101  for the type checker: the caller has looked
        command = publish_delayed(
            names,
            message.id,
            message.text,
            due=message.due,
            place=place,
            unique=uuid4().hex,
        )
        self.pusher.execute(command, lambda: self.retry_policy(options))

    def tell(self, form: Form, draft: Draft) -> None:
        """Tell the listeners that a message is published."""
        signals.after_task_publish.send(
            sender=form.operation.name,
            body=draft.body,
            headers=draft.headers,
            exchange="",
            routing_key=form.queue.name,
        )

    def result(self, form: Form, message: Message, options: Mapping[str, Any], parent: Any) -> Any:
        """Return the result of a call, and note it as a child of the task in which it was made."""
        operation = form.operation
        if type(operation).AsyncResult is Task.AsyncResult:
            make = _cached(self.app, "AsyncResult")
            result = make(message.id, backend=operation.backend, app=self.app)
        else:
            result = operation.AsyncResult(message.id)
        result.ignored = options.get("ignore_result", operation.ignore_result)
        if parent and options.get("add_to_parent", True):
            parent.add_trail(result)
        return result

    def retry_policy(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return how a call is tried again, in the terms of Celery's policy; None: not at all."""
        retry = options.get("retry")
        if retry is None:
            retry = self.app.conf.task_publish_retry
        return self._rules(options) if retry else None

    def _rules(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.app.conf.task_publish_retry_policy, **(options.get("retry_policy") or {})}


def publisher_of(celery_app: Celery) -> Publisher:
    """Return the application's publisher; it is made at the first call."""
    extension = celery_app.pooltasks
    if extension.publisher is None:
        extension.publisher = Publisher(celery_app)
    publisher: Publisher = extension.publisher
    return publisher


def publish(operation: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    """Publish a call, and return its result; None if it has to go Celery's own way.

    Args:
        operation: The operation.
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Options of the call, ``queue`` and ``headers`` among them.

    Raises:
        PoolSaturated: The pool is full.
        MessageTooLargeError: The arguments are too large for a message.
        kombu.exceptions.EncodeError: The arguments are not JSON.
        kombu.exceptions.OperationalError: It could not be published.
        TypeError: The arguments do not fit the operation.
    """
    publisher = covering(operation, options)
    if publisher is None:
        return None
    args, kwargs = checked(operation, args, kwargs)
    form = publisher.form(operation, options)
    if form is None:
        return None
    if form.is_controlled:
        options = controlled(operation, args, kwargs, options)
    parent = get_current_worker_task()
    prepared = publisher.prepare(form, args, kwargs, options, parent)
    if prepared is None:
        return None
    message, draft = prepared
    if not options.get("ignore_result", operation.ignore_result):
        publisher.app.backend.on_task_call(None, message.id)
    is_duplicate = False
    if form.is_controlled:
        entry = entry_of(publisher.app, message, draft.headers if draft else {}, options)
        message, is_duplicate = publisher.admit(operation.name, form.queue.name, entry, options)
    else:
        publisher.push(form, message, options)
    if draft is not None and not is_duplicate:
        publisher.tell(form, draft)
    result = publisher.result(form, message, options, parent)
    if form.is_controlled:
        result.is_duplicate = is_duplicate
    return result


def covering(operation: Any, options: Mapping[str, Any]) -> Publisher | None:
    """Return the publisher of a call with these options; None if there is none for it."""
    publisher = publisher_of(operation.app)
    if (
        options.keys() <= COVERED
        and is_celerys(Task.apply_async, celery_task)
        and is_celerys(getattr(publisher.app.send_task, "__func__", None), base)
        and not signals.task_sent.receivers
        and not publisher.is_eager()
        and not amqp._callback_publish_retry.get()  # noqa: SLF001  Celery's name
    ):
        return publisher
    return None


def checked(operation: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments as they are sent, as Celery does.

    Raises:
        TypeError: They do not fit the operation.
        ValueError: The operation's time limits contradict each other.
    """
    soft, hard = operation.soft_time_limit, operation.time_limit
    if soft and hard and soft > hard:
        raise ValueError("soft_time_limit must be less than or equal to time_limit")
    if operation.typing:
        operation.__header__(*(args or ()), **(kwargs or {}))
    if operation._dump_pydantic_arguments is not None:  # noqa: SLF001  Celery's name
        args, kwargs = operation._dump_pydantic_arguments(args, kwargs)  # noqa: SLF001
    return args, kwargs


def _cached(owner: Any, name: str) -> Any:
    """Return a cached property of Celery's; once it is there, without the lock that kombu takes."""
    value = vars(owner).get(name)
    return getattr(owner, name) if value is None else value
