"""Control commands of a node, part of Celery's remote control API."""

from __future__ import annotations

import os
from typing import Any

from celery.worker.control import control_command, inspect_command


@inspect_command()
def pool_status(state: Any) -> dict[str, Any]:
    """Return which pool the node serves and how its workers are."""
    consumer = state.consumer
    warm, cold = consumer.pool.warm_and_cold()
    return {
        "pool": consumer.app.pooltasks.pool,
        "pid": os.getpid(),
        "size": consumer.pool.num_processes,
        "warm": warm,
        "cold": cold,
        "workers": consumer.pool.workers(),
        "warm_up": consumer.pool.warm_up_report(),
    }


@control_command()
def pool_warm(state: Any) -> dict[str, Any]:
    """Warm every worker of the node up again; ``pool_warm_report`` tells how it went."""
    return {"round": state.consumer.pool.warm_again()}


@inspect_command(args=[("number", int)])
def pool_warm_report(state: Any, number: int) -> dict[str, Any]:
    """Return the merged report of a warm-up round and whether it is finished."""
    report: dict[str, Any] = state.consumer.pool.warm_up_report(number)
    return report
