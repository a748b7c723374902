"""Completion: results to store and messages to acknowledge, gathered for one step to the server."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from pooltasks.broker.results import STORE

if TYPE_CHECKING:
    from pooltasks.broker.results import StoredResult

COMPLETE = STORE + files("pooltasks.broker").joinpath("complete.lua").read_text("utf-8")
"""Defines ``complete(unacked, arguments, from)`` for the scripts that complete operations."""


class Batch(NamedTuple):
    """What went to the server in one step."""

    results: list[StoredResult]
    reservations: list[str]

    def arguments(self) -> list[Any]:
        """Return it as complete.lua reads it."""
        parts = [part for result in self.results for part in result]
        return [len(self.results), *parts, *self.reservations]


class Completion:
    """What has finished and is not on its way to the server yet."""

    def __init__(self) -> None:
        self.results: list[StoredResult] = []
        """Results to store before what they belong to is acknowledged."""
        self.reservations: list[str] = []
        """Reservations to acknowledge."""

    def __bool__(self) -> bool:
        return bool(self.results or self.reservations)

    def take(self) -> Batch:
        """Return everything; it is on its way from now on."""
        batch = Batch(self.results[:], self.reservations)
        self.results.clear()
        self.reservations = []
        return batch

    def again(self, batch: Batch) -> None:
        """Take back what may not have arrived; what is done twice is as if done once."""
        self.results[:0] = batch.results
        self.reservations[:0] = batch.reservations
