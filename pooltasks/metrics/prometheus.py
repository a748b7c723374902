"""Prometheus: the pools of an application in the registry of a process that serves metrics.

Every exporter of a deployment shows the same numbers: they come from Redis, and
nothing is counted here.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector as MetricCollector

from pooltasks.broker.client import impatient_client
from pooltasks.metrics.families import families
from pooltasks.metrics.standings import Standings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery
    from prometheus_client import Metric

logger = logging.getLogger(__name__)

_INTERVAL = 1.0
"""Seconds between two readings."""
_KEEP = 60.0
"""Seconds after a scrape for which readings go on."""
_PATIENCE = 0.5
"""Seconds for which a scrape waits for a first reading; it may stand on an event loop."""
_OLDEST = 5.0
"""Seconds after which a reading is no longer shown."""


def register(app: Celery) -> PoolCollector:
    """Add the metrics of an application's pools to the default registry.

    Returns:
        The collector; ``prometheus_client.REGISTRY.unregister`` takes it.

    Raises:
        ValueError: The pools of an application are registered already.
    """
    collector = PoolCollector(app)
    REGISTRY.register(collector)
    return collector


class PoolCollector(MetricCollector):
    """The metrics of the pools of one application.

    A thread reads them once a second for as long as they are scraped, so that a
    scrape costs what writing the text costs. Only the first one, and one after a
    minute without, waits for a reading: for half a second at most.
    """

    def __init__(self, app: Celery) -> None:
        self._standings = Standings(app, impatient_client(app))
        self._lock = threading.Lock()
        self._has_read = threading.Event()
        self._thread: threading.Thread | None = None
        self._scraped_at = 0.0
        self._latest: list[Metric] | None = None
        """None if the last reading failed, and before the first."""
        self._latest_at: float | None = None

    def describe(self) -> Iterable[Metric]:
        """Return the families without series, so that registering reads nothing."""
        return families({}, {}, up=None)

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        with self._lock:
            self._scraped_at = time.monotonic()
            if self._thread is None:
                # A reading from before the pause says nothing of now.
                self._has_read.clear()
                self._latest = self._latest_at = None
                self._thread = threading.Thread(target=self._keep_reading, daemon=True)
                self._thread.start()
        self._has_read.wait(_PATIENCE)
        with self._lock:
            latest, at = self._latest, self._latest_at
        if at is None:  # the first reading goes on
            return families({}, {}, up=None)
        if latest is None or time.monotonic() - at > _OLDEST:
            return families(self._standings.pools, {}, up=False)
        return latest

    def _keep_reading(self) -> None:
        while True:
            self._read()
            time.sleep(_INTERVAL)
            with self._lock:
                if time.monotonic() - self._scraped_at > _KEEP:
                    self._thread = None
                    return

    def _read(self) -> None:
        latest = None
        try:
            latest = families(
                self._standings.pools,
                self._standings.read(),
                up=True,
                memory=self._standings.server_memory().ratio,
            )
        except Exception as error:  # noqa: BLE001  whatever it is, `pooltasks_up` tells it
            if self._latest is not None or self._latest_at is None:
                logger.warning("the pools cannot be read: %s: %s", type(error).__name__, error)
        with self._lock:
            self._latest, self._latest_at = latest, time.monotonic()
        self._has_read.set()
