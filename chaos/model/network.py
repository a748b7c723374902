"""The model's time, and connections that are slow, break, or stay half open."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as CutError
from redis.exceptions import RedisError
from redis.retry import Retry

from chaos.model.scripts import TIME_KEY
from pooltasks.broker.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.model.node import ModelNode

_TICK = 1e-6
_ANSWER_SECONDS = 20.0
"""Real seconds for the server's answer: the machine may be busy."""


class CrashedError(BaseException):
    """The process of a node ends here; no code of the node may handle this."""


class Time:
    """The module ``time`` of the core's modules; only the model's rules let time pass."""

    def __init__(self) -> None:
        self.server = 1_000_000.0
        """The server's time, in seconds."""
        self.wall_clock = 0.0
        """Seconds by which the host's clock is wrong: nothing may depend on it."""

    def monotonic(self) -> float:
        """Return the time; every call takes a moment, so that no loop asks for ever."""
        self.server += _TICK
        return self.server

    def time(self) -> float:
        """Return the host's time, which may be wrong by any amount."""
        return self.server + self.wall_clock

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.server += max(0.0, seconds)


class ModelWire(Wire):
    """A connection of a node.

    Args:
        connection: The connection of redis-py.
        network: The network it belongs to.
        node: The node that owns the connection.
    """

    def __init__(self, connection: Any, network: Network, node: ModelNode) -> None:
        super().__init__(connection)
        self.outbox: list[bytes] = []
        """Commands that are under way to the server."""
        self.is_slow = False
        self.stays_half_open = False
        """Whether the server does not hear that the node has closed it."""
        self._network = network
        self._node = node
        super().send(pack(("CLIENT", "ID")))
        self.number: int = super().receive()
        """Its id on the server."""

    def send(self, packed: bytes) -> None:
        """Send commands, unless the node's fuse says that this is the moment."""
        fuse = self._node.fuse
        if fuse is not None and fuse.burn():
            self._node.fuse = None
            if fuse.is_sent:
                self.deliver()
                self._network.stamp()
                super().send(packed)
            if fuse.crashes:
                raise CrashedError
            self.cut()
            self.close()
            raise CutError("cut by the model")
        self.outbox.append(packed)
        if not self.is_slow:
            self.deliver()

    def deliver(self, commands: int | None = None) -> None:
        """Have the commands that are under way arrive: all, or some sendings."""
        some = self.outbox[:commands]
        del self.outbox[: len(some)]
        if some:
            if self.connection._sock is None:  # noqa: SLF001  as Wire
                raise CutError("closed")  # a wire would connect again, and a node's does not
            self._network.stamp()
            super().send(b"".join(some))

    def receive(self) -> Any:
        """Return the next answer."""
        self.deliver()
        return super().receive()

    def wait(self, timeout: float) -> bool:
        """Return whether there is something to read: the same each time an example is tried."""
        if timeout:
            self.deliver()
        self._network.barrier()
        return super().wait(timeout)

    def cut(self) -> None:
        """Break the connection; both ends notice when they look."""
        self._network.touch()
        sock = self.connection._sock  # noqa: SLF001  as Wire
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, as far as the node can."""
        if self.stays_half_open and self.connection is not _NOWHERE:
            self.leave_half_open()
        else:
            self._network.touch()
            super().close()

    def leave_half_open(self) -> None:
        """Close the node's end, and have the server believe that it is there."""
        ghost = Ghost(self.connection, self.outbox)
        self.outbox = []
        self.connection = _NOWHERE
        self._sock = socket.socket()
        self._sock.close()  # as that of a connection which is closed
        self._network.ghosts.append(ghost)


class _Nowhere:
    _sock = None

    def connect(self) -> None:
        """Fail: the node does not know yet that the connection is gone."""
        raise CutError("half open")

    def disconnect(self) -> None:
        """Be closed."""


_NOWHERE = _Nowhere()


