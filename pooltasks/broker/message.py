"""Messages of operations: Celery's own, made once and filled in.

Celery makes the message of a task anew at each call, though most of it is the
same every time. A :class:`Form` has Celery and kombu make it once, with marks for
the parts that differ from call to call, and keeps the text between the marks. So it
is their message, whatever their release, and filling it in takes microseconds.
"""

from __future__ import annotations

import os
import re
from binascii import b2a_base64
from dataclasses import dataclass
from itertools import count
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery.utils.functional import maybe_list
from celery.utils.saferepr import saferepr
from kombu.entity import maybe_delivery_mode
from kombu.exceptions import EncodeError
from kombu.utils import json

from pooltasks import keys
from pooltasks.broker.protection import JSON, FormProtection
from pooltasks.broker.queues import list_of
from pooltasks.broker.serialization import encode
from pooltasks.broker.signing import HEADER, signed_text
from pooltasks.errors import MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu import Queue

_NO_CALLBACKS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_OF_THE_TASK = (
    "chain",
    "chord",
    "countdown",
    "eta",
    "group_id",
    "group_index",
    "ignore_result",
    "replaced_task_nesting",
    "retries",
    "shadow",
    "soft_time_limit",
    "time_limit",
)
"""Options that are headers of the message or part of its body."""
_OF_DELIVERY = {
    "add_to_parent",
    "compression",
    "delivery_mode",
    "exchange",
    "expires",
    "headers",
    "queue",
    "retry",
    "retry_policy",
    "routing_key",
    "serializer",
}
"""Options that Celery does not hand on to kombu as properties of the message."""
_OF_PUBLISHING = ("priority", "mandatory", "immediate")
"""Arguments of kombu's ``publish`` that look like properties."""
_JSON = {None: "null", True: "true", False: "false"}


@dataclass(slots=True)
class Draft:
    """A message as Celery's signals show it, before it is encoded."""

    id: str
    body: tuple[Any, ...]
    headers: dict[str, Any]
    properties: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it lies in its list."""

    id: str
    text: bytes
    priority: int = 0
    due: float | None = None
    """When it is due, in seconds since the epoch by the server's clock; None: now."""


