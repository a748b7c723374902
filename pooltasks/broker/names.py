"""The keys and channels of one pool as the server knows them, with the deployment's prefix."""

from __future__ import annotations

from functools import partial

from pooltasks import keys
from pooltasks.broker.queues import PLACES, list_name


class Names:
    """The keys and channels of one pool.

    Args:
        queue: The pool's queue.
        prefix: The text that every key of the deployment begins with; may be empty.
        separator: Between a queue and a priority, as kombu has it.
    """

    def __init__(self, queue: str, prefix: str = "", separator: str | None = None) -> None:
        full = partial(keys.prefixed, prefix)
        self.queue = queue
        self.lists = [full(list_name(queue, place, separator)) for place in PLACES]
        """The queue's lists by place."""
        self.rollout = full(keys.rollout(queue))
        self.stable = [full(keys.track(queue, "stable", place)) for place in PLACES]
        """The lists of operations for the version before a rollout, by place."""
        self.canary = [full(keys.track(queue, "canary", place)) for place in PLACES]
        """The lists of operations for the version that is rolled out, by place."""
        self.of_rollout = [self.rollout, *self.lists, *self.stable, *self.canary]
        """The keys of sort.lua."""
        self.index = full(keys.unacked_index(queue))
        self.leases = full(keys.leases(queue))
        self.watchers = full(keys.watchers(queue))
        self.delayed = full(keys.delayed(queue))
        self.delayed_messages = full(keys.delayed_messages(queue))
        self.dead = full(keys.dead_letters(queue))
        self.dead_messages = full(keys.dead_messages(queue))
        self.dead_order = full(keys.dead_order(queue))
        self.held = full(keys.flow(queue, "held"))
        self.limits = full(keys.flow(queue, "limits"))
        self.resume = full(keys.flow(queue, "resume"))
        self.nodes = full(keys.flow(queue, "nodes"))
        self.of_limits = [
            full(keys.flow(queue, "running")),
            self.held,
            full(keys.flow(queue, "messages")),
            self.limits,
            full(keys.flow(queue, "rates")),
            self.resume,
            *self.lists,
        ]
        """The keys that limits.lua has at the end of all others."""
        self.waiting = full(keys.flow(queue, "waiting"))
        self.of_turns = [
            *(full(keys.flow(queue, name)) for name in keys.OF_TURNS),
            *self.of_limits,
        ]
        """The keys of turns.lua, and then those of limits.lua."""
        self.room = full(keys.room(queue))
        self.totals = full(keys.pool_totals(queue.removeprefix(keys.QUEUE_PREFIX)))
        self.alive = full(keys.alive(queue))
        """Channel of all nodes."""
        self.due = full(keys.due(queue))
        """Channel of the nodes that watch."""
        self._full = full

    def unacked(self, identity: str) -> str:
        """Return the hash of what a node has reserved."""
        return self._full(keys.unacked(self.queue, identity))

    def incoming(self, identity: str) -> str:
        """Return the list that takes the message which wakes a node."""
        return self._full(keys.incoming(self.queue, identity))

    def unique(self, digest: str) -> str:
        """Return the key that one call of a unique operation has."""
        return self._full(keys.unique(self.queue, digest))

    def alive_of(self, identity: str) -> str:
        """Return the channel of one node."""
        return f"{self.alive}:{identity}"

    def beat_of(self, identity: str) -> str:
        """Return the channel over which a node has its server say that the intake is open."""
        return f"{self.alive_of(identity)}:beat"
