"""Splitting: a pool's slots as workers of its live nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Capacity:
    """How many workers a node can have.

    Attributes:
        floor: The fewest, at least 1.
        ceiling: The most that its settings allow.
        room: The most that its host has memory and processors for now; it is
            never told to give workers up for want of room.
        size: What it has.
    """

    floor: int
    ceiling: int
    room: int
    size: int

    @property
    def most(self) -> int:
        """The most workers that it can be given."""
        return max(self.floor, min(self.ceiling, max(self.room, self.size)))


def split(slots: int, per_worker: int, nodes: Mapping[str, Capacity]) -> dict[str, int]:
    """Return the workers of each node that together have ``slots``, or the nearest to it.

    Every node gets its floor. The rest goes, a worker at a time, to the node that
    is least full for its ceiling: a divisor method (Webster's), so that one more
    slot never takes a worker from any node. The room, which changes from second to
    second, only bounds it.

    Args:
        slots: Wanted of the pool.
        per_worker: Slots of a worker.
        nodes: Capacity of each live node.
    """
    workers = {name: node.floor for name, node in nodes.items()}
    missing = math.ceil(slots / per_worker) - sum(workers.values())

    def fullness(name: str) -> tuple[float, str]:
        return (workers[name] + 0.5) / nodes[name].ceiling, name

    heap = [fullness(name) for name in nodes if workers[name] < nodes[name].most]
    heapify(heap)
    while heap and missing > 0:
        name = heap[0][1]
        workers[name] += 1
        missing -= 1
        if workers[name] < nodes[name].most:
            heapreplace(heap, fullness(name))
        else:
            heappop(heap)
    return workers


def hosts_wanted(slots: int, per_worker: int, nodes: Mapping[str, Capacity]) -> int:
    """Return how many nodes it takes to have ``slots``, given what the live ones can hold.

    Args:
        slots: Wanted of the pool, whatever the live nodes can hold.
        per_worker: Slots of a worker.
        nodes: Capacity of each live node; at least one.
    """
    mean = sum(node.most for node in nodes.values()) / len(nodes)
    return max(1, math.ceil(slots / per_worker / mean - 1e-9))
