"""The ledger: what was accepted, where everything is, and what must never be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from chaos.model.flow import FlowLedger
from chaos.model.node import MAX_DELIVERIES, unit_of
from chaos.model.scripts import TIME_KEY
from chaos.model.snapshot import Camera, Snapshot, ViolationError
from pooltasks.broker.watching import GONE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from chaos.model.network import Network
    from chaos.model.node import ModelNode
    from pooltasks.broker.names import Names

_DELIVERIES = re.compile(rb'^{"deliveries": (\d+),')
_INTERRUPTED = b'"interrupted": true'
_MOMENT = 0.01
"""Seconds by which the model's time and the server's may differ: the server counts in ms."""


@dataclass
class Unit:
    """One accepted operation."""

    number: int
    idempotent: bool
    starts: int = 0
    deliveries: int = 0
    """How many deaths that nobody asked for have met it."""
    doubtful: int = 0
    """How many more may be in its message: its node may have put it back first, or died."""
    second_runs: int = 0
    """How often it may have to run once more: its worker or node died, or was taken for dead."""
    history: list[str] = field(default_factory=list)
    """Where it was, one place after the other."""
    may_end_twice: bool = False
    """Whether a node that was taken for dead may end it while it is in the queue."""


class Ledger:
    """The accepted operations, and their ends.

    Args:
        network: The way to the server.
        names: The keys of the pool.
    """

    def __init__(self, network: Network, names: Names) -> None:
        self.flow = FlowLedger(None)
        """What must never be of flow control; begun anew for the kind of pool."""
        self.units: dict[int, Unit] = {}
        self.last = Snapshot()
        self._network = network
        self._camera = Camera(network.control, names)
        self._names = names
        self._excused: set[str] = set()
        """Identities of nodes that may be taken for dead."""
        self._stopping: set[str] = set()
        """Identities of nodes of which the server knew that they stop."""
        self._states: dict[str, list[str]] = {}
        """The states of each node in the index, one after the other."""
        self._without_connection: dict[str, tuple[float, float]] = {}
        self._settled: set[str] = set()

    # Reports of the rules and the nodes.

    def accept(self, number: int, *, idempotent: bool) -> None:
        """Note that the server has accepted an operation."""
        self.units[number] = Unit(number, idempotent)

    def begun(self, number: int, node: ModelNode) -> None:
        """Note that a worker runs an operation.

        Raises:
            ViolationError: It must not run again.
        """
        unit = self.units[number]
        unit.starts += 1
        # One that does not know yet that it was taken for dead has it from before.
        if unit.deliveries >= MAX_DELIVERIES and node.session.identity not in self._excused:
            raise ViolationError(f"operation {number} begins after {unit.deliveries} deaths")
        if unit.starts > 1 and not unit.idempotent:
            raise ViolationError(
                f"operation {number} must not run twice, and begins again in {node}"
            )
        if unit.starts > 1 + unit.second_runs:
            raise ViolationError(
                f"operation {number} begins for the {unit.starts}th time in {node}, "
                f"and there was a reason for {unit.second_runs} more runs than one"
            )

    def worker_died(self, number: int) -> None:
        """Note that a worker has died that ran an operation."""
        unit = self.units[number]
        unit.doubtful = max(1, unit.doubtful)
        unit.second_runs += 1

    def stopping(self) -> frozenset[str]:
        """Return the identities of nodes of which the server knew that they stop."""
        return frozenset(self._stopping)

    def excused(self) -> frozenset[str]:
        """Return the identities of nodes that may be taken for dead."""
        return frozenset(self._excused)

    def has_dead_letters(self) -> bool:
        """Return whether there are dead letters."""
        return any(places[0][0] == "dead" for places in self.last.places.values())

    def retried(self, number: int) -> None:
        """Note that somebody sent a dead letter again."""
        unit = self.units[number]
        unit.second_runs += 1
        unit.deliveries = 0
        unit.may_end_twice = True
        self.flow.unique.pop(number, None)  # by hand it runs without the key

    # Invariants.

    def check(self, nodes: Sequence[ModelNode]) -> None:
        """Look at the server, and at the nodes.

        Raises:
            ViolationError: Something is not as it must be.
        """
        if not self._network.has_changed:
            return
        identities = [identity for node in nodes for identity in node.identities]
        self._network.settle()
        before, now = self.last, self._camera.take(identities, self.units)
        self._network.has_changed = False
        self._excuse(now, nodes)
        self._move(before, now, nodes)
        self.last = now
        try:
            self._check(before, now, nodes)
        except ViolationError as error:
            for unit in self.units.values():
                error.add_note(f"operation {unit.number}: {' -> '.join(unit.history)}")
            for identity, states in self._states.items():
                error.add_note(f"{identity[-4:]}: {' -> '.join(states)}")
            raise

    def _check(self, before: Snapshot, now: Snapshot, nodes: Sequence[ModelNode]) -> None:
        self._every_operation_is_somewhere(now)
        self._nothing_is_taken_from_the_living(now, nodes)
        self._deliveries_are_right(now)
        self._order_is_kept(before, now, nodes)
        self._one_trial_a_node(now, nodes)
        self._keys_are_known(now, nodes)
        self.flow.check(before, now, self._network.time.server)

    def check_known(self, node: ModelNode) -> None:
        """Check, when a node has read all answers, that it knows what the server has for it.

        Raises:
            ViolationError: It has a reservation of which the node will never hear.
        """
        session, reservations = node.session, node.reservations
        asks = session.intake.is_owed() and not reservations.is_waiting
        is_busy = asks or session.side.is_owed() or session._refused  # noqa: SLF001  no one else knows
        if is_busy or not session.is_open or any(wire.outbox for wire in node.wires()):
            return
        if session.identity in self._excused or any(wire.wait(0) for wire in node.wires()):
            return  # the answer to what it has just done may bring some
        its = self.last.unacked.get(session.identity, {}).keys()
        unknown = its - reservations.held - reservations.completion.pending()
        if unknown:
            raise ViolationError(f"{node} knows nothing of its reservations {unknown}")

    def _excuse(self, now: Snapshot, nodes: Iterable[ModelNode]) -> None:
        """Find who may be taken for dead from now on."""
        time = self._network.time.server
        for identity in now.index.keys() | self.last.index.keys():
            state = now.index.get(identity, "gone")
            if state != self.last.index.get(identity):
                self._states.setdefault(identity, []).append(state)
        for identity, state in now.index.items():
            if state in ("stopping", "dead, stopping"):
                self._stopping.add(identity)
            if self._may_be_dead(identity, now, time):
                self._excused.add(identity)
            elif not state.startswith("dead"):
                self._excused.discard(identity)
        for node in nodes:
            if node.is_dead:
                self._excused |= node.identities

    def _may_be_dead(self, identity: str, now: Snapshot, time: float) -> bool:
        lease = now.leases.get(identity)
        if lease is None and now.index.get(identity, "").startswith("dead"):
            lease = self.last.leases.get(identity)  # until others found it dead
        if lease is None or lease <= time + _MOMENT:
            return True
        if now.subscriptions.get(identity, 1):
            if self._without_connection.get(identity, (0.0, lease))[1] != lease:
                del self._without_connection[identity]
            return False
        since, its = self._without_connection.setdefault(identity, (time, lease))
        if its != lease:
            self._without_connection[identity] = time, lease
            return False
        return time - since >= GONE_SECONDS - _MOMENT

    def _move(self, before: Snapshot, now: Snapshot, nodes: Sequence[ModelNode]) -> None:
        """Note what was taken from a node, and what that means for it."""
        left = {identity for node in nodes if node.has_left for identity in node.identities}
        alive = {identity for node in nodes if not node.is_over for identity in node.identities}
        died = self._dead(now) - self._dead(before) - left
        for number, unit in self.units.items():
            (place, entry), *_ = before.places.get(number, [("", b"")])
            (new_place, _), *_ = now.places.get(number, [("", b"")])
            kind, _, identity = place.partition(":")
            if new_place != place:
                state = f", {now.index.get(identity, 'gone')}" * bool(identity)
                excused = ", may be dead" * (identity in self._excused)
                unit.history.append(
                    f"{new_place.replace('0000000', '') or 'nowhere'}{state}{excused}"
                )
            if kind in ("list", "incoming") and new_place != place:
                # A connection that waited took it for a node that was found dead too.
                unit.doubtful = max(unit.doubtful, len(died) - 1)
            if kind != "unacked" or new_place in ("", place):
                continue
            if identity in left and identity not in self._excused:
                unit.second_runs += 1  # what ran when its node stopped
            if identity not in self._excused:
                continue
            unit.may_end_twice = True
            unit.second_runs += 1
            is_dead = now.index.get(identity, "dead") == "dead"
            if is_dead and identity not in self._stopping and entry[1:4] == b'r{"':
                if identity in alive:  # it may have put it back itself, just before
                    unit.doubtful = max(1, unit.doubtful)
                elif new_place != "dead":
                    unit.deliveries += 1
            # One may have got what another had, before it was found dead too.
            unit.doubtful += max(0, len(died) - 1)

    def _dead(self, now: Snapshot) -> set[str]:
        """Return the identities of all nodes that were found dead, or have left."""
        states = {identity: now.index.get(identity, "dead") for identity in self._states}
        return {identity for identity, state in states.items() if state.startswith("dead")}

    def remembers_dead(self) -> bool:
        """Return whether the index still has a node that was found dead."""
        return any(state.startswith("dead") for state in self.last.index.values())

    def _every_operation_is_somewhere(self, now: Snapshot) -> None:
        for number, unit in self.units.items():
            places = now.places.get(number, [])
            if len(places) > 1:
                raise ViolationError(f"operation {number} is in {len(places)} places: {places}")
            if not places and number not in now.results:
                raise ViolationError(f"operation {number} is lost")
            if (
                places
                and number in now.results
                and places[0][0] != "dead"
                and not unit.may_end_twice
            ):
                raise ViolationError(f"operation {number} has ended and is in {places}")
        unknown = now.places.keys() - self.units.keys()
        if unknown:
            raise ViolationError(f"operations that nobody has sent: {unknown}")

    def _nothing_is_taken_from_the_living(self, now: Snapshot, nodes: Iterable[ModelNode]) -> None:
        for node in nodes:
            identity = node.session.identity
            if node.is_over or identity in self._excused or not node.session._is_known:  # noqa: SLF001
                continue
            if now.index.get(identity, "dead").startswith("dead"):
                raise ViolationError(
                    f"{node} lives, and the server has it as {now.index.get(identity)}"
                )
            if node.completed:
                continue
            missing = node.reservations.held - now.unacked.get(identity, {}).keys()
            if missing:
                raise ViolationError(f"{node} lives, and has lost its reservations {missing}")

    def _deliveries_are_right(self, now: Snapshot) -> None:
        for number, places in now.places.items():
            place, entry = places[0]
            message = entry[2:] if place.startswith("unacked") else entry
            if place in ("delayed", "held", "waiting"):
                message = entry[entry.index(b"{") :]
            found = _DELIVERIES.match(message)
            deliveries = int(found[1]) if found else 0
            unit = self.units[number]
            if _INTERRUPTED in message:
                continue  # it does not run again, whatever the number
            if unit.deliveries < deliveries <= unit.deliveries + unit.doubtful:
                unit.deliveries, unit.doubtful = deliveries, 0
            if deliveries != unit.deliveries:
                raise ViolationError(
                    f"operation {number} in {place} has {deliveries} deliveries, and met "
                    f"{unit.deliveries} deaths: {message[:80]!r}"
                )

    def _order_is_kept(self, before: Snapshot, now: Snapshot, nodes: Sequence[ModelNode]) -> None:
        """Messages that stay keep their order; those that were put back are in front of them."""
        for old, new in zip(before.lists, now.lists, strict=False):
            stay = [unit_of(each) for each in old if unit_of(each) not in now.reserved]
            rank = {unit: place for place, unit in enumerate(stay)}
            back: list[int] = []
            stayed: list[int] = []
            for message in new:
                unit = unit_of(message)
                if unit is None:
                    continue
                if unit in rank:
                    stayed.append(rank[unit])
                    continue
                was = before.places.get(unit, [("", b"")])[0][0]
                if not was.startswith(("unacked", "incoming")) and unit not in now.reserved:
                    continue
                if stayed:
                    raise ViolationError(f"operation {unit} was put back behind others: {new}")
                back.append(unit)
            if any(first > second for first, second in pairwise(stayed)):
                raise ViolationError(f"the order of a list has changed from {old} to {new}")
            own = {identity for node in nodes if not node.is_dead for identity in node.identities}
            # A command that a node had sent before it died arrives as if the node lived.
            own |= now.index.keys() - self._dead(now)
            self._back_in_order(before, back, own)

    @staticmethod
    def _back_in_order(before: Snapshot, back: list[int], own: set[str]) -> None:
        """The messages that a recovery puts back are in the order in which they were reserved."""
        owners = {before.places.get(unit, [("", b"")])[0][0] for unit in back}
        kind, _, owner = "".join(owners).partition(":")
        if len(owners) != 1 or kind != "unacked" or owner in own:
            return  # one that lives or leaves puts back what it wants to, in any order
        its = before.unacked[owner]
        numbers = {unit_of(entry): (entry[:1], int(name)) for name, entry in its.items()}
        for place in {numbers[unit][0] for unit in back}:
            order = [numbers[unit][1] for unit in back if numbers[unit][0] == place]
            if order != sorted(order):
                raise ViolationError(f"operations were put back in another order: {back}, {order}")

    @staticmethod
    def _one_trial_a_node(now: Snapshot, nodes: Iterable[ModelNode]) -> None:
        mark = b'{"deliveries": %d,' % (MAX_DELIVERIES - 1)
        for node in nodes:
            entries = now.unacked.get(node.session.identity, {})
            held = node.reservations.held
            trials = [name for name in held if entries.get(name, b"")[2:].startswith(mark)]
            if len(trials) > 1 and not node.is_over:
                raise ViolationError(f"{node} has {len(trials)} operations with their last chance")

    def _keys_are_known(self, now: Snapshot, nodes: Iterable[ModelNode]) -> None:
        names = self._names
        lasting = {names.index, names.delayed, names.delayed_messages, names.dead}
        lasting |= {names.dead_messages, names.nodes, TIME_KEY, *names.lists, *names.of_turns}
        for key in now.without_ttl:
            if key not in lasting and not key.startswith((names.unacked(""), names.incoming(""))):
                raise ViolationError(f"the key {key} has no time to live")
        for node in nodes:
            if node.has_left and node.name not in self._settled:
                self._settled.add(node.name)
                # Others forget those under which it was taken for dead.
                its = {each for each in node.identities if now.index.get(each, "")[:4] != "dead"}
                left = [key for key in now.keys if any(each in key for each in its)]
                left += its & (now.index.keys() | now.leases.keys())
                if left:
                    raise ViolationError(f"{node} has left, and left behind: {left}")
