"""The pool of a debugging node, ``-P solo``: operations run in the node's own process."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from pooltasks.node.debugging.one_worker import OneWorker
from pooltasks.node.workforce.task_pool import TaskPool

if TYPE_CHECKING:
    from pooltasks.node.scoreboard.sampler import Workforce


class SoloPool(TaskPool):
    """Celery's pool of a debugging node."""

    _pool: Any  # a OneWorker

    is_debugging = True
    workers_class = OneWorker

    def register_with_event_loop(self, loop: Any) -> None:
        """Attach to the loop; called again after each reconnection."""
        self._pool.register_with_event_loop(loop)
        self.gatherer.start(loop)
        if self.sampler is not None:
            self.sampler.start(loop)

    def on_close(self) -> None:
        """Take nothing more."""
        if self._pool is not None:
            self._pool.close()

    def on_stop(self) -> None:
        """End the worker; the node has waited for what it ran."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        self._after_stop(pool)

    on_terminate = on_stop

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest size: the one worker."""
        return 1, 1

    def _workforce(self) -> Workforce:
        # The process is the node's own: what it uses is counted there.
        return super()._workforce()._replace(pids=())

    def workers(self) -> list[dict[str, Any]]:
        """Return what is known of the worker; its health is not checked."""
        pool = self._pool
        return [
            {
                "pid": pool.pid,
                "state": "warm" if pool.warm else "warming",
                "busy": bool(pool.staff().busy),
                "outgoing": False,
                "cpu": time.process_time(),
                "memory": None,
                "age": time.monotonic() - pool.began,
                "operations": pool.done,
                "health": None,
            }
        ]

    def _get_info(self) -> dict[str, Any]:
        return {
            "implementation": f"{type(self).__module__}:{type(self).__name__}",
            "max-concurrency": 1,
            "processes": [os.getpid()],
        }