class Ghost:
    """A connection that only the server believes in, and the commands under way on it.

    Args:
        connection: The connection of redis-py.
        outbox: The commands that were sent and have not arrived yet.
    """

    def __init__(self, connection: Any, outbox: list[bytes]) -> None:
        self.connection = connection
        self.outbox = outbox

    def deliver(self) -> None:
        """Have the commands that were under way arrive."""
        sock = self.connection._sock  # noqa: SLF001  as Wire
        with suppress(OSError):
            if sock is not None:
                sock.sendall(b"".join(self.outbox))
        self.outbox.clear()

    def end(self) -> None:
        """Have the server notice that the node's end is closed."""
        self.connection.disconnect()


class Fuse:
    """Has a node crash, or a connection break, at one of its next sendings.

    Args:
        sendings: Number of the sending, at least 1.
        crashes: Whether the node crashes; else only the connection breaks.
        is_sent: Whether the last of them arrives.
    """

    def __init__(self, sendings: int, *, crashes: bool, is_sent: bool) -> None:
        self._left = sendings
        self.crashes = crashes
        self.is_sent = is_sent

    def burn(self) -> bool:
        """Count a sending; return whether it is the one."""
        self._left -= 1
        return self._left <= 0


class Network:
    """The way to the server.

    Args:
        url: Of the server.
        time: The model's time.
    """

    def __init__(self, url: str, time: Time) -> None:
        self.time = time
        self.ghosts: list[Ghost] = []
        parse: Any = redis.connection.parse_url  # which has no types
        self._options: dict[str, Any] = parse(url)
        self._stamped = 0
        self.is_full = False
        self.has_sent = True
        """Whether a command was sent since the server last answered everything."""
        self.has_changed = True
        """Whether a command was sent, or time passed, since the ledger has looked."""
        self.control: Any = redis.Redis.from_url(url, socket_timeout=_ANSWER_SECONDS)

    def connect(self, node: ModelNode) -> ModelWire:
        """Open a connection of a node."""
        self.stamp()
        return ModelWire(self.open(), self, node)

    def open(self) -> Any:
        """Open a connection, as ``pooltasks.broker.server.connect`` does."""
        opener: Any = redis.Connection  # which has no types
        return opener(
            **self._options,
            protocol=3,
            socket_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )

    def stamp(self) -> None:
        """Tell the server the time."""
        self.touch()
        now = int(self.time.server * 1000)
        if self._stamped == now:
            return
        self._stamped = now
        with self.control.pipeline(transaction=False) as pipe:
            if self.is_full:
                pipe.config_set("maxmemory", 0)
            pipe.hset(TIME_KEY, mapping={"s": now // 1000, "us": now % 1000 * 1000})
            if self.is_full:
                pipe.config_set("maxmemory", 1)
            pipe.execute()

    def fill(self, *, is_full: bool) -> None:
        """Have the server refuse commands that need memory, or take them again."""
        self.is_full = is_full
        self.control.config_set("maxmemory", int(is_full))

    def settle(self) -> None:
        """Return when all commands that have arrived will be executed before later ones."""
        if self.has_sent:
            self.control.ping()

    def barrier(self) -> None:
        """Return when the server has executed and answered all commands that have arrived.

        The server executes the commands that arrived before the first question.
        Then it executes the second question.
        """
        if self.has_sent:
            self.control.ping()
            self.control.ping()
            self.has_sent = False

    def touch(self) -> None:
        """Note that the server's data may have changed."""
        self.has_sent = self.has_changed = True

    def end_ghosts(self) -> None:
        """Have the server notice that its half-open connections are closed."""
        self.touch()
        for ghost in self.ghosts:
            ghost.end()
        self.ghosts.clear()

    def close(self) -> None:
        """Close everything."""
        self.end_ghosts()
        self.control.close()


def attempt(action: Callable[[], Any]) -> bool:
    """Do an action that a full server refuses; return whether it was done."""
    try:
        action()
    except RedisError:
        return False
    return True
