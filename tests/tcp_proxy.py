"""A proxy between a client and a server that cuts or silences connections where a test wants it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

_LOOK = 0.1


class Proxy:
    """Forwards TCP connections to a local port.

    Args:
        target: The port.
        idle_seconds: Cut each connection that was idle for so long, as load balancers do.
    """

    def __init__(self, target: int, *, idle_seconds: float | None = None) -> None:
        self._target = target
        self._idle_seconds = idle_seconds
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._used: dict[socket.socket, float] = {}
        """When something last went over a connection of a client, in monotonic seconds."""
        self.idle_cuts = 0
        """How many connections were cut because they were idle."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        self._new_are_silent = False
        self.accepted = 0
        """How many connections there ever were."""
        self._swallow = False
        self._stop_after = False
        self._stopped = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        if self._idle_seconds is not None:
            threading.Thread(
                target=self._cut_idle_ones, args=(self._idle_seconds,), daemon=True
            ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cut_before_the_next_answer(self, and_stop: bool = False) -> None:
        """Deliver the next command, and cut its connection instead of answering."""
        self._swallow = True
        self._stop_after = and_stop

    def silence(self, *, new_too: bool = False) -> None:
        """Let nothing more through on the connections that there are, and close none of them.

        So it is when a firewall has forgotten them. New connections work, unless they are
        to be as silent: then it is as if the server itself hung.
        """
        self._new_are_silent = new_too
        self._silent.update(self._connections)

    def silence_one(self, client_port: int) -> bool:
        """Silence the connection of a client's port; return whether there is one."""
        for client, server in self._pairs:
            with suppress(OSError):
                if client.getpeername()[1] == client_port:
                    self._silent |= {client, server}
                    return True
        return False

    def _cut_idle_ones(self, seconds: float) -> None:
        while not self._stopped:
            time.sleep(_LOOK)
            idle_since = time.monotonic() - seconds
            for pair in self._pairs:
                if self._used.get(pair[0], idle_since) < idle_since:
                    self._used.pop(pair[0])
                    self.idle_cuts += 1
                    for connection in pair:
                        _close(connection)

    def stop(self) -> None:
        """Cut all connections, and refuse new ones."""
        self._stopped = True
        # A listener is not closed while a thread waits in accept().
        with socket.socket() as waker:
            waker.connect_ex(("127.0.0.1", self.port))
        self._listener.close()
        for connection in self._connections:
            _close(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._stopped:
                client.close()
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._connections += [client, server]
            self._pairs.append((client, server))
            self._used[client] = time.monotonic()
            if self._new_are_silent:
                self._silent |= {client, server}
            self.accepted += 1
            for pair in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                client = sink if answers else source
                if client in self._used:
                    self._used[client] = time.monotonic()
                if source in self._silent:
                    continue
                if answers and self._swallow:
                    self._swallow = False
                    if self._stop_after:
                        self.stop()
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            _close(source)
            _close(sink)


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
