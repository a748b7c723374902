"""Completion: results to store and messages to acknowledge, gathered for one step to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pooltasks.broker.results import StoredResult
    from pooltasks.broker.uniqueness import Lock


class Batch(NamedTuple):
    """The results and reservations that go to the server in one step."""

    results: list[StoredResult]
    reservations: list[str]
    controlled: Sequence[tuple[str, Lock | None]] = ()
    """Reservations of operations with limits, and of unique ones with the lock that they free."""

    def keys(self) -> list[str | bytes]:
        """Return the keys of the results and of the locks, as complete.lua finds them."""
        locks = (lock.key for _, lock in self.controlled if lock is not None)
        return [*(result.key for result in self.results), *locks]

    def arguments(self) -> list[Any]:
        """Return the rest, as complete.lua reads it."""
        many = len(self.controlled)
        parts: list[Any] = [f"{len(self.results)} {many}" if many else len(self.results)]
        for result in self.results:
            parts += (result.value, result.expires)
        for reservation, lock in self.controlled:
            parts += (reservation, "", 0) if lock is None else (reservation, lock.owner, lock.till)
        return parts + self.reservations


class Completion:
    """The operations that have finished, until the server has confirmed it."""

    def __init__(self) -> None:
        self.results: list[StoredResult] = []
        """Results to store before the messages they belong to are acknowledged."""
        self.reservations: list[str] = []
        """Reservations to acknowledge."""
        self.controlled: list[tuple[str, Lock | None]] = []
        """The same of operations with limits, and of unique ones with the lock that they free."""
        self._underway: list[Batch] = []

    def __bool__(self) -> bool:
        return bool(self.results or self.reservations or self.controlled)

    def take(self) -> Batch:
        """Return everything; it is on its way from now on."""
        batch = Batch(self.results[:], self.reservations, self.controlled)
        self.results.clear()
        self.reservations, self.controlled = [], []
        if batch.results or batch.reservations or batch.controlled:
            self._underway.append(batch)
        return batch

    def done(self, batch: Batch) -> None:
        """Note that the server has completed a batch."""
        if batch in self._underway:
            self._underway.remove(batch)

    def again(self, batch: Batch) -> None:
        """Take back a batch that may not have arrived; to complete it twice changes nothing."""
        if batch in self._underway:
            self._underway.remove(batch)
            self.results[:0] = batch.results
            self.reservations[:0] = batch.reservations
            self.controlled[:0] = batch.controlled

    def all_again(self) -> None:
        """Take back every batch that is on its way."""
        for batch in list(reversed(self._underway)):
            self.again(batch)

    def is_empty(self) -> bool:
        """Return whether the server has confirmed everything."""
        return not self and not self._underway

    def pending(self) -> set[str]:
        """Return the reservations that are finished here and may still be on the server."""
        its = {*self.reservations, *(reservation for reservation, _ in self.controlled)}
        for batch in self._underway:
            its.update(batch.reservations, (reservation for reservation, _ in batch.controlled))
        return its
