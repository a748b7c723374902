"""Celery's pool of processes, which notices at once that one of them ends."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from celery.concurrency.asynpool import AsynPool

_REAP_AGAIN = 0.002


class WatchedPool(AsynPool):
    """Watches the processes themselves, and not their pipes."""

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        """Have the loop notice a worker's end, whatever processes it has started.

        Celery waits for the end of a pipe that the worker keeps open; a process
        that the worker has started may keep it open for ever.
        """
        if not hasattr(proc, "_sentinel_poll"):
            # Not on every system; or the worker was reaped already. Then the pipe tells.
            with suppress(AttributeError, OSError):
                proc._sentinel_poll = os.pidfd_open(proc.pid)  # noqa: SLF001  Celery's name
        super()._track_child_process(proc, hub)

    def _event_process_exit(self, hub: Any, proc: Any, again: float = _REAP_AGAIN) -> None:
        """Reap a worker whose sentinel says that it ends.

        The kernel closes a process's files some moments before it can be waited
        for. Celery looks once, and would see such a death 5 s later.
        """
        super()._event_process_exit(hub, proc)
        if proc in self._pool:
            hub.call_later(again, self._event_process_exit, hub, proc, min(1.0, 2 * again))
