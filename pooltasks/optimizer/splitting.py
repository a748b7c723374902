"""Splitting: a pool's slots as workers of its live nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True)
class Capacity:
    """How many workers a node can have.

    Attributes:
        floor: The fewest, at least 1.
        ceiling: The most that its settings allow.
        room: The most that its host has memory and processors for now; it is
            never told to give workers up for want of room.
        size: The workers that it has.
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


def split_by_share(
    slots: int,
    per_worker: int,
    nodes: Mapping[str, Capacity],
    newer: Collection[str],
    share: float | None,
) -> dict[str, int]:
    """Return the workers of each node, as :func:`split`, while some do only a share of the work.

    A part of the work varies more for its size than the whole: so each part gets the square
    root of its slots on top, as staffing by the square root has it.

    Args:
        slots: Wanted of the pool.
        per_worker: Slots of a worker.
        nodes: Capacity of each live node.
        newer: Those of them that run the new version of a rollout.
        share: The share (0-1) of the work that these do; None: all nodes do all of it.
    """
    if share is None:
        return split(slots, per_worker, nodes)
    workers: dict[str, int] = {}
    for is_newer, part in ((True, slots * share), (False, slots * (1 - share))):
        its = {name: node for name, node in nodes.items() if (name in newer) == is_newer}
        workers |= split(min(slots, math.ceil(part + math.sqrt(part))), per_worker, its)
    return workers
