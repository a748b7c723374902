"""Pushing on lists, over connections that stay open."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from kombu.exceptions import OperationalError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as TimedOutError

from pooltasks.broker.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from pooltasks.broker.scripts import Script

T = TypeVar("T")
Policy = Callable[[], dict[str, Any] | None]
"""Returns kombu's retry rules, as in Celery's ``task_publish_retry_policy``; None: no retry."""
_ERRORS = (RedisError, OSError)
_UNUSED = 60.0
"""Seconds after which a connection that nobody used is closed at the next push."""
PUBLISH_TIMEOUT = 3.0
"""Seconds without an answer after which a connection is given up.

A connection may be silent for ever while new ones work: after a firewall or
the server's host has forgotten it. The unanswered command goes out again.
"""


class Command:
    """A command as it is sent, and whether the server may have executed it.

    Args:
        parts: The name of the command and its arguments.
    """

    __slots__ = ("in_doubt", "packed")

    def __init__(self, *parts: bytes) -> None:
        self.packed = pack(parts)
        self.in_doubt = False
        """Whether it was sent as a whole and not answered.

        A command that could not be sent to its end was not executed: a server
        waits for the end of it.
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


class ScriptCommand(Command):
    """A script, called by its name; its text goes along only if the server does not know it.

    Args:
        script: The script.
        keys: Its keys.
        arguments: Its arguments.
    """

    __slots__ = ("_whole",)

    def __init__(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> None:
        self.packed = script.call(keys, arguments)
        self._whole = (b"EVAL", script.text, len(keys), *keys, *arguments)
        self.in_doubt = False

    def execute(self, wire: Wire) -> Any:
        """Send it, and return the answer; as that of a command."""
        try:
            return super().execute(wire)
        except NoScriptError:  # the answer has come: nothing was executed
            self.packed = pack(self._whole)
            self.in_doubt = False
            return super().execute(wire)


class Pusher:
    """The connections of one application on which it publishes.

    Threads take a connection each, so there are as many as threads publish at
    the same time; a forked process opens its own. How to connect (TLS, sockets,
    Sentinel, several brokers) is kombu's.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._idle: deque[Wire] = deque()
        """Idle connections, the one that was used last at the end."""

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
                if isinstance(error, TimedOutError):
                    self.close()  # they have been silent for longer
                if policy() is None:
                    raise OperationalError(str(error)) from error
            else:
                self._idle.append(wire)
                return answer

        def again(channel: Any) -> Any:
            wire = _connected(channel, self._app.pooltasks.publish_timeout)
            answer = command.execute(wire)
            self._idle.append(wire)
            return answer

        return self.with_channel(again, policy)

    def close(self) -> None:
        """Close the connections that are not in use."""
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                return
            wire.close()

    def with_channel(self, action: Callable[[Any], T], policy: Policy) -> T:
        """Call ``action`` with a channel of kombu's; try again as Celery does.

        Args:
            action: The function to call.
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

    def _close_the_unused(self) -> None:
        since = time.monotonic() - _UNUSED
        try:
            while self._idle[0].answered_at < since:
                wire = self._idle.popleft()
                # Another thread may have taken the one that was looked at.
                if wire.answered_at < since:
                    wire.close()
                else:
                    self._idle.append(wire)
        except IndexError:  # there are no more
            return

    def _take(self) -> Wire | None:
        """Return a connection that seems to work, without asking the server."""
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:  # another thread took it
                break
            self._close_the_unused()
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


def _connected(channel: Any, timeout: float | None) -> Wire:
    # A redis-py pool for each, made by kombu with everything that is configured:
    # kombu's own are limited, and closed when kombu reconnects.
    pool = channel._get_pool()  # noqa: SLF001  kombu's name
    pool.connection_kwargs["socket_timeout"] = timeout
    return Wire(pool.get_connection())
