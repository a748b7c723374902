"""A proxy between a client and a server that cuts connections where a test wants it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class Proxy:
    """Forwards TCP connections to a local port."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._swallow = False
        self._stop_after = False
        self._stopped = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cut_before_the_next_answer(self, and_stop: bool = False) -> None:
        """Deliver the next command, and cut its connection instead of answering."""
        self._swallow = True
        self._stop_after = and_stop

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
            for pair in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
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
