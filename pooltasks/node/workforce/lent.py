"""A loan as its node sees it, and the side of the intake that makes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.broker.loan import Loan


class Lender(Protocol):
    """The node's intake, as loans need it."""

    def may_lend(self) -> bool:
        """Return whether workers may reserve what comes."""

    def lend(self, operation: int, workers: int) -> Loan:
        """Return the terms of a loan whose first operation has this number."""

    def is_of(self, loan: Loan) -> bool:
        """Return whether the node still has the identity under which it has lent."""

    def take(self, reservation: str, raw: bytes) -> None:
        """Take a message that a worker has reserved and not begun."""

    def make_known(self, reservation: str, raw: bytes) -> bool:
        """Take a message that a worker has reserved and begun; return False if that has to wait."""

    def find(self, reservation: str, found: Callable[[bytes | None], None]) -> None:
        """Find a message that a worker has reserved; None if it is completed."""

    def join_again(self) -> None:
        """Have the server give back what it reserved for a connection that is gone."""


@dataclass
class Lent:
    """A loan that a worker has."""

    loan: Loan
    done: int
    """How many operations the worker had done before."""
    ended: int = 0
    """Number of the last operation of whose end the node has heard."""
    asked: int = 0
    """Number of the last operation whose message was asked for."""
    is_dead: bool = False
    """Whether the worker has ended with it."""
    is_given_up: bool = False
    """Whether the worker was silent: it begins nothing, and its messages are given back."""
    heard: int = 0
    """The operation that the worker has begun last."""
    heard_at: float = 0.0
    """When that was first seen, in monotonic seconds."""
    known: Counter[str] = field(default_factory=Counter)
    """The operations that were made the node's own, by name."""

    def may_be(self, reservation: str) -> bool:
        """Return whether a reservation may be the worker's, though the node has not seen it."""
        if self.is_given_up:  # it may have begun that one just before
            return reservation == self.loan.reservation_of(self.heard)
        return self.loan.covers(reservation)
