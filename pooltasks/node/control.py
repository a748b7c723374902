"""Control commands of a node, part of Celery's remote control API."""

from __future__ import annotations

import os
import time
from typing import Any

from celery.utils.functional import maybe_list
from celery.worker import state as worker_state
from celery.worker.control import control_command, inspect_command, nok, ok
from celery.worker.control import revoke as celerys_revoke
from celery.worker.control import revoke_by_stamped_headers as celerys_revoke_by_headers
from celery.worker.request import Request
from pydantic import ValidationError

from pooltasks.pool_settings import WarmUp

_KNOWN_SECONDS = 0.15
"""Seconds after which a node knows the operations that a worker has begun."""


@inspect_command()
def pool_status(state: Any) -> dict[str, Any]:
    """Return which pool the node serves and how its workers are."""
    consumer = state.consumer
    return {
        "pool": consumer.app.pooltasks.pool,
        "pid": os.getpid(),
        "version": consumer.app.pooltasks.settings.version,
        "retired": consumer.pool.is_retired,
        **_sizes(consumer),
        **_drain(consumer),
        "workers": [{**worker, **_doing(worker["pid"])} for worker in consumer.pool.workers()],
        "warm_up": consumer.pool.warm_up_report(),
    }


@control_command(
    args=[("size", int), ("spares", int), ("token", int), ("overflow", int)],
    signature="SIZE [SPARES [TOKEN [OVERFLOW]]]",
)
def pool_resize(
    state: Any,
    size: int,
    spares: int | None = None,
    token: int | None = None,
    overflow: int | None = None,
) -> dict[str, Any]:
    """Set the exact size of the node; see :meth:`TaskPool.resize`.

    Returns:
        The state afterwards, as in ``pool_status``; ``refused`` says why
        nothing was changed, None if it was.
    """
    consumer = state.consumer
    refused = None
    try:
        consumer.pool.resize(size, spares, token, overflow)
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
    if state.consumer.intake is not None:
        state.consumer.intake.drain(undo=undo)
    return _drain(state.consumer)


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(
    state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **options: Any
) -> Any:
    """Revoke task by task id (or list of ids)."""
    ids = maybe_list(task_id) or []
    if _knows_all(state):
        answer = celerys_revoke(state, task_id, terminate, signal, **options)
    else:
        worker_state.revoked.update(ids)  # nothing of it begins any more
        order = (state, task_id, terminate, signal)
        state.consumer.timer.call_after(_KNOWN_SECONDS, celerys_revoke, order, options)
        answer = ok(f"tasks {', '.join(ids)} flagged as revoked")
    intake = getattr(state.consumer, "intake", None)
    if intake is not None:
        # Operations that wait for their time at the server end as revoked now.
        intake.hurry(ids)
    return answer


@control_command(
    args=[("signal", str)],
    variadic="task_id",
    signature="<signal> [id1 [id2 [... [idN]]]]",
)
def terminate(state: Any, signal: Any, task_id: Any, **_options: Any) -> Any:
    """Terminate task by task id (or list of ids)."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: Any, headers: Any, terminate: bool = False, signal: Any = None, **options: Any
) -> Any:
    """Revoke task by header (or list of headers)."""
    order = (state, headers, terminate, signal)
    knows_all = _knows_all(state)
    answer = celerys_revoke_by_headers(*order, **options)
    if terminate and not knows_all:
        state.consumer.timer.call_after(_KNOWN_SECONDS, celerys_revoke_by_headers, order, options)
    return answer


def _knows_all(state: Any) -> bool:
    """Have workers begin nothing by themselves; return whether the node knows all that runs."""
    loans = getattr(state.consumer.pool, "loans", None)
    if loans is None:
        return True
    loans.recall()
    return not loans.is_out()


@control_command(args=[("strategy", str), ("commands", list)], signature="[STRATEGY [COMMANDS]]")
def pool_warm(state: Any, strategy: str | None = None, commands: Any = None) -> dict[str, Any]:
    """Warm every worker of the node up again; ``pool_warm_report`` tells how it went.

    Args:
        state: Of Celery's control commands.
        strategy: By default the pool's.
        commands: As in the settings; by default the pool's.

    Returns:
        ``round``: its number, and ``refused``: None. If nothing was done: None, and why.
    """
    app = state.consumer.app
    settings = app.pooltasks.settings.pool_settings(app.pooltasks.pool).warmup
    given = {"strategy": strategy, "commands": commands}
    try:
        order = WarmUp.model_validate(
            {**dict(settings), **{name: its for name, its in given.items() if its is not None}}
        )
    except ValidationError as error:
        said = error.errors(include_url=False)[0]
        return {"round": None, "refused": f"{'.'.join(map(str, said['loc']))}: {said['msg']}"}
    for command in order.commands:
        if command.operation not in app.tasks:
            return {"round": None, "refused": f"there is no operation {command.operation!r}"}
    return {"round": state.consumer.pool.warm_again(order), "refused": None}


@inspect_command(args=[("number", int)])
def pool_warm_report(state: Any, number: int) -> dict[str, Any]:
    """Return the merged report of a warm-up round and whether it is finished."""
    report: dict[str, Any] = state.consumer.pool.warm_up_report(number)
    return report


@control_command(signature="")
def pool_restart(_state: Any, **_arguments: Any) -> dict[str, Any]:
    """Refuse Celery's command of this name: it would forget what the workers run."""
    refusal: dict[str, Any] = nok(
        "pool_restart: the workers of a pool cannot be restarted together. To load new code, "
        "drain the node (pool drain) and start it again; to warm its workers up again: pool warm."
    )
    return refusal


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
    prefetch = consumer.qos.value
    return {**consumer.pool.sizes(), "prefetch": prefetch}


def _drain(consumer: Any) -> dict[str, Any]:
    # An operation that is not due does not count: it goes back to the queue when the node stops.
    reserved = len(worker_state.reserved_requests)
    draining = consumer.pool.draining or consumer.pool.is_retired
    empty = draining and not reserved and not consumer.pool.loans.is_out()
    return {"draining": draining, "reserved": reserved, "empty": empty}


def _set_prefetch_count(consumer: Any) -> None:
    """Set the count to workers × multiplier, whatever it was before.

    Celery adds and subtracts, and is off for ever once one of its steps failed.
    With kombu's own transport, the operations that wait for their time come on top:
    Celery has raised the count for them and will lower it again.
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
