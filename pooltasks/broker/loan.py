"""A loan: a node lets a worker wait at the server in its place.

The worker asks with the node's identity and epoch, for one message at a time. So the messages
that it gets are the node's reservations: if the node or the worker dies they go back like all
others. Each loan has numbers of reservations of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pooltasks.broker.completion import Batch
from pooltasks.broker.reservations import COMPLETE, trial_mark
from pooltasks.broker.scripts import Script, load
from pooltasks.broker.wire import pack

if TYPE_CHECKING:
    from pooltasks.broker.results import StoredResult
    from pooltasks.broker.wire import Wire

NUMBERS = 500
"""Reservations that a worker may make with one loan."""
WAIT_SECONDS = 0.25
"""How long the server lets a worker wait. A node that wants its wait back has it then."""

TAKE = Script("take.lua")


class Loan(NamedTuple):
    """The terms of a loan, in plain data; keys are as the server has them."""

    identity: str
    """The node's."""
    epoch: int
    channels: tuple[str, str]
    """The channels of the pool and of the node: it is not dead while a connection is subscribed."""
    queue: str
    """The list at which the worker waits."""
    unacked: str
    epochs: str
    incoming: str
    last_chance: int
    """Deliveries after which a message has its last chance; such a message stays in its list."""
    reservation: int
    """Number of the first reservation."""
    operation: int
    """Number of the first operation in the worker's turn."""
    crowd: int
    """Messages in the queue from which on the node, which takes many at once, is better."""

    def is_last_chance(self, message: bytes) -> bool:
        """Return whether a message has its last chance: it went back to its list."""
        return self.last_chance > 0 and message.startswith(trial_mark(self.last_chance))

    @property
    def end(self) -> int:
        """Number of the operation that is not covered any more."""
        return self.operation + NUMBERS

    def reservation_of(self, operation: int) -> str:
        """Return the reservation of an operation, by the operation's number."""
        return str(self.reservation + operation - self.operation)

    def covers(self, reservation: str) -> bool:
        """Return whether a reservation may be one of the worker's."""
        return self.reservation <= int(reservation) < self.reservation + NUMBERS

    def join(self, wire: Wire) -> None:
        """Have a connection count as one of the node's, and its server know the scripts.

        Raises:
            redis.RedisError: The server is away, or refuses.
        """
        wire.send(pack(("SUBSCRIBE", *self.channels)))
        load(wire, (TAKE, COMPLETE))

    def wait(self) -> bytes:
        """Return the command that waits for a message; :meth:`take` follows in the same write."""
        return pack(("BLMOVE", self.queue, self.incoming, "RIGHT", "RIGHT", WAIT_SECONDS))

    def take(self, operation: int) -> bytes:
        """Return the command that reserves the message; ``take.lua`` says what is answered."""
        keys = (self.unacked, self.epochs, self.incoming, self.queue)
        reservation = self.reservation_of(operation)
        return TAKE.call(keys, (self.identity, self.epoch, reservation, self.last_chance))

    def complete(self, operation: int, stored: StoredResult | None) -> bytes:
        """Return the command that stores a result, tells of it and acknowledges the message."""
        results = [] if stored is None else [stored]
        batch = Batch(results, [self.reservation_of(operation)])
        return COMPLETE.call((self.unacked, *batch.keys()), batch.arguments())

    def length(self) -> bytes:
        """Return the command that asks how many messages wait."""
        return pack(("LLEN", self.queue))
