"""The screen's data, read in a thread of its own: a server that is away delays no key."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from pooltasks.app import settings_of
from pooltasks.broker.client import impatient_client
from pooltasks.dashboard import view
from pooltasks.dashboard.reader import PoolReader
from pooltasks.dashboard.watch import NodeWatch
from pooltasks.errors import ErrorGroupNotFoundError
from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.error_groups import ErrorGroups

if TYPE_CHECKING:
    from celery import Celery

_WINDOW = 60
"""Seconds that a pool's numbers cover; one of the windows of the pages."""
_SHARE = 0.03
"""Share of a core that readings may take. Where there are many pools they come less often."""


@dataclass(frozen=True)
class Reading:
    """The data that was read at one moment."""

    at: float = 0.0
    """Server time, seconds since the epoch; 0: nothing was read yet."""
    pools: list[dict[str, Any]] = field(default_factory=list)
    """The pools as on the list of the pages, the worst first."""
    page: dict[str, Any] | None = None
    """One pool, as its page has it."""
    error: dict[str, Any] | None = None
    """One kind of errors, with its example."""
    away: str | None = None
    """The problem with the server; the other fields were read before."""
    away_since: float = 0.0
    """Seconds since the epoch."""


class Feed(threading.Thread):
    """Reads again and again, until it is closed: all pools, or only the one that is shown in full.

    Args:
        app: The application.
        interval: Seconds between two readings at the least.
    """

    def __init__(self, app: Celery, interval: float) -> None:
        super().__init__(name="pooltasks-top", daemon=True)
        self._app = app
        self._interval = interval
        self._client = impatient_client(app)
        self._watch = NodeWatch(app, period=interval)
        self._beside = ThreadPoolExecutor(1, "pooltasks-top-history")
        self._readers: dict[str, PoolReader] = {}
        self._wanted: tuple[str | None, str | None] = (None, None)
        self._look = threading.Event()
        self._closed = False
        self.reading = Reading()
        """The last reading; each is a new object."""

    def want(self, pool: str | None, error: str | None) -> None:
        """Choose the pool and the kind of its errors that are shown in full; read them at once."""
        if (pool, error) != self._wanted:
            self._wanted = (pool, error)
            self._look.set()

    def close(self) -> None:
        """Read no more."""
        self._closed = True
        self._look.set()
        self._watch.close()
        self._beside.shutdown(wait=False, cancel_futures=True)

    def run(self) -> None:
        """Read until closed; for the thread only."""
        self._watch.start()
        while not self._closed:
            started, used = time.monotonic(), time.thread_time()
            self._look.clear()
            self._read()
            pause = max(self._interval, (time.thread_time() - used) / _SHARE)
            self._look.wait(max(0.0, started + pause - time.monotonic()))

    def _read(self) -> None:
        pool, error = self._wanted
        before = self.reading
        try:
            lines = [self._reader(name).overview() for name in self._names(pool)]
            fresh = {line["pool"] for line in lines}
            lines += [line for line in before.pools if line["pool"] not in fresh]
            lines.sort(key=lambda line: (line["own"], -view.concern(line)))
            self.reading = Reading(
                at=max((line["at"] for line in lines), default=0.0),
                pools=lines,
                page=self._reader(pool).page(_WINDOW, None) if pool else None,
                error=self._error(pool, error) if pool and error else None,
            )
        except (RedisError, OperationalError) as failure:
            self.reading = Reading(
                before.at,
                before.pools,
                before.page,
                before.error,
                away=str(failure) or type(failure).__name__,
                away_since=before.away_since if before.away else time.time(),
            )

    def _names(self, pool: str | None) -> list[str]:
        if pool is not None and self.reading.pools:
            return [pool]
        return [*settings_of(self._app).pools, CONTROL_POOL]

    def _reader(self, pool: str) -> PoolReader:
        if pool not in self._readers:
            self._readers[pool] = PoolReader(
                self._app, self._client, pool, self._watch, self._beside
            )
        return self._readers[pool]

    def _error(self, pool: str, kind: str) -> dict[str, Any] | None:
        try:
            group, example = ErrorGroups(self._client, pool).show(kind)
        except ErrorGroupNotFoundError:
            return None
        return {**asdict(group), "title": group.title, "example": example and asdict(example)}
