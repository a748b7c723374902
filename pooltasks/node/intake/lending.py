"""Lending: the intake's side of a wait that workers have (``workforce/loans.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks.broker.loan import NUMBERS, Loan
from pooltasks.broker.reservations import UNLIMITED
from pooltasks.broker.wire import pack
from pooltasks.node.intake.message import read
from pooltasks.node.intake.plain import celerys_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.node.intake.intake import Intake
    from pooltasks.pool_settings import PoolSettings

_CROWD = 4
"""Messages in the queue for each worker from which on the node takes them."""


class Lending:
    """Makes loans of the wait of one node, and takes what workers reserve.

    Args:
        intake: The node's.
        settings: Of the pool.
    """

    def __init__(self, intake: Intake, settings: PoolSettings) -> None:
        self._intake = intake
        self._last_chance = settings.max_deliveries - 1
        self._is_plain = (
            settings.slots == 1
            and not settings.lazy  # a cold worker would warm up first
            and not settings.priorities
            and intake.protection is None
            and intake.reservations.scripts is UNLIMITED
        )

    def may_lend(self) -> bool:
        """Return whether workers may reserve what comes."""
        intake = self._intake
        return (
            self._is_plain
            and intake.session.track is None
            and not intake.reservations.has_trial
            and intake.session.is_open
            and intake.may_ask()
            and intake.allowed() > 0
            and not intake.needs_node()
        )

    def lend(self, operation: int, workers: int) -> Loan:
        """Return the terms of a loan whose first operation has this number."""
        session = self._intake.session
        names, identity = session.names, session.identity
        return Loan(
            identity=identity,
            epoch=session.epoch,
            channels=(names.alive, names.alive_of(identity)),
            queue=names.lists[0],
            unacked=names.unacked(identity),
            epochs=names.index,
            incoming=names.incoming(identity),
            last_chance=self._last_chance,
            reservation=self._intake.reservations.set_aside(NUMBERS),
            operation=operation,
            crowd=_CROWD * workers,
        )

    def is_of(self, loan: Loan) -> bool:
        """Return whether the node still has the identity under which it has lent."""
        return loan.identity == self._intake.session.identity

    def take(self, reservation: str, raw: bytes) -> None:
        """Take a message that a worker has reserved and not begun."""
        self._intake.reservations.held.add(reservation)
        self._intake.take([(reservation, raw)])

    def make_known(self, reservation: str, raw: bytes) -> bool:
        """Take a message that a worker has reserved and begun; return False if that has to wait."""
        intake = self._intake
        if intake.on_message is None:
            return False
        intake.reservations.held.add(reservation)
        message = read(raw, reservation, intake)
        if message is not None:
            celerys_logger.disabled = True  # the worker has said that it was received
            try:
                intake.on_message(message)
            finally:
                celerys_logger.disabled = False
        return True

    def find(self, reservation: str, found: Callable[[bytes | None], None]) -> None:
        """Find a message that a worker has reserved; None if it is completed."""
        session = self._intake.session

        def answered(entry: bytes | None) -> None:
            # Its place and its state come first, a letter each.
            found(None if entry is None else entry[2:])

        unacked = session.names.unacked(session.identity)
        session.send_until_done(pack(("HGET", unacked, reservation)), answered)

    def join_again(self) -> None:
        """Have the server give back what it reserved for a connection that is gone."""
        session = self._intake.session
        if session.is_stopping:  # it gives this node nothing more
            session.find_what_no_answer_told()
        else:
            session.join_again()
