"""Hosts: the number of nodes that a pool needs, for an autoscaler of hosts.

A host takes a minute to start, so a load that is over by then needs none. Only two things
count: the slots that arrivals need, and a backlog that these would not drain within two
minutes. A wish has to last before it changes the number, in both directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from pooltasks.optimizer.splitting import Capacity

DRAINED = 120.0
"""Seconds that a backlog may take to drain. A host helps only after a minute."""
_UP = 30.0
"""Seconds for which more slots must be wanted before there are more hosts."""
_DOWN = 60.0
"""Seconds for which fewer must suffice before there are fewer."""


def lasting_slots(staffed: int, load: float, waiting: int, service: float) -> int:
    """Return the slots for which a host is worth starting.

    Args:
        staffed: Slots that arrivals need for the objective.
        load: Busy slots that arrivals keep, on average.
        waiting: Operations that wait.
        service: Mean seconds of an operation.
    """
    draining = math.ceil(load + waiting * service / DRAINED)
    # An operation has one slot: slots beyond the number of operations would be idle.
    return max(1, staffed, min(draining, math.ceil(load) + waiting))


@dataclass
class Hosts:
    """The number of nodes that are wanted, and the slots wanted lately. JSON values."""

    wanted: int = 1
    lately: list[tuple[float, int]] = field(default_factory=list)
    """Server time, slots."""

    def want(
        self,
        now: float,
        slots: int | None,
        per_worker: int,
        nodes: Collection[Capacity],
        *,
        drained: int = 0,
        most: int | None = None,
    ) -> int:
        """Return how many nodes there are to be.

        Args:
            now: Server time.
            slots: Slots that are needed for long, even beyond the present nodes; None if
                the policy does not say: then no node that serves is given up.
            per_worker: Slots of a worker.
            nodes: Nodes that serve the pool; at least one.
            drained: Further nodes that were told to take nothing more and have not been
                ended: they run, and count as hosts.
            most: The most nodes that may be asked for; None if there is no limit.
        """
        limit = math.inf if most is None else most
        if slots is None:
            self.lately.clear()
            wanted = max(self.wanted, len(nodes) + drained)
        else:
            while self.lately and self.lately[0][0] <= now - _DOWN:
                self.lately.pop(0)
            if not self.lately:
                # Before the first decision, or after a long pause, present nodes count as wanted.
                self.lately.append((now, sum(node.most for node in nodes) * per_worker))
                self.wanted = len(nodes)
            self.lately.append((now, slots))
            least = min(wish for at, wish in self.lately if at > now - _UP)
            largest = max(wish for _, wish in self.lately)
            mean = sum(node.most for node in nodes) / len(nodes)

            def holding(slots: int) -> int:
                return max(1, math.ceil(slots / per_worker / mean - 1e-9))

            serving = min(max(self.wanted, holding(least)), holding(largest))
            self.wanted = int(min(serving, limit))
            wanted = self.wanted + drained
        return int(min(wanted, limit))
