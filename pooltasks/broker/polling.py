"""What the transport does at each turn of a node's event loop."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class Poller(redis.MultiChannelPoller):
    """Asks for messages, then flushes the acknowledgements that are left."""

    def on_poll_start(self) -> None:
        """Called at each turn of the event loop before it waits."""
        for channel in self._channels:
            channel.complete_while_waiting()
        super().on_poll_start()
        for channel in self._channels:
            channel.complete_finished()


class Readers:
    """An event loop, as it is, to which kombu adds every reader anew at each turn."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        """Add what is not there: to add it again costs a failed call to the kernel."""
        if fd not in self._loop.readers:
            self._loop.add_reader(fd, callback, *args)
