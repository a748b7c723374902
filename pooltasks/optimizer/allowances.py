"""Allowances: the temporary workers that each node may have, and the nodes to tell.

A node begins with the number of its settings (``max_overflow``). A policy may allow more;
a node that starts again has forgotten that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.metrics.samples import StoredSample

AGAIN = 60.0
"""Seconds after which a node is told again: the first message may have been lost."""

Told = dict[str, tuple[int, int, float]]
"""The nodes that were told: workers, the number of its sample then, server time."""


def share(slots: int, per_worker: int, nodes: int) -> int:
    """Return the temporary workers of each node that together have ``slots``, rounded up."""
    return math.ceil(slots / per_worker / nodes)


def to_tell(
    each: int, nodes: Mapping[str, StoredSample], told: Told, *, default: int, now: float
) -> list[str]:
    """Return the nodes that have to be told that they may have ``each``.

    Args:
        each: Temporary workers.
        nodes: Of each node that serves, its last sample.
        told: The temporary workers that nodes were told before.
        default: The temporary workers that a node begins with.
        now: Server time.
    """
    names = []
    for name, one in nodes.items():
        workers, number, at = told.get(name, (default, 0, now))
        if one.sample.number < number:  # it has started again
            workers = default
        if each != workers or (each != default and now - at >= AGAIN):
            names.append(name)
    return names


def noted(
    each: int, nodes: Mapping[str, StoredSample], told: Told, *, default: int, now: float
) -> Told:
    """Return ``told`` once the nodes of :func:`to_tell` are told, too. Arguments as there."""
    names = to_tell(each, nodes, told, default=default, now=now)
    kept = {name: its for name, its in told.items() if name in nodes and name not in names}
    if each == default:
        return kept
    return {**kept, **{name: (each, nodes[name].sample.number, now) for name in names}}
