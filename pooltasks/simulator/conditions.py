"""The conditions of a run: delays, nodes and faults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NodeCrash:
    """A node that dies ``at`` (seconds) and is back after ``outage`` seconds."""

    at: float
    node: int
    outage: float = 10.0


@dataclass(frozen=True)
class KeyLimits:
    """Limits by key that all operations have.

    Attributes:
        keys: How many keys there are, ≥ 1; an operation has each with the same probability.
        concurrency: How many of a key run at once; None: any number.
        rate: How many of a key start in a second; None: any number.
        burst: How many of them may start at once; None: as ``@operation`` has it.
    """

    keys: int = 1
    concurrency: int | None = None
    rate: float | None = None
    burst: int | None = None


@dataclass(frozen=True)
class Conditions:
    """The delays between a decision and a warm worker, and the faults.

    Attributes:
        wait: The objective's wait, seconds; longer ones are late.
        tick: Seconds between decisions.
        actuation: Seconds from a decision until nodes act on it.
        fork: Seconds that a node takes for one fork; it forks one worker after another.
        warm_up: Seconds from a fork until the worker takes work.
        initial: Workers at the start, all warm.
        nodes: Nodes that share the workers.
        spares: Warm workers of each node beyond its share, which take over at once when
            it is to have more or one of its workers dies.
        overflow: Temporary workers that each node may have beyond its share, for operations
            that no worker has time for.
        crashes_per_hour: Workers that die, all together.
        node_crashes: Nodes that die.
        redelivery: Seconds until a dead worker's operation is back in the queue.
        lost_metrics: Share of a node's samples that never arrive, 0–1. Counters
            are cumulative: the next sample makes up for it.
        late_metrics: Seconds that a node's samples are late.
        limits: The limits by key; None: there are none.
        warm_in: Seconds at the start that are not measured.
    """

    wait: float = 0.05
    tick: float = 1.0
    actuation: float = 0.15
    fork: float = 0.0
    warm_up: float = 0.5
    initial: int = 4
    nodes: int = 1
    spares: int = 0
    overflow: int = 0
    crashes_per_hour: float = 0.0
    node_crashes: tuple[NodeCrash, ...] = ()
    redelivery: float = 0.08
    lost_metrics: float = 0.0
    late_metrics: float = 0.0
    limits: KeyLimits | None = None
    warm_in: float = 60.0
