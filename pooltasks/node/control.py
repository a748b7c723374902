"""Control commands of a node, part of Celery's remote control API."""

from __future__ import annotations

import os
import time
from typing import Any

from celery.worker import state as worker_state
from celery.worker.control import control_command, inspect_command
from celery.worker.request import Request


@inspect_command()
def pool_status(state: Any) -> dict[str, Any]:
    """Return which pool the node serves and how its workers are."""
    consumer = state.consumer
    return {
        "pool": consumer.app.pooltasks.pool,
        "pid": os.getpid(),
        **_sizes(consumer),
        **_drain(consumer),
        "workers": [{**worker, **_doing(worker["pid"])} for worker in consumer.pool.workers()],
        "warm_up": consumer.pool.warm_up_report(),
    }


@control_command(
    args=[("size", int), ("spares", int), ("token", int)], signature="SIZE [SPARES [TOKEN]]"
)
def pool_resize(
    state: Any, size: int, spares: int | None = None, token: int | None = None
) -> dict[str, Any]:
    """Set the exact size of the node; see :meth:`TaskPool.resize`.

    Returns:
        What is true afterwards, as in ``pool_status``; ``refused`` says why
        nothing was changed, None if it was.
    """
    consumer = state.consumer
    refused = None
    try:
        consumer.pool.resize(size, spares, token)
    except ValueError as error:
        refused = str(error)
    else:
        _set_prefetch_count(consumer)
    return {**_sizes(consumer), "refused": refused}


@control_command(args=[("undo", bool)], signature="[UNDO]")
def pool_drain(state: Any, undo: bool = False) -> dict[str, Any]:
    """Have the node reserve nothing more, and finish what it has; or take up work again.

    Returns:
        ``draining``, ``reserved`` and ``empty`` as in ``pool_status``.
    """
    state.consumer.pool.draining = not undo
    return _drain(state.consumer)


@control_command()
def pool_warm(state: Any) -> dict[str, Any]:
    """Warm every worker of the node up again; ``pool_warm_report`` tells how it went."""
    return {"round": state.consumer.pool.warm_again()}


@inspect_command(args=[("number", int)])
def pool_warm_report(state: Any, number: int) -> dict[str, Any]:
    """Return the merged report of a warm-up round and whether it is finished."""
    report: dict[str, Any] = state.consumer.pool.warm_up_report(number)
    return report


def _doing(pid: int) -> dict[str, Any]:
    """Return what a worker runs.

    Returns:
        ``running``: how many operations; and of the longest ``operation``, its ``id`` and for
        how many ``seconds``, None if there is none.
    """
    its = [request for request in worker_state.active_requests if request.worker_pid == pid]
    if not its:
        return {"running": 0, "operation": None, "id": None, "seconds": None}
    longest = min(its, key=lambda request: request.time_start)
    return {
        "running": len(its),
        "operation": longest.name,
        "id": longest.id,
        "seconds": round(time.time() - longest.time_start, 3),
    }


def _sizes(consumer: Any) -> dict[str, Any]:
    prefetch = consumer.task_consumer.channel.qos.prefetch_count
    return {**consumer.pool.sizes(), "prefetch": prefetch}


def _drain(consumer: Any) -> dict[str, Any]:
    # What waits for its time does not count: it goes back to the queue when the node stops.
    reserved = len(worker_state.reserved_requests)
    draining = consumer.pool.draining
    return {"draining": draining, "reserved": reserved, "empty": draining and not reserved}


def _set_prefetch_count(consumer: Any) -> None:
    """Set the count to workers × multiplier, whatever it was before.

    Celery adds and subtracts, and is off for ever once one of its steps failed.
    On top come the operations that wait for their time, for which Celery has
    raised the count and will lower it again.
    """
    count = consumer.initial_prefetch_count = consumer.max_prefetch_count
    waiting = sum(map(_waits_for_its_time, consumer.timer.schedule.queue))
    qos = consumer.qos
    with qos._mutex:  # noqa: SLF001  kombu's name
        qos.value = count + waiting if count else 0
    qos.update()


def _waits_for_its_time(scheduled: Any) -> bool:
    entry = scheduled.entry
    return not entry.canceled and isinstance(next(iter(entry.args or ()), None), Request)
