"""Feed: reads the pools for all viewers, in one thread.

A pool is read when the first viewer asks; all others who ask within the same
moment get the same bytes. Without a viewer nothing is read.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import redis
from celery.utils.log import get_logger

from pooltasks.app import settings_of
from pooltasks.broker.client import impatient_client
from pooltasks.dashboard import view
from pooltasks.dashboard.reader import PoolReader
from pooltasks.dashboard.watch import NodeWatch
from pooltasks.keys import CONTROL_POOL
from pooltasks.remote import server_name

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from celery import Celery

logger = get_logger(__name__)

_FRESH = 0.4
"""Seconds for which an answer serves all viewers of the same page."""
_IDLE = 60.0
"""Seconds after which a pool without viewers is forgotten."""
_GZIP_LEVEL = 4  # half the time of the default for 5 % more bytes


class Feed:
    """Answers the requests of pages, as compressed JSON.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(1, "pooltasks-feed")
        self._beside = ThreadPoolExecutor(1, "pooltasks-history")
        self._client = impatient_client(app)
        self._watch = NodeWatch(app)
        self._watch.start()
        self._readers: dict[str, PoolReader] = {}
        self._answers: dict[Hashable, tuple[float, asyncio.Future[bytes]]] = {}
        self._away_since: float | None = None

    def pools(self) -> list[str]:
        """Return the names of the pools that are configured, the control pool last."""
        return [*settings_of(self._app).pools, CONTROL_POOL]

    async def overview(self) -> bytes:
        """Return all pools, the worst first."""
        return await self._answer("overview", self._overview)

    async def page(self, pool: str, window: int, since: float | None) -> bytes:
        """Return one pool; see :meth:`PoolReader.page`."""
        return await self._answer(
            (pool, window, since), lambda: self._reader(pool).page(window, since)
        )

    def close(self) -> None:
        """End the threads."""
        self._watch.close()
        for thread in (self._thread, self._beside):
            thread.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, question: Hashable, read: Callable[[], dict[str, Any]]) -> bytes:
        now = time.monotonic()
        self._answers = {
            asked: (at, answer)
            for asked, (at, answer) in self._answers.items()
            if not answer.done() or now - at < _FRESH
        }
        if question not in self._answers:
            loop = asyncio.get_running_loop()
            answer = loop.run_in_executor(self._thread, self._encoded, read)
            self._answers[question] = (now, answer)
        # Shielded: a viewer who leaves takes nothing from the others.
        return await asyncio.shield(self._answers[question][1])

    def _encoded(self, read: Callable[[], dict[str, Any]]) -> bytes:
        try:
            answer = {**read(), "server": {"reachable": True}}
            self._away_since = None
        except redis.RedisError as error:
            if self._away_since is None:
                self._away_since = time.time()
                logger.warning("the server does not answer: %s", error)
            answer = {
                "server": {
                    "reachable": False,
                    "since": self._away_since,
                    "name": server_name(self._app),
                    "error": type(error).__name__,
                }
            }
        self._forget_unused()
        text = json.dumps(answer, allow_nan=False, separators=(",", ":"))
        return gzip.compress(text.encode(), _GZIP_LEVEL, mtime=0)

    def _overview(self) -> dict[str, Any]:
        lines = [self._reader(pool).overview() for pool in self.pools()]
        lines.sort(key=lambda line: (line["own"], -view.concern(line)))
        return {"at": max((line["at"] for line in lines), default=None), "pools": lines}

    def _reader(self, pool: str) -> PoolReader:
        if pool not in self._readers:
            self._readers[pool] = PoolReader(
                self._app, self._client, pool, self._watch, self._beside
            )
        reader = self._readers[pool]
        reader.used_at = time.monotonic()
        return reader

    def _forget_unused(self) -> None:
        now = time.monotonic()
        self._readers = {
            name: reader for name, reader in self._readers.items() if now - reader.used_at < _IDLE
        }
