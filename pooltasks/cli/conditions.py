"""The options of ``pool simulate`` for delays, nodes and faults."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from pooltasks.broker.limiting import per_second

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = {
    "tick": click.option(
        "--tick",
        default=1.0,
        show_default=True,
        type=click.FloatRange(min=0.1),
        help="Seconds between decisions.",
    ),
    "actuation": click.option(
        "--actuation",
        default=0.15,
        show_default=True,
        type=click.FloatRange(min=0.0),
        help="Seconds from a decision until nodes act on it.",
    ),
    "fork": click.option(
        "--fork",
        default=0.0,
        show_default=True,
        type=click.FloatRange(min=0.0),
        help="Seconds of one fork; a node forks one worker after another.",
    ),
    "warm_up": click.option(
        "--warm-up",
        default=0.5,
        show_default=True,
        type=click.FloatRange(min=0.0),
        help="Seconds from a fork until the worker takes work.",
    ),
    "nodes": click.option(
        "--nodes",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="Nodes that share the workers.",
    ),
    "spares": click.option(
        "--spares",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Warm workers of each node beyond its size.",
    ),
    "overflow": click.option(
        "--overflow",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Temporary workers that each node may have beyond its size.",
    ),
    "crashes_per_hour": click.option(
        "--crashes",
        "crashes_per_hour",
        default=0.0,
        type=click.FloatRange(min=0.0),
        help="Workers that die in an hour.",
    ),
    "node_crashes": click.option(
        "--node-crash",
        "node_crashes",
        multiple=True,
        type=click.FloatRange(min=0.0),
        metavar="SECONDS",
        help="A node dies then, and is back after 10 s. Repeated: each time the next node.",
    ),
    "lost_metrics": click.option(
        "--lost",
        "lost_metrics",
        default=0.0,
        type=click.FloatRange(min=0.0, max=100.0, max_open=True),
        metavar="PER CENT",
        help="Samples of a node that never arrive.",
    ),
    "late_metrics": click.option(
        "--late",
        "late_metrics",
        default=0.0,
        type=click.FloatRange(min=0.0),
        metavar="SECONDS",
        help="How late samples arrive.",
    ),
    "keys": click.option(
        "--keys",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="Keys of the operations, if there are limits.",
    ),
    "concurrency": click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        help="A limit: how many of a key run at once.",
    ),
    "key_rate": click.option(
        "--key-rate", help="A limit: how many of a key start, as 100/s, 90/m or 5/h."
    ),
}


def conditions(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` these options, as one argument ``conditions``."""

    @wraps(command)
    def gathered(*arguments: Any, **options: Any) -> None:
        # Inside, because a node loads this module with every command of Celery.
        from pooltasks.simulator.conditions import Conditions, KeyLimits, NodeCrash

        its = {option: options.pop(option) for option in _OPTIONS}
        its["lost_metrics"] /= 100.0
        its["node_crashes"] = tuple(
            NodeCrash(at, number % its["nodes"])
            for number, at in enumerate(sorted(its["node_crashes"]))
        )
        keys, concurrency, rate = (its.pop(name) for name in ("keys", "concurrency", "key_rate"))
        if concurrency or rate:
            its["limits"] = KeyLimits(keys, concurrency, per_second(rate) if rate else None)
        command(*arguments, **options, conditions=Conditions(**its))

    for option in reversed(_OPTIONS.values()):
        option(gathered)
    return gathered
