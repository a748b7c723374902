"""A pool of the model: its server, nodes and ledger, and what rules do with them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis.stateful import RuleBasedStateMachine

from chaos.model.flow import KINDS, FlowLedger, Limits, admission, digest_of
from chaos.model.ledger import Ledger
from chaos.model.network import Network, Time, attempt
from chaos.model.node import OPERATION, ModelNode, key_of
from chaos.model.snapshot import ViolationError
from pooltasks.broker import dead_letters, link, reservations, session, watcher
from pooltasks.broker.delayed import publish as publish_delayed
from pooltasks.broker.limiting import marked, quoted
from pooltasks.broker.names import Names
from pooltasks.broker.uniqueness import HEADER
from pooltasks.broker.wire import Wire

QUEUE = "pool.model"
ROOM = 4
MOST_NODES = 4
_ROUNDS = 40
"""Rounds in a row in which no operation ends, after which none will."""


def one_of(nodes: list[ModelNode], number: int) -> ModelNode:
    """Return one of some nodes."""
    return nodes[number % len(nodes)]


class PoolDriver(RuleBasedStateMachine):
    """A pool of a few nodes, on which rules act."""

    url: ClassVar[str]
    """Of a server that has a database for the model alone."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.time = Time()
        numbers = count(1)

        class Identity:
            def __init__(self) -> None:
                self.hex = f"{next(numbers):032x}"

        for target, value in (
            (session, {"time": self.time, "uuid4": Identity}),
            (watcher, {"time": self.time, "_RELEASED_AT_ONCE": 2, "_DUE_AT_ONCE": 2}),
            (dead_letters, {"uuid4": Identity}),
            (link, {"time": self.time}),
            # In real seconds: the rules say when the server's patience ends.
            (reservations, {"WAIT_SECONDS": 100.0, "AT_ONCE": 3, "KEYLESS_AT_ONCE": 2}),
        ):
            self._stack.enter_context(patch.multiple(target, **value))
        self.network = Network(self.url, self.time)
        self.network.control.flushdb()
        self.network.fill(is_full=False)
        self.names = Names(QUEUE)
        self.ledger = Ledger(self.network, self.names)
        self.nodes: list[ModelNode] = []
        self.places: tuple[int, ...] = ()
        self.limits: Limits | None = None
        """Of the keyed operation."""
        self._names_of_nodes = count(1)
        self._numbers = count(1)
        self._failed = False
        self._producer = Wire(self.network.open())

    # The nodes.

    @property
    def alive(self) -> list[ModelNode]:
        """The nodes whose process has not ended."""
        return [node for node in self.nodes if not node.is_over]

    @property
    def awake(self) -> list[ModelNode]:
        """The nodes that do something: neither dead nor frozen."""
        return [node for node in self.nodes if not (node.is_over or node.is_frozen)]

    @property
    def with_waiting(self) -> list[ModelNode]:
        """Those of them that have operations which no worker has begun."""
        return [node for node in self.awake if node.waiting]

    @property
    def with_running(self) -> list[ModelNode]:
        """Those of them that run operations."""
        return [node for node in self.awake if node.running]

    @property
    def stopping(self) -> list[ModelNode]:
        """Those of them that were asked to stop, and of whose stop the server knows if it can."""
        unknown = self.ledger.excused() - self.ledger.stopping()
        return [
            node
            for node in self.awake
            if node.session.is_stopping and node.session.identity not in unknown
        ]

    def _check(self, *, is_sure: bool = True) -> None:
        if is_sure:
            self.network.touch()
        try:
            self.ledger.check(self.nodes)
        except ViolationError:
            self._failed = True
            raise

    def _check_known(self, node: ModelNode) -> None:
        try:
            self.ledger.check_known(node)
        except ViolationError:
            self._failed = True
            raise

    def _add_node(self) -> ModelNode:
        name = f"node {next(self._names_of_nodes)}"
        node = ModelNode(
            name, self.network, self.names, self.ledger, self.places, limits=self.limits
        )
        self.nodes.append(node)
        node.open()
        return node

    def _delayed(self) -> bool:
        return any(places[0][0] == "delayed" for places in self.ledger.last.places.values())

    def _begin_flow(self, kind: str) -> None:
        """Have the pool be of a kind."""
        self.limits = KINDS[kind]
        self.ledger.flow = FlowLedger(self.limits)
        if self.limits is not None:
            field = f"code {quoted(OPERATION)}"
            self.network.control.hset(self.names.limits, field, self.limits.text())

    def _accept(self, kind: str, number: int, place: int) -> None:
        for _ in range(number):
            unit = next(self._numbers)
            message = json.dumps(
                {
                    "body": "",
                    # Two have the same id, as the attempts of an operation that is retried.
                    "headers": {
                        "id": f"id-{unit // 2}",
                        "task": OPERATION if kind in ("keyed", "stock") else "model.plain",
                        "unit": f"unit-{unit}-",
                        "idempotent": kind != "once",
                        **({HEADER: [digest_of(unit), 0, "finish"]} if kind == "unique" else {}),
                    },
                    "properties": {},
                }
            ).encode()
            if kind == "junk":
                message = b"junk: unit-%d-" % unit
            if kind == "keyed" and self.limits is not None:
                message = marked(message, key_of(unit))
            action = partial(self.network.control.lpush, self.names.lists[place], message)
            if kind == "unique":
                self.network.stamp()
                action = partial(self._admit, message, unit)
            if kind == "delayed":
                due = self.time.server + unit % 5 - 0.5
                self.network.stamp()
                entry = f"id-{unit // 2}"
                command = publish_delayed(
                    self.names, entry, message, due=due, place=place, unique=f"{unit}"
                )
                action = partial(command.execute, self._producer)
            if attempt(action) and (kind != "unique" or unit in self.ledger.flow.unique):
                self.ledger.accept(unit, idempotent=kind != "once")
        self._check()

    def _admit(self, message: bytes, unit: int) -> None:
        """Publish a unique operation, unless another one has its key."""
        answer = admission(self.names, message, unit).execute(self._producer)
        if answer[1:] == [json.loads(message)["headers"]["id"].encode()]:
            self.ledger.flow.unique[unit] = unit % 2

    # The actions of nodes.

    def _turn(self, node: ModelNode, *, wait: bool = True) -> None:
        for do in (node.act, node.read, lambda: node.turn(ROOM, wait=wait)):
            if not node.is_over:
                do()
                # Renewing moves only what is due, and a connection that waits may take that.
                is_sure = self.network.ghosts or self._delayed() or self.limits is not None
                if do != node.act or is_sure:
                    self._check(is_sure=False)
                if do == node.read and not node.is_over:
                    self._check_known(node)

    def _live(self, steps: int) -> None:
        for _ in range(steps):
            self.time.server += 0.06
            self._check()
            for node in self.alive:
                if not node.is_frozen:
                    self._turn(node)

    def _refuse(self, node: ModelNode, which: int, what: str) -> None:
        reservations_ = [*node.waiting]
        one = reservations_[which % len(reservations_)]
        if what.startswith("give"):
            node.give_back(reservations_ if "all" in what else [one])
        elif one in node.starting:
            return
        elif what == "revoke":
            node.revoke(one)
        elif what == "postpone":
            node.postpone(one, self.time.server + 1.0)
        else:
            node.bury(one, node.waiting[one], "told to", "FAILURE")
        self._check()

    # How it ends.

    def teardown(self) -> None:
        """Have everything calm down: then every operation must have an end."""
        try:
            if not self._failed and self.places:
                self._calm_down()
        finally:
            for node in self.nodes:
                for wire in node.wires():
                    wire.close()
            self._producer.close()
            self.network.fill(is_full=False)
            self.network.close()
            self._stack.close()

    def _calm_down(self) -> None:
        self.network.fill(is_full=False)
        for node in self.alive:
            node.is_frozen = False
            node.fuse = None
            if node.is_draining and not node.session.is_stopping:
                node.drain(undo=True)
            for wire in node.wires():
                wire.is_slow = wire.stays_half_open = False
                attempt(wire.deliver)
        self.network.end_ghosts()
        self._add_node()
        fewest, rounds = len(self._open()), 0
        while rounds < _ROUNDS:
            self.time.server += 0.9
            self._check()
            for node in self.alive:
                self._bring_to_an_end(node)
            left = len(self._open())
            if not left and not self.ledger.remembers_dead():
                self.ledger.flow.check_end(self.ledger.last)
                return
            rounds = rounds + 1 if left >= fewest else 0
            fewest = min(fewest, left)
        nodes = "; ".join(node.describe() for node in self.nodes)
        dead = self.ledger.last.index
        raise ViolationError(f"operations without an end: {self._open()}; {dead}; {nodes}")

    def _bring_to_an_end(self, node: ModelNode) -> None:
        """Have a node run whatever it can get."""
        for _ in range(2):
            self._turn(node)
        for reservation in [*node.waiting]:
            if reservation not in node.starting:
                node.begin(reservation)
        node.read()
        for reservation in [*node.running]:
            node.finish(reservation, "SUCCESS")
        if node.session.is_stopping and not node.starting:
            node.leave()
        self._check()

    def _open(self) -> dict[int, Any]:
        places = self.ledger.last.places
        return {unit: places[unit] for unit in places if places[unit][0][0] != "dead"}
