"""A server that is killed and started again on its append-only file, at its address."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pooltasks.embedded import EmbeddedServer

_LOOK_INTERVAL = 0.005
_START_TIMEOUT = 30.0


class MortalServer(EmbeddedServer):
    """A server that can be killed.

    Args:
        data_dir: The data folder.
        program: ``valkey`` is the embedded one, ``redis`` is redis-server on PATH.
        appendfsync: ``always`` answers a write when it is on disk. ``everysec``
            answers it as a rule when the kernel has it, which outlives the
            server as well; but while a flush to the disk takes long, the server
            keeps writes to itself for up to two seconds and answers all the same
            (``flushAppendOnlyFile`` in its source); these writes are lost with it.
    """

    def __init__(
        self, data_dir: Path, *, program: str = "valkey", appendfsync: str = "always"
    ) -> None:
        super().__init__(data_dir)
        self._is_embedded = program == "valkey"
        self._appendfsync = appendfsync
        self._stack = ExitStack()
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def program(self) -> Path:
        """The server's program."""
        if self._is_embedded:
            return super().program
        found = shutil.which("redis-server")
        if found is None:
            raise FileNotFoundError("redis-server is not on PATH (Debian: apt-get install it)")
        return Path(found)

    @property
    def argv(self) -> list[str]:
        """The server's command."""
        return [*super().argv, "--appendfsync", self._appendfsync]

    def start(self) -> None:
        """Start it, for the first time or again; return when it has loaded its data."""
        if self._running is None:
            self._stack.enter_context(self.reserve())
        with self.log_path.open("ab") as log:
            self._running = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self.pass_fds,
                start_new_session=True,
            )
        end = time.monotonic() + _START_TIMEOUT
        with redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0)) as client:
            while True:
                try:
                    client.ping()
                except (redis.ConnectionError, redis.TimeoutError):  # or it is still loading
                    if time.monotonic() > end:
                        raise
                    time.sleep(_LOOK_INTERVAL)
                else:
                    return

    def kill(self) -> None:
        """Kill it, and return when it is gone."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def stop(self) -> None:
        """Kill it for good; its data is needed no more."""
        self.kill()
        self._stack.close()

    def __enter__(self) -> Self:
        self.start()
        return self
