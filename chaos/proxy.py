"""A TCP proxy that cuts all its connections at SIGUSR1: ``python -m chaos.proxy PORT [DELAY]``.

It listens on a free port of 127.0.0.1, prints it, and forwards to PORT. The data arrive DELAY
milliseconds later, each way.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys


class Proxy:
    """Forwards connections to ``port``, each way ``delay`` seconds later."""

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self.port = port
        self.delay = delay
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self) -> None:
        """Serve for ever."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._cut)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:  # the server is away: the client sees its connection close
            writer.close()
            return
        for each in (writer, far_writer):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while data := await reader.read(65536):
                await self._forward(data, writer)
        except OSError:
            pass  # cut
        finally:
            self._writers.discard(writer)
            asyncio.get_running_loop().call_later(self.delay, writer.close)

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.delay:
            # Each after the same time: they stay in order.
            asyncio.get_running_loop().call_later(self.delay, writer.write, data)
        else:
            writer.write(data)
            await writer.drain()


if __name__ == "__main__":
    its_port, *its_delay = sys.argv[1:]
    asyncio.run(Proxy(int(its_port), sum(map(float, its_delay)) / 1000).serve())
