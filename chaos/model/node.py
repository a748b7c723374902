"""A node of the model: the real session and reservations, and in place of workers some sets."""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from chaos.model.network import CrashedError, Fuse, ModelWire, attempt
from pooltasks.broker.completion import Batch
from pooltasks.broker.dead_letters import letter
from pooltasks.broker.limiting import is_marked, marked
from pooltasks.broker.reservations import COMPLETE, Reservations
from pooltasks.broker.results import StoredResult
from pooltasks.broker.session import NodeSession
from pooltasks.broker.uniqueness import HEADER, Lock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from chaos.model.flow import Limits
    from chaos.model.ledger import Ledger
    from chaos.model.network import Network
    from pooltasks.broker.link import Link
    from pooltasks.broker.names import Names
    from pooltasks.broker.scripts import Script

MAX_DELIVERIES = 3
OPERATION = "model.keyed"
_KEYS = "abc"
_UNIT = re.compile(rb"unit-(\d+)-")
_RESULT_SECONDS = 3600


def unit_of(message: bytes) -> int | None:
    """Return the number of the operation in a message, or in an entry with one."""
    found = _UNIT.search(message)
    return None if found is None else int(found[1])


def key_of(unit: int) -> str:
    """Return the key of a call of the keyed operation."""
    return f"{OPERATION}/{_KEYS[unit % len(_KEYS)]}"


def result_key(unit: int) -> bytes:
    """Return the key of an operation's result."""
    return b"celery-task-meta-unit-%d-" % unit


def result_of(unit: int, status: str) -> StoredResult:
    """Return a result as a node stores it."""
    return StoredResult(result_key(unit), b'{"status": "%s"}' % status.encode(), _RESULT_SECONDS)