class Form:
    """The messages of one operation in one queue.

    Args:
        operation: The operation.
        queue: The queue, as Celery declares it.
        options: The options that the operation has as attributes.
        channel: A channel of kombu's Redis transport; it encodes the messages.
    """

    def __init__(self, operation: Any, queue: Queue, options: dict[str, Any], channel: Any) -> None:
        app = self._app = operation.app
        self.operation = operation
        self.queue = queue
        self.is_controlled = False
        """Whether the server decides with the publication whether there is room for them."""
        self.pid = os.getpid()
        """The process that made it: a message names the process that it is from."""
        self._channel = channel
        self._delivery_mode = maybe_delivery_mode(
            queue.exchange.delivery_mode or app.conf.task_default_delivery_mode
        )
        self._levels = app.conf.task_repr_maxlevels
        self._args_size = app.amqp.argsrepr_maxsize
        self._kwargs_size = app.amqp.kwargsrepr_maxsize
        self._priority = 0
        self._steps = _steps(app, queue.name)
        self._tags = f"{uuid4().hex}-"
        self._numbers = count()
        self._protection = app.pooltasks.protection
        self._form_protection: FormProtection | None = None
        self._template = self._make_template(options)

    def list_name(self, priority: int) -> str:
        """Return the key of the list on which messages of a priority lie."""
        return f"{self._channel.global_keyprefix}{list_of(self.queue.name, priority, self._steps)}"

    def fill(
        self, args: Any, kwargs: Any, headers: Mapping[str, float], parent: Any = None
    ) -> Message:
        """Return the message of a call without options.

        Args:
            args: Positional arguments, a list or tuple.
            kwargs: Keyword arguments, a mapping.
            headers: ``published_at`` and ``deadline``, and ``deadline_given`` if it is true.
            parent: The task in which this happens, if in one.

        Raises:
            MessageTooLargeError: The arguments are too large for a message.
            kombu.exceptions.EncodeError: The arguments are not JSON.
        """
        task_id = _uuid4()
        root_id, parent_id = f'"{task_id}"', "null"
        if parent:
            request = parent.request
            root_id, parent_id = quoted(request.root_id or request.id), quoted(request.id)
        body = _body(args, kwargs) if args or kwargs else _EMPTY_BODY
        values = {
            "body": body,
            "id": f'"{task_id}"',
            "root_id": root_id,
            "parent_id": parent_id,
            "args": self._repr(args, self._args_size) if args else '"()"',
            "kwargs": self._repr(kwargs, self._kwargs_size) if kwargs else '"{}"',
            "ignore_result": _JSON[self.operation.ignore_result],
            "reply_to": quoted(self._app.thread_oid),
            "published_at": repr(headers["published_at"]),
            "deadline": _deadline(headers),
            "tag": f'"{self._tags}{next(self._numbers)}"',
        }
        if self._form_protection is not None:
            self._form_protection.apply(values)
        return Message(task_id, (self._template % values).encode(), self._priority)

    def draft(self, args: Any, kwargs: Any, options: dict[str, Any], parent: Any = None) -> Draft:
        """Return the message of any call, as :meth:`celery.Celery.send_task` makes it.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            options: The options of the call and of the operation, routed.
            parent: The task in which this happens, if in one.

        Raises:
            TypeError: ``args`` is no list or tuple, or ``kwargs`` no mapping.
        """
        app = self._app
        take = dict(options)
        root_id, parent_id = take.pop("root_id", None), take.pop("parent_id", None)
        if parent:
            root_id = root_id or parent.request.root_id or parent.request.id
            parent_id = parent_id or parent.request.id
            if app.conf.task_inherit_parent_priority:
                take.setdefault("priority", parent.request.delivery_info.get("priority"))
        task_id = take.pop("task_id", None) or str(uuid4())
        headers, properties, body, _ = app.amqp.create_task_message(
            task_id,
            self.operation.name,
            args,
            kwargs,
            root_id=root_id,
            parent_id=parent_id,
            callbacks=maybe_list(take.pop("link", None)),
            errbacks=maybe_list(take.pop("link_error", None)),
            reply_to=take.pop("reply_to", None) or app.thread_oid,  # only a template has one
            **{name: take.pop(name) for name in _OF_THE_TASK if name in take},
        )
        headers.update(take["headers"])
        properties.update((name, take[name]) for name in take.keys() - _OF_DELIVERY)
        return Draft(task_id, body, headers, properties)

    def finish(self, draft: Draft) -> Message:
        """Return the message that kombu would send for ``draft``.

        Raises:
            MessageTooLargeError: The arguments are too large for a message.
            kombu.exceptions.EncodeError: The arguments are not JSON.
        """
        text = _encoded(draft.body)
        if self._protection is not None:
            text = self._protection.protect(self.queue.name, draft.headers, text)
        message = self._augmented(draft, text)
        due = draft.headers["published_at"] if draft.headers.get("eta") else None
        return Message(draft.id, json.dumps(message).encode(), self._priority_of(message), due)

    def _augmented(self, draft: Draft, payload: str) -> dict[str, Any]:
        properties = dict(draft.properties)
        priority, *_ = (properties.pop(name, None) for name in _OF_PUBLISHING)
        properties["delivery_mode"] = self._delivery_mode
        content_type = JSON if self._protection is None else self._protection.content_type
        message: dict[str, Any] = self._channel.prepare_message(
            payload.encode(), priority, content_type, "utf-8", draft.headers, properties
        )
        self._channel._inplace_augment_message(message, "", self.queue.name)  # noqa: SLF001  kombu's name
        return message

    def _priority_of(self, message: dict[str, Any]) -> int:
        priority: int = self._channel._get_message_priority(message)  # noqa: SLF001  kombu's name
        return priority

    def _repr(self, arguments: Any, size: int) -> str:
        return quoted(saferepr(arguments, size, maxlevels=self._levels))

    def _make_template(self, options: dict[str, Any]) -> str:
        """Return the text of a message as a %-format that names the parts that differ."""
        prefix = uuid4().hex

        def mark(name: str) -> str:
            return f"{prefix}.{name}"

        gaps = ("id", "root_id", "parent_id", "ignore_result", "reply_to")
        options = {**options, **{name: mark(name) for name in gaps}}
        options["task_id"] = options.pop("id")
        options["headers"] = {name: mark(name) for name in ("published_at", "deadline")}
        draft = self.draft((), {}, options)
        draft.headers.update(argsrepr=mark("args"), kwargsrepr=mark("kwargs"))
        protection = self._protection
        if protection is not None:
            signed = signed_text(self.queue.name, draft.headers).replace("%", "%%")
            self._form_protection = FormProtection(protection, _with_gaps(signed, prefix))
            if protection.signer is not None:
                draft.headers[HEADER] = mark(HEADER)
        message = self._augmented(draft, mark("body"))
        message["properties"]["delivery_tag"] = mark("tag")
        self._priority = self._priority_of(message)
        body = message["body"]
        text = json.dumps(message).replace("%", "%%").replace(body, "%(body)s")
        return _with_gaps(text, prefix)


def _with_gaps(text: str, prefix: str) -> str:
    """Return a %-format: JSON with a gap in place of each mark."""
    return re.sub(f'"{prefix}\\.(\\w+)"', r"%(\1)s", text)


def _steps(app: Any, queue: str) -> tuple[int, ...]:
    """Return the priority steps of the pool of a queue."""
    pool = app.pooltasks.settings.pool_settings(queue.removeprefix(keys.QUEUE_PREFIX))
    steps: tuple[int, ...] = pool.priorities
    return steps


def _deadline(headers: Mapping[str, float]) -> str:
    """Return the header as JSON, with its neighbor ``deadline_given`` if that is there."""
    text = repr(headers["deadline"])
    return f'{text}, "deadline_given": true' if "deadline_given" in headers else text


def _encoded(body: tuple[Any, ...]) -> str:
    try:
        return encode(body)
    except MessageTooLargeError:
        raise
    except Exception as error:  # any error of an argument's own encoder, as kombu does
        raise EncodeError(error) from error


def _body(args: Any, kwargs: Any) -> str:
    payload = _encoded((args, kwargs, _NO_CALLBACKS))
    return b2a_base64(payload.encode(), newline=False).decode()


_EMPTY_BODY = _body((), {})


def _uuid4() -> str:
    """Return a random UUID of version 4, as ``str(uuid4())`` does in three times the time."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
