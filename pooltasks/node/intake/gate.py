"""The gate: a node reserves only for workers that are warm."""

from __future__ import annotations

from types import MethodType
from typing import Any

from celery import bootsteps
from celery.worker.consumer.tasks import Tasks

_NO_LIMIT = 1000
"""Messages that a node holds at the most where Celery's settings have no limit."""


def allowed(pool: Any, multiplier: int, prefetch_count: int) -> int:
    """Return how many messages a node may hold for the workers that are warm.

    Args:
        pool: The node's.
        multiplier: Messages for each worker; 0: no limit.
        prefetch_count: For all workers, if they were warm; 0: no limit.
    """
    if pool.draining:
        return 0
    warm, cold = pool.warm_and_cold()
    if not warm:
        return 0
    if not prefetch_count:
        return _NO_LIMIT
    widened: int = prefetch_count + (pool.overflow - cold) * multiplier
    return max(1, widened)


class Gate(bootsteps.StartStopStep):
    """Closes the consumer of kombu's own transport while no worker is warm.

    While some are cold it narrows it.

    The prefetch count is of the size. Temporary workers widen the gate while they serve.

    It is closed, too, while the node is being drained.

    kombu asks ``can_consume`` at every turn of the event loop before it asks
    the server for a message, and a worker that becomes warm wakes the loop: no
    polling is needed to open the gate.

    With the stock transport the gate may close while the server still owes the
    answer to a BRPOP, for at most kombu's ``brpop_timeout`` (1 s). kombu would
    leave that answer in the socket until the gate opens; a message in it would
    be in no list of the server meanwhile, out of reach of other nodes, and lost
    with this one. So the answer is read when it comes and its message goes back
    to where it was.
    """

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        """Put the gate before the channel from which operations come."""
        pool = consumer.pool
        multiplier = consumer.prefetch_multiplier * pool.slots
        channel = consumer.task_consumer.channel
        qos = channel.qos
        deliver = channel.handlers["BRPOP"]

        def is_open() -> bool:
            reserved: int = len(qos._delivered) - len(qos._dirty)  # noqa: SLF001  kombu's names
            most = allowed(pool, multiplier, qos.prefetch_count)
            return most > 0 and reserved < most + pool.gatherer.room()

        def can_consume(_: Any) -> bool:
            # While an answer is owed, kombu asks for no further message.
            return is_open() or bool(channel._in_poll)  # noqa: SLF001  kombu's name

        def receive() -> Any:
            return deliver() if is_open() else _put_back(channel)

        qos.can_consume = MethodType(can_consume, qos)
        channel.handlers["BRPOP"] = receive


def _put_back(channel: Any) -> None:
    """Read the answer to a BRPOP and return its message to the end it was taken from."""
    connection = channel.client.connection
    try:
        answer = channel.client.parse_response(connection, "BRPOP")
    except channel.connection_errors:
        connection.disconnect()  # as kombu: the next turn of the loop connects again
        raise
    finally:
        channel._in_poll = None  # noqa: SLF001  kombu's name
    if answer:
        queue, message = answer
        with channel.conn_or_acquire() as client:
            client.rpush(queue, message)
