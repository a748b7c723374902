"""Completion: results to store and messages to acknowledge, gathered for one step to the server."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import NoScriptError, RedisError

from pooltasks.broker.results import STORE
from pooltasks.broker.wire import Wire, pack

if TYPE_CHECKING:
    from pooltasks.broker.results import StoredResult

COMPLETE = STORE + files("pooltasks.broker").joinpath("complete.lua").read_text("utf-8")
"""Defines ``complete(unacked, arguments, from)`` for the scripts that complete operations."""
_SCRIPT = f"{COMPLETE}complete(KEYS[1], ARGV, 1)"
_SHA = sha1(_SCRIPT.encode()).hexdigest()  # noqa: S324  the server's name of a script


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
        self._completed: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.results or self.reservations)

    def completed(self, reservation: str) -> None:
        """Note that an operation is completed before it is acknowledged here."""
        self._completed.add(reservation)

    def acknowledge(self, reservation: str) -> None:
        """Acknowledge a reservation with the next step, unless its operation is completed."""
        if reservation in self._completed:
            self._completed.remove(reservation)
        else:
            self.reservations.append(reservation)

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


def complete(wire: Wire, unacked: str, batch: Batch) -> None:
    """Complete what is finished, and wait until it is done.

    Args:
        wire: The connection.
        unacked: Key of the hash of what the node has reserved.
        batch: What is finished.

    Raises:
        redis.RedisError: It is not done, or may not be.
    """
    command = _command(unacked, batch)
    try:
        wire.ask(command)
    except NoScriptError:
        _load(wire)
        wire.ask(command)


def _command(unacked: str, batch: Batch) -> bytes:
    return pack(("EVALSHA", _SHA, 1, unacked, *batch.arguments()))


def _load(wire: Wire) -> None:
    """Have the server know the script: it was restarted, or somebody emptied its cache."""
    wire.ask(pack(("SCRIPT", "LOAD", _SCRIPT)))


class SideDoor:
    """A connection over which a node completes while its other one waits for messages.

    The answer says nothing but that it is done, so nobody waits for it: it is
    read when the node is awake again, and before anything else is sent.

    Args:
        pool: Where the connection comes from.
        completion: What has finished.
    """

    def __init__(self, pool: Any, completion: Completion) -> None:
        self._pool = pool
        self._completion = completion
        self._wire: Wire | None = None
        self._underway: Batch | None = None

    def complete(self, unacked: str) -> None:
        """Send what has finished; it is to be done at once.

        Args:
            unacked: Key of the hash of what the node has reserved.

        Raises:
            redis.RedisError: The server is away; nothing is forgotten.
        """
        self.settle()
        batch = self._underway = self._completion.take()
        try:
            if self._wire is None:
                self._wire = Wire(self._pool.get_connection())
            self._wire.send(_command(unacked, batch))
        except RedisError:
            self._take_back()
            raise

    def settle(self, *, wait: bool = True) -> None:
        """Read the answer to what was sent.

        Args:
            wait: Whether to wait for an answer that has not come.

        Raises:
            redis.RedisError: The server is away; nothing is forgotten.
        """
        if self._underway is None or self._wire is None or (not wait and not self._wire.wait(0)):
            return
        try:
            self._wire.receive()
        except NoScriptError:
            self._take_back()
            _load(self._wire)
        except RedisError:
            self._take_back()
            self._wire.close()
            raise
        self._underway = None

    def _take_back(self) -> None:
        if self._underway is not None:
            self._completion.again(self._underway)
            self._underway = None
