"""One connection of a node: commands go out at once, answers come later and in their order.

An event loop must not wait for the server. A command without an answer is sent
again over the next connection, if it may run twice: it then runs at least once,
however often the connection breaks.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hiredis import PushNotification
from redis.exceptions import BusyLoadingError, NoScriptError, ReadOnlyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pooltasks.broker.wire import Wire

ANSWER_SECONDS = 2.0
"""Seconds within which a live server answers."""
_OF_ANOTHER_SERVER = (BusyLoadingError, NoScriptError, ReadOnlyError)
"""Answers of a server that was restarted, or has become a replica: a new connection mends it."""


@dataclass(slots=True)
class _Sent:
    """A command on its way."""

    command: bytes
    on_answer: Callable[[Any], None] | None
    on_refusal: Callable[[Exception], None] | None
    again: bool
    until: float
    """When the connection counts as lost without an answer, in monotonic seconds."""
    within: float
    ahead: int
    """How many answers come before the one that counts."""
    failure: Exception | None = None
    """An error among the answers ahead."""


class Link:
    """A connection that is opened again as often as it breaks.

    Args:
        connect: Opens a connection and sends the commands that have to come first.
        on_push: Takes a message of a channel, which the server sends unasked.
        on_refusal: Takes an error that the server answers, where the command has no
            handler of its own.
    """

    def __init__(
        self,
        connect: Callable[[], Wire],
        on_push: Callable[[Any], None],
        on_refusal: Callable[[Exception], None],
    ) -> None:
        self._connect = connect
        self._on_push = on_push
        self._on_refusal = on_refusal
        self._sent: deque[_Sent] = deque()
        self._together: list[bytes] | None = None
        """Commands that go out with one write, while they are gathered."""
        self._expected_by: float | None = None
        """When the connection counts as lost unless a message comes, in monotonic seconds."""
        self.heard_at = 0.0
        """When the last message came, in monotonic seconds."""
        self.wire: Wire | None = None

    def open(self) -> None:
        """Connect, and send the commands again that were not answered.

        Raises:
            redis.RedisError: The server is away.
        """
        self.close()
        wire = self._connect()
        self._sent = deque(each for each in self._sent if each.again)
        now = time.monotonic()
        if self._sent:
            try:
                wire.send(b"".join(each.command for each in self._sent))
            except BaseException:
                wire.close()
                raise
        for each in self._sent:
            each.until = now + each.within
        self.wire = wire
        self.heard_at, self._expected_by = now, None

    def close(self) -> None:
        """Close the connection; commands that were not answered are remembered."""
        if self.wire is not None:
            self.wire.close()
            self.wire = None

    def fileno(self) -> int | None:
        """Return the descriptor of the connection; None while there is none."""
        return None if self.wire is None else self.wire.fileno()

    def is_owed(self) -> bool:
        """Return whether the server owes an answer."""
        return bool(self._sent)

    def is_overdue(self, now: float) -> bool:
        """Return whether a message should have come by now (monotonic seconds)."""
        if self._expected_by is not None and now > self._expected_by:
            return True
        return any(now > each.until for each in self._sent)

    def expect(self, by: float, since: float) -> None:
        """Take the server for silent unless a message has come since ``since``, or comes in time.

        Args:
            by: Until when, in monotonic seconds.
            since: Since when, in monotonic seconds.
        """
        if self.wire is not None and self.heard_at < since and self._expected_by is None:
            self._expected_by = by

    def has_waited(self, now: float) -> float:
        """Return for how many seconds the server owes its next answer (now: monotonic seconds)."""
        return now - self._sent[0].until + self._sent[0].within if self._sent else 0.0

    def send(
        self,
        command: bytes,
        on_answer: Callable[[Any], None] | None = None,
        on_refusal: Callable[[Exception], None] | None = None,
        *,
        again: bool = True,
        within: float = ANSWER_SECONDS,
        ahead: int = 0,
    ) -> None:
        """Send one command, or several of which the last one's answer counts.

        Without a connection the command is remembered, and sent with the next one.

        Args:
            command: The command, packed.
            on_answer: Takes its answer.
            on_refusal: Takes the error that the server answers instead.
            again: Whether it is sent again when the connection breaks.
            within: Seconds after which the server is taken for silent.
            ahead: How many commands there are before the last one. If one of them is
                refused, ``on_refusal`` hears of it after ``on_answer``.

        Raises:
            redis.RedisError: The connection broke.
        """
        until = time.monotonic() + within
        self._sent.append(_Sent(command, on_answer, on_refusal, again, until, within, ahead))
        if self._together is not None:
            self._together.append(command)
        elif self.wire is not None:
            self.wire.send(command)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Gather the commands that are sent meanwhile, and write them at once; it may be nested.

        Raises:
            redis.RedisError: The connection broke.
        """
        if self._together is not None:
            yield
            return
        self._together = []
        try:
            yield
        finally:
            commands, self._together = self._together, None
        if self.wire is not None and commands:
            self.wire.send(b"".join(commands))

    def read(self) -> None:
        """Take the answers that have come.

        Raises:
            redis.RedisError: The connection broke.
        """
        wire = self.wire
        if wire is None:
            return
        for message in wire.available():
            self.heard_at, self._expected_by = time.monotonic(), None
            if isinstance(message, PushNotification):
                self._on_push(message)
            elif isinstance(message, _OF_ANOTHER_SERVER):
                raise message
            else:
                self._take(message)
            if self.wire is not wire:
                return  # what was said has closed the connection

    def _take(self, answer: Any) -> None:
        sent = self._sent[0]
        failure = answer if isinstance(answer, Exception) else None
        if sent.ahead:
            sent.ahead -= 1
            sent.failure = sent.failure or failure
            return
        self._sent.popleft()
        if failure is None and sent.on_answer is not None:
            sent.on_answer(answer)
        failure = failure or sent.failure
        if failure is not None:
            (sent.on_refusal or self._on_refusal)(failure)
