"""Commands and answers over a connection that redis-py has opened, without the layers above it.

How to connect (TLS, sockets, Sentinel, authentication, timeouts) is redis-py's. A
short command takes redis-py longer to pack, send and read than it takes the server
to execute it, and an operation on its way takes several.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as TimedOutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CHUNK: Final = 65536
_INCOMPLETE: Final = object()
_STANDARD_SOCKET: Final = ("socket", "socket")
"""Module and name of Python's own socket class, which greenlets replace by theirs."""
_TCP: Final = (socket.AF_INET, socket.AF_INET6)
_JUST_NOW: Final = 0.001
"""Seconds for which an answer proves that the connection is there, as well as a look does."""


def pack(command: tuple[Any, ...]) -> bytes:
    """Return a command, its name and arguments (texts, bytes and numbers), as it is sent."""
    packed: bytes = hiredis.pack_command(command)
    return packed


def greet(connection: Any) -> None:
    """Send the greeting of a new connection: its protocol, its login and its database.

    redis-py asks three more questions, each with its own way to the server and back: a
    fleet that comes back after a restart has no time for them.

    Args:
        connection: That of redis-py, which takes this as ``redis_connect_func``.

    Raises:
        redis.RedisError: The server refuses.
    """
    connection.driver_info = None
    connection.maint_notifications_config = None
    connection.on_connect()


class Wire:
    """The commands and answers of one connection; nothing else reads it while answers are owed.

    Args:
        connection: The connection of redis-py; connected when it is first needed.
        release: Takes the connection back when it is closed.
    """

    def __init__(self, connection: Any, release: Callable[[Any], None] | None = None) -> None:
        self.connection = connection
        self._release = release
        self._sock: Any = None
        self._reader: hiredis.Reader
        self._poller: Any
        self._wakes_at = 1
        self.answered_at = 0.0
        """Monotonic seconds at which the last answer was there."""

    def ask(self, packed: bytes) -> Any:
        """Send a command, and return the answer.

        Raises:
            redis.RedisError: The server is away, or refuses the command.
        """
        self.send(packed)
        return self.receive()

    def send(self, packed: bytes) -> None:
        """Send commands.

        Raises:
            redis.ConnectionError: The server is away.
            redis.TimeoutError: It does not read.
        """
        try:
            self._connected().sendall(packed)
        except OSError as error:
            raise self._lost(error) from error
        except BaseException:  # a time limit that strikes: the server may have half a command
            self.close()
            raise

    def receive(self) -> Any:
        """Return the next answer; pushed messages are left out.

        Raises:
            redis.RedisError: The server is away, or refuses the command.
        """
        while True:
            answer = self._next()
            while answer is _INCOMPLETE:
                self._read()
                answer = self._next()
            if isinstance(answer, hiredis.PushNotification):
                continue
            self.answered_at = time.monotonic()
            if isinstance(answer, Exception):
                raise answer
            return answer

    def arrived(self) -> Sequence[Any]:
        """Return the answers and pushes that have arrived, once there is at least one.

        Raises:
            redis.ConnectionError: The server is away.
        """
        messages: list[Any] = []
        while not messages:
            self._read()
            while (message := self._next()) is not _INCOMPLETE:
                messages.append(message)
        return messages

    def available(self) -> Iterator[Any]:
        """Yield the answers, errors and pushes that have arrived, without waiting for more.

        Answers that arrive meanwhile may be left for the next time.

        Raises:
            redis.ConnectionError: The server is away.
        """
        is_more = self.wait(0)
        while is_more:
            size = self._read()
            # The kernel may have the rest of a full chunk, TLS that of a record.
            is_more = (size == _CHUNK or hasattr(self._sock, "pending")) and self.wait(0)
            while (message := self._next()) is not _INCOMPLETE:
                yield message

    def fileno(self) -> int | None:
        """Return the descriptor of the connection; None while it is not connected."""
        sock = self.connection._sock  # noqa: SLF001  there is no other way to ask
        return None if sock is None else int(sock.fileno())

    def is_quiet(self) -> bool:
        """Return whether nothing is there to be read, not even the end of the connection.

        Right after an answer it is not looked at again.
        """
        return time.monotonic() - self.answered_at < _JUST_NOW or not self.wait(0)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; return whether there is something to be read.

        The only thing that may be done while another thread sends.
        """
        sock = self.connection._sock  # noqa: SLF001  there is no other way to wait for it
        if sock is None or sock is not self._sock:
            return True  # reading tells that it is not connected
        if hasattr(sock, "pending") and sock.pending():
            return True
        if self._poller is None:
            return bool(select.select([sock], (), (), timeout)[0])
        return bool(self._poller.poll(timeout * 1000))

    def wake_at(self, size: int) -> None:
        """Have :meth:`wait` return once so many bytes are there: fewer may be left unread.

        Only sockets of TCP can do that; of others each byte wakes.
        """
        sock = self._connected()
        if size != self._wakes_at and _is_plain(sock) and sock.family in _TCP:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._wakes_at = size

    def close(self) -> None:
        """Close the connection."""
        self.connection.disconnect()
        if self._release is not None:
            self._release(self.connection)
            self._release = None

    def _connected(self) -> Any:
        """Return the socket, and a new reader with a new socket."""
        connection = self.connection
        sock = connection._sock  # noqa: SLF001  as above
        if sock is None:
            connection.connect()
            sock = connection._sock  # noqa: SLF001
        if sock is not self._sock:
            self._sock = sock
            _let_the_kernel_keep_time(sock)
            self._poller = _poller(sock)
            self._wakes_at = 1
            self._reader = hiredis.Reader(
                protocolError=InvalidResponse,
                replyError=connection._parser.parse_error,  # noqa: SLF001  names the error
                notEnoughData=_INCOMPLETE,
            )
        return sock

    def _next(self) -> Any:
        if self.connection._sock is not self._sock or self._sock is None:  # noqa: SLF001
            raise NotConnectedError("The connection to the server was closed.")
        return self._reader.gets(False)

    def _read(self) -> int:
        """Read once; return how many bytes."""
        try:
            data = self._sock.recv(_CHUNK)
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost(ConnectionResetError("closed by the server"))
        self._reader.feed(data)
        return len(data)

    def _lost(self, error: OSError) -> Exception:
        self.close()
        late = isinstance(error, TimeoutError | BlockingIOError)
        kind = TimedOutError if late else NotConnectedError
        return kind(f"{self.connection!r}: {error}")


def _is_plain(sock: Any) -> bool:
    kind = type(sock)
    return (kind.__module__, kind.__qualname__) == _STANDARD_SOCKET


def _poller(sock: Any) -> Any:
    """Return a poller of the socket; None where only select(2) works: eventlet removes poll(2).

    gevent replaces it.
    """
    if not hasattr(select, "poll"):
        return None
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return poller


def _let_the_kernel_keep_time(sock: Any) -> None:
    """Have the kernel end calls that take too long (socket(7)).

    Python asks with poll(2) before each call whether it would block. Only of
    plain sockets: TLS reads more than it is asked for, and greenlets replace them.
    """
    timeout = sock.gettimeout()
    if timeout and _is_plain(sock):
        value = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
        sock.settimeout(None)
