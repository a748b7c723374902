"""The flow control of a node: what it does with operations that have limits or are unique."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.broker.limiting import is_marked, marked
from pooltasks.broker.reservations import KEYLESS_AT_ONCE
from pooltasks.broker.uniqueness import HEADER, Lock
from pooltasks.broker.wire import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery

    from pooltasks.broker.limiting import Limits
    from pooltasks.broker.reservations import Reservations
    from pooltasks.broker.session import NodeSession
    from pooltasks.node.intake.message import Message


def limited_operations(app: Celery, queue: str) -> dict[str, Limits]:
    """Return the limits of the operations with limits that a pool may get, by name.

    Args:
        app: The application, which has imported the pool's operations.
        queue: The pool's.
    """
    pool = queue.removeprefix(keys.QUEUE_PREFIX)
    return {
        name: limits
        for name, task in app.tasks.items()
        if (limits := getattr(task, "limits", None)) is not None and task.pool in (None, pool)
    }


def flow_in(message: Message, app: Celery, limited: Mapping[str, Limits]) -> str | None:
    """Return the key of an operation, from its arguments.

    Args:
        message: Its message.
        app: The application.
        limited: The operations with limits.

    Returns:
        None if it has no limits, or its arguments do not fit: then it is refused.
    """
    name = message.headers["task"]
    limits = limited.get(name)
    if limits is None:
        return None
    try:
        args, kwargs, _ = message.payload
        return limits.flow(app.tasks[name], args, kwargs)
    except Exception:  # noqa: BLE001  nobody knows all that a hostile one can raise
        return None


class Controls:
    """A node's handling of controlled operations between their reservation and their start.

    Args:
        app: The application.
        session: The node's.
        reservations: The node's.
        limited: The limits of operations that have some, by name.
    """

    def __init__(
        self,
        app: Celery,
        session: NodeSession,
        reservations: Reservations,
        limited: Mapping[str, Limits],
    ) -> None:
        self._app = app
        self._session = session
        self._reservations = reservations
        self._limited = limited
        self._keyed: list[tuple[str, bytes]] = []
        self.lack_keys = False
        """Whether there may be more messages whose keys are to be found."""
        self.is_known = not limited
        """Whether the server knows the limits; nothing is reserved before."""

    def tell(self) -> None:
        """Have the server know the limits: it may be new, or have lost them."""
        if not self._limited:
            return
        if self._session.is_retired:
            self.is_known = True  # those of the version that takes something hold
            return
        self.is_known = False

        def known(_: Any) -> None:
            self.is_known = True

        fields = [
            part
            for name, limits in self._limited.items()
            for field in limits.fields(name).items()
            for part in field
        ]
        command = pack(("HSET", self._session.names.limits, *fields))
        self._session.send_until_done(command, known)

    def concern(self, message: Message) -> bool:
        """Return whether a message may be one of a controlled operation."""
        return bool(self._limited) or HEADER in message.headers

    def hand_on(self, message: Message, deliver: Callable[[Message], None]) -> None:
        """Hand on an operation that may start, and note what its end makes free.

        One that the server could not count, as it came from a stock client, is to go back to its
        list with its key (:meth:`give_back_keyed`). One whose key is free when it starts is
        handed on when it is.

        Args:
            message: Its message.
            deliver: Takes it.
        """
        reservation = message.delivery_tag
        controlled = self._reservations.controlled
        if is_marked(message.raw):
            controlled[reservation] = None
        else:
            flow = flow_in(message, self._app, self._limited)
            if flow is not None:
                self._keyed.append((reservation, marked(message.raw, flow)))
                return
        lock = Lock.of(message.headers, self._session.names) if HEADER in message.headers else None
        if lock is not None and lock.is_free_at_start:
            self._reservations.unlock(lock, lambda: deliver(message))
            return
        if lock is not None:
            controlled[reservation] = lock
        deliver(message)

    def give_back_keyed(self) -> None:
        """Put messages back whose keys were found, in their order."""
        self.lack_keys = len(self._keyed) >= KEYLESS_AT_ONCE
        keyed, self._keyed = self._keyed, []
        if keyed:
            self._reservations.give_back(keyed)