class ModelNode:
    """A node. It does what :class:`pooltasks.node.intake.intake.Intake` does, one thing at a time.

    Args:
        name: For messages.
        network: The way to the server.
        names: The keys of the pool.
        ledger: Hears of what begins and ends.
        places: The places of the pool's lists.
        limits: Of the pool's keyed operation; None: it has none.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        names: Names,
        ledger: Ledger,
        places: Sequence[int],
        *,
        limits: Limits | None,
    ) -> None:
        self.name = name
        self.network = network
        self.ledger = ledger
        self.fuse: Fuse | None = None
        self._depth = 0
        """How many of its actions are under way, one within another."""
        self.is_dead = False
        self.has_left = False
        self.is_frozen = False
        self.is_draining = False
        self.is_caught_up = False
        self.waiting: dict[str, bytes] = {}
        """Messages that no worker has begun, by reservation."""
        self.starting: set[str] = set()
        """Those of them that begin as soon as the server has noted it."""
        self.running: dict[str, int] = {}
        """The operation of each reservation that a worker runs."""
        self.claims: dict[str, str] = {}
        """Under which identity each of these was reserved."""
        self.completed: list[str] = []
        """The reservations that a worker has completed itself, and the node has not heard of."""
        self.identities: set[str] = set()
        self.limits = limits
        self.keyed: list[tuple[str, bytes]] = []
        """Messages whose keys it has found, until they go back."""
        fair = limits is not None and limits.fair
        self.session = NodeSession(
            names,
            self._connect,
            self,
            priorities=len(places) > 1,
            fair=fair,
            limited=[] if limits is None else [OPERATION],
        )
        self.reservations = Reservations(
            self.session, places, MAX_DELIVERIES - 1, limited=limits is not None, fair=fair
        )
        self.identities.add(self.session.identity)

    def __repr__(self) -> str:
        return self.name

    def describe(self) -> str:
        """Return what it has, for people."""
        session, reservations = self.session, self.reservations
        return (
            f"{self.name}: over {self.is_over}, open {session.is_open}, stopping "
            f"{session.is_stopping}, draining {self.is_draining}, identity {session.identity}, "
            f"held {reservations.held}, waiting {[*self.waiting]}, starting {self.starting}, "
            f"running {self.running}, intake owed {session.intake.is_owed()}, side owed "
            f"{session.side.is_owed()}"
        )

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        return self.is_dead or self.has_left

    @contextmanager
    def active(self) -> Iterator[None]:
        """Do something in the node's process, which may crash meanwhile: all of it ends then."""
        self._depth += 1
        try:
            yield
        except CrashedError:
            if self._depth > 1:
                raise
            self.crash(is_delivered=False, is_host=False)
        finally:
            self._depth -= 1

    def _connect(self) -> ModelWire:
        if self.is_dead:
            raise CrashedError  # a rule goes on with it: it does nothing any more
        return self.network.connect(self)

    # Callbacks of the session.

    def scripts(self) -> Sequence[Script]:
        """Return the scripts that it uses."""
        return (*self.reservations.scripts, *Reservations.SCRIPTS)

    def on_opened(self, link: Link) -> None:
        """Nothing: there is no event loop."""

    def on_closing(self, link: Link) -> None:
        """Note that answers of the intake are lost."""
        if link is self.session.intake:
            self.reservations.intake_lost()

    def on_joined(self, reservations: Collection[str]) -> None:
        """Give back what the server has, and this node does not know."""
        self.is_caught_up = False
        self.reservations.rejoined(reservations)

    def on_taken_for_dead(self) -> None:
        """Forget what has not begun; what runs goes on."""
        self.reservations.forget()
        self.waiting.clear()
        self.starting.clear()
        self.identities.add(self.session.identity)

    def on_refusal(self, error: Exception) -> None:
        """Nothing: the rules say when it asks again."""

    def on_time(self, server: float, sent: float, received: float) -> None:
        """Nothing: the model has one time."""

    # Actions of the rules.

    def open(self) -> None:
        """Begin."""
        with self.active():
            try:
                self.session.open()
            except RedisError as error:
                self.session.lost(self.session.side, error)

    def act(self) -> None:
        """Do what is due in the session."""
        with self.active():
            self.session.act()

    def read(self, *, intake: bool = True, side: bool = True) -> None:
        """Take the answers that have come."""
        self.network.barrier()
        with self.active():
            if intake:
                self.session.read(self.session.intake)
            if side:
                self.session.read(self.session.side)
            self._hear()

    def turn(self, room: int, *, wait: bool = True) -> None:
        """Ask for messages and complete what is finished, as the event loop's turn does."""
        session, reservations = self.session, self.reservations
        with self.active():
            self._hear()
            if not session.is_open:
                return
            asks = session.intake.is_owed()
            free = 0 if asks or session.is_stopping else room - len(reservations.held)
            if free > 0:
                waits = wait and self.is_caught_up and not reservations.completion
                reservations.reserve(free, self._on_reserved, self.on_refusal, wait=waits)
            elif not asks or reservations.is_waiting:
                reservations.complete()

    def _hear(self) -> None:
        for reservation in self.completed:
            self.reservations.held.discard(reservation)
        self.completed.clear()

    def _on_reserved(self, messages: list[tuple[str, bytes]] | None) -> None:
        if messages is None:
            return
        self.is_caught_up = not messages
        if self.session.is_stopping or self.is_draining:
            self.reservations.give_back([(reservation, b"") for reservation, _ in messages])
            return
        for reservation, message in messages:
            self._take(reservation, message)
        keyed, self.keyed = self.keyed, []
        if keyed:
            self.reservations.give_back(keyed)

    def _take(self, reservation: str, raw: bytes) -> None:
        unit = unit_of(raw)
        try:
            document = json.loads(raw)
        except ValueError:
            self.bury(reservation, raw, "unreadable", None)
            return
        headers = document.get("headers", {})
        if self.limits is not None and is_marked(raw):
            self.reservations.controlled[reservation] = None
        elif self.limits is not None and headers.get("task") == OPERATION and unit is not None:
            self.keyed.append((reservation, marked(raw, key_of(unit))))
            return
        if HEADER in headers:
            self.reservations.controlled[reservation] = Lock.of(headers, self.session.names)
        deliveries = document.get("deliveries", 0)
        if deliveries >= MAX_DELIVERIES:
            self.bury(reservation, raw, "poison", "FAILURE")
        elif document.get("interrupted") and not document["headers"]["idempotent"]:
            # Its caller is told; it does not run again.
            assert unit is not None  # noqa: S101  the model made it
            self.reservations.completion.results.append(result_of(unit, "FAILURE"))
            self.reservations.acknowledge(reservation)
        else:
            self.waiting[reservation] = raw

    def begin(self, reservation: str) -> None:
        """Have a worker begin an operation."""
        raw = self.waiting[reservation]
        unit = unit_of(raw)
        assert unit is not None  # noqa: S101  the model made it

        def start() -> None:
            self.waiting.pop(reservation, None)
            self.starting.discard(reservation)
            self.running[reservation] = unit
            self.claims[reservation] = self.session.identity
            self.ledger.begun(unit, self)

        if json.loads(raw)["headers"]["idempotent"]:
            start()
            return
        self.starting.add(reservation)
        with self.active():
            self.reservations.start(reservation, start)

    def finish(self, reservation: str, status: str) -> None:
        """Have a worker end an operation; the next step to the server completes it."""
        unit = self.running.pop(reservation)
        self.reservations.completion.results.append(result_of(unit, status))
        self.reservations.acknowledge(reservation)

    def finish_directly(self, reservation: str) -> None:
        """Have a worker complete an operation itself; its node hears of that later.

        What is under flow control is completed by the node.
        """
        if reservation in self.reservations.controlled:
            self.finish(reservation, "SUCCESS")
            return
        unit = self.running.pop(reservation)
        names = self.session.names
        batch = Batch([result_of(unit, "SUCCESS")], [reservation])
        keys = (names.unacked(self.claims[reservation]), *batch.keys())
        self.network.control.script_load(COMPLETE.text)
        self.network.control.evalsha(COMPLETE.sha, len(keys), *keys, *batch.arguments())
        self.completed.append(reservation)

    def lose_worker(self, reservation: str) -> None:
        """Have the worker die that runs an operation."""
        unit = self.running.pop(reservation)
        raw = self.raw_of(reservation)
        if raw is None or reservation not in self.reservations.held:
            return  # it was taken for dead: others have the operation
        document = json.loads(raw)
        if not document["headers"]["idempotent"]:
            self.reservations.completion.results.append(result_of(unit, "FAILURE"))
            self.reservations.acknowledge(reservation)
            return
        deliveries = document.pop("deliveries", 0) + 1
        self.ledger.worker_died(unit)
        with self.active():
            message = json.dumps({"deliveries": deliveries, **document}).encode()
            self.reservations.give_back([(reservation, message)])

    def raw_of(self, reservation: str) -> bytes | None:
        """Return the message of a reservation, as the server has it."""
        names = self.session.names
        entry = self.network.control.hget(names.unacked(self.session.identity), reservation)
        return None if entry is None else bytes(entry)[2:]

    def give_back(self, reservations: Sequence[str]) -> None:
        """Put back what no worker has begun."""
        with self.active():
            self.reservations.give_back([(each, b"") for each in reservations])
        for each in reservations:
            self.waiting.pop(each, None)
            self.starting.discard(each)

    def revoke(self, reservation: str) -> None:
        """End an operation that has not begun, as revoked or expired."""
        unit = unit_of(self.waiting.pop(reservation))
        assert unit is not None  # noqa: S101  the model made it
        self.reservations.completion.results.append(result_of(unit, "REVOKED"))
        self.reservations.acknowledge(reservation)

    def postpone(self, reservation: str, due: float) -> None:
        """Have an operation wait at the server."""
        unit = unit_of(self.waiting.pop(reservation))
        with self.active():
            self.reservations.postpone([(reservation, f"id-{(unit or 0) // 2}", due)])

    def bury(self, reservation: str, raw: bytes, reason: str, status: str | None) -> None:
        """Make an operation a dead letter."""
        self.waiting.pop(reservation, None)
        unit = unit_of(raw)
        result = None if status is None or unit is None else result_of(unit, status)
        with self.active():
            self.reservations.bury(reservation, letter(raw, reason, at=time.time()), result)

    def stop(self) -> None:
        """Reserve nothing more, for good, and put back what has not begun."""
        with self.active():
            self.session.reserve_nothing(stops=True)
            self.give_back([*self.waiting])

    def drain(self, *, undo: bool) -> None:
        """Reserve nothing more, or again."""
        self.is_draining = not undo
        with self.active():
            if undo:
                self.session.join_again()
            else:
                self.session.reserve_nothing(stops=False)

    def leave(self) -> None:
        """Complete what is finished, put back the rest, and end."""
        with self.active():
            self._hear()
            self.reservations.intake_lost()
            self.reservations.complete()
            if self.session.leave(2.0) is None:
                self.crash(is_delivered=True, is_host=False)
            else:
                self.has_left = True
                self.running.clear()
                self.waiting.clear()

    def wires(self) -> list[ModelWire]:
        """Return its open connections."""
        links = (self.session.side, self.session.intake)
        return [link.wire for link in links if isinstance(link.wire, ModelWire)]

    def crash(self, *, is_delivered: bool, is_host: bool) -> None:
        """Have its process end without a word.

        Args:
            is_delivered: Whether what is under way arrives first.
            is_host: Whether its host is lost, so that the server hears nothing of it.
        """
        self.is_dead = True
        for wire in self.wires():
            if is_delivered:
                attempt(wire.deliver)
            if is_host:
                wire.leave_half_open()
            else:
                wire.outbox.clear()
                wire.close()
