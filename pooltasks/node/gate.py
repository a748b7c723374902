"""The gate: a node reserves only for workers that are warm."""

from __future__ import annotations

from types import MethodType
from typing import Any

from celery import bootsteps
from celery.worker.consumer.tasks import Tasks


class Gate(bootsteps.StartStopStep):
    """Closes the consumer while no worker is warm, and narrows it while some are cold.

    kombu asks ``can_consume`` at every turn of the event loop before it asks
    the server for a message, and a worker that becomes warm wakes the loop: no
    polling is needed to open the gate.
    """

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        """Put the gate before the channel from which operations come."""
        pool = consumer.pool
        multiplier = consumer.prefetch_multiplier
        qos = consumer.task_consumer.channel.qos

        def can_consume(self: Any) -> bool:
            warm, cold = pool.warm_and_cold()
            if not warm:
                return False
            reserved: int = len(self._delivered) - len(self._dirty)
            room: int = max(1, self.prefetch_count - cold * multiplier)
            return reserved < room

        qos.can_consume = MethodType(can_consume, qos)
