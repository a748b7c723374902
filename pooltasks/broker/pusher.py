"""Pushing on lists, over connections that stay open."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from pooltasks.broker.wire import Wire, pack

if TYPE_CHECKING:
    from celery import Celery

T = TypeVar("T")
Policy = Callable[[], dict[str, Any] | None]
"""Returns kombu's retry rules, as in Celery's ``task_publish_retry_policy``; None: no retry."""
_ERRORS = (RedisError, OSError)
_IDLE = 10
"""Connections that are kept for the next push, as many as kombu's pool has."""


class Command:
    """A command as it is sent, and whether the server may have executed it.

    Args:
        parts: The name of the command and its arguments.
    """

    __slots__ = ("in_doubt", "packed")

    def __init__(self, *parts: bytes) -> None:
        self.packed = pack(parts)
        self.in_doubt = False
        """Whether it was sent in whole and not answered.

        A command that could not be sent to its end was not executed: a server
        waits for the rest of it.
        """

    def execute(self, wire: Wire) -> Any:
        """Send it, and return the answer.

        Raises:
            redis.RedisError: The server is away, or refuses the command.
        """
        wire.send(self.packed)
        in_doubt, self.in_doubt = self.in_doubt, True
        answer = wire.receive()
        self.in_doubt = in_doubt
        return answer


class Pusher:
    """The connections of one application on which it publishes.

    Threads take a connection each; a forked process opens its own. How to
    connect (TLS, sockets, Sentinel, timeouts, several brokers) is kombu's.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._idle: deque[Wire] = deque(maxlen=_IDLE)

    def execute(self, command: Command, policy: Policy) -> Any:
        """Execute a command, and return the answer.

        A connection that broke while nobody used it is replaced before
        anything is sent. If this one breaks, the command may have been
        executed or not; it is sent again if the policy says so, as Celery does.

        Args:
            command: The command.
            policy: Says how to try again; asked when it is needed.

        Raises:
            kombu.exceptions.OperationalError: It failed, as often as the policy allows.
        """
        wire = self._take()
        if wire is not None:
            try:
                answer = command.execute(wire)
            except _ERRORS as error:
                wire.close()
                if policy() is None:
                    raise OperationalError(str(error)) from error
            else:
                self._idle.append(wire)
                return answer

        def again(channel: Any) -> Any:
            wire = _connected(channel)
            answer = command.execute(wire)
            self._idle.append(wire)
            return answer

        return self.with_channel(again, policy)

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def with_channel(self, action: Callable[[Any], T], policy: Policy) -> T:
        """Call ``action`` with a channel of kombu's; try again as Celery does.

        Args:
            action: What to do.
            policy: As :meth:`execute`.

        Raises:
            kombu.exceptions.OperationalError: It failed, as often as the policy allows.
        """
        with self._app.pool.acquire(block=True) as connection:

            def attempt() -> T:
                return action(connection.default_channel)

            rules = policy()
            if rules is None:
                with connection._reraise_as_library_errors():  # noqa: SLF001  kombu's name
                    connection.ensure_connection(max_retries=0)
                    return attempt()
            # kombu connects by these, and so does its own producer before it publishes.
            connection.transport_options.update(rules)
            result: T = connection.ensure(self, attempt, **rules)()
            return result

    def revive(self, _channel: Any) -> None:
        """Do nothing; kombu calls this with the channel of a new connection."""

    def _take(self) -> Wire | None:
        """Return a connection that works, as far as can be known without asking."""
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:  # another thread took it
                break
            connection = wire.connection
            if connection.pid != os.getpid():
                continue  # the parent's
            try:
                if not wire.is_quiet():
                    # Nothing was asked: the server closed it, or talks out of turn.
                    connection.disconnect()
                    connection.connect()
                connection.check_health()
            except _ERRORS:
                connection.disconnect()
                break
            return wire
        return None


def _connected(channel: Any) -> Wire:
    # A redis-py pool for each, made by kombu with everything that is configured:
    # kombu's own are limited, and closed when kombu reconnects.
    return Wire(channel._get_pool().get_connection())  # noqa: SLF001  kombu's name
