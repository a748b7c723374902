"""Longer stories, which single rules would seldom tell: each ends in an important fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from chaos.model.flow import KINDS
from chaos.model.machine import NUMBERS, PoolMachine
from chaos.model.network import Fuse, ModelWire, attempt
from chaos.model.pool import one_of
from pooltasks.broker.watching import GONE_SECONDS

if TYPE_CHECKING:
    from chaos.model.node import ModelNode

_BREAKS = st.sampled_from(["cut", "cut, and slow", "half open", "crash", "host", "restart", "stop"])
_KINDS = st.sampled_from(["plain", "plain", "once", "keyed", "unique"])
_SOON = (0.03, 0.06, 0.2, 0.06, 0.06)
"""Steps in seconds until the other nodes have found that a node's connections are closed."""
_LATER = (0.9,) * 7
"""Steps in seconds until the other nodes have found that a node's lease has run out."""


class StoryMachine(PoolMachine):
    """The pool's rules, and stories."""

    @rule(number=NUMBERS, how=_BREAKS, waits=st.booleans(), published=st.integers(0, 8))
    @precondition(lambda self: self.awake)
    def an_answer_is_lost(self, number: int, how: str, waits: bool, published: int) -> None:
        """A node asks for messages, the server gives it some, and it never hears of that."""
        node = one_of(self.awake, number)
        self._turn(node)
        if waits:
            self._turn(node)  # it is caught up now, and waits
        self._accept("plain", published, 0)
        if not node.is_over:
            node.turn(4, wait=waits)
            self._check()
        self._break(node, how)
        if how != "stop":
            self._pass(_SOON)

    @rule(number=NUMBERS, side=st.booleans(), ends=st.booleans(), published=st.integers(1, 4))
    @precondition(lambda self: self.awake)
    def sendings_arrive_late(self, number: int, side: bool, ends: bool, published: int) -> None:
        """A node's commands arrive after the node has given the connection up."""
        node = one_of(self.awake, number)
        self._turn(node)
        link = node.session.side if side else node.session.intake
        wire = link.wire
        if not isinstance(wire, ModelWire):
            return
        wire.is_slow = wire.stays_half_open = True
        if ends:
            for reservation in [*node.running]:
                node.finish(reservation, "SUCCESS")
        self._turn(node)
        if node.is_over or link.wire is not wire:
            return
        with node.active():
            node.session.lost(link, TimeoutError("silent"))
        self._check()
        self._accept("plain", published, 0)
        for ghost in self.network.ghosts:
            ghost.deliver()
            self._check()
        self._turn(node)

    @rule(number=NUMBERS, kind=_KINDS, asked=st.booleans())
    @precondition(lambda self: self.awake)
    def a_node_dies_with_what_it_runs(self, number: int, kind: str, asked: bool) -> None:
        """A node runs operations, and dies; the others put them back."""
        node = self._busy(number, kind)
        self._begin_all(node)
        if asked and not node.is_over:
            node.stop()
            self._check()
        if not node.is_over:
            node.crash(is_delivered=True, is_host=False)
        self._check()
        if not self.awake:
            self._add_node()
            self._live(2)
        self._pass(_SOON)

    def _busy(self, number: int, kind: str, published: int = 2) -> ModelNode:
        """Return a node that has some operations, if there is one."""
        self._accept(kind, published, 0)
        node = one_of(self.awake, number)
        for each in (node, node, *self.awake):
            self._turn(each)
        return one_of(self.with_waiting or self.awake or [node], number)

    def _begin_all(self, node: ModelNode) -> None:
        for reservation in [*node.waiting]:
            if reservation not in node.starting and not node.is_over:
                node.begin(reservation)
                self._check()
        if not node.is_over:
            node.read()
            self._check()

    @rule(
        number=NUMBERS,
        kind=_KINDS,
        first=st.sampled_from(["turn", "finish", "begin", "bury", "postpone", "cut", "cut side"]),
    )
    @precondition(lambda self: self.awake)
    def a_node_is_frozen_for_long(self, number: int, kind: str, first: str) -> None:
        """A node is frozen until its lease runs out, and goes on where it was."""
        node = self._busy(number, kind)
        if first == "finish":
            self._begin_all(node)
        node.is_frozen = True
        if not self.awake:
            self._add_node()
        self._pass(_LATER)
        node.is_frozen = False
        self._first(node, first)
        self._check()
        self._turn(node)

    def _first(self, node: ModelNode, first: str) -> None:
        if first.startswith("cut"):
            for wire in node.wires()[: 1 if "side" in first else 2]:
                wire.cut()
        if first == "finish":
            for reservation in [*node.running]:
                node.finish(reservation, "SUCCESS")
        for reservation in [each for each in node.waiting if each not in node.starting]:
            if first == "begin":
                node.begin(reservation)
            elif first == "bury":
                node.bury(reservation, node.waiting[reservation], "told to", "FAILURE")
            elif first == "postpone":
                node.postpone(reservation, self.time.server + 1.0)

    @rule(number=NUMBERS, times=st.integers(1, 2))
    @precondition(lambda self: self.awake)
    def connections_flicker(self, number: int, times: int) -> None:
        """A living node loses both connections and has them again, while the others look."""
        node = one_of(self.awake, number)
        for _ in range(times):
            for wire in node.wires():
                wire.cut()
            self._check()
            node.is_frozen = True
            self._pass((0.02, 0.1))
            node.is_frozen = False
            self._turn(node)
            self._pass((0.06,))

    @rule(number=NUMBERS, released=st.integers(1, 3))
    @precondition(lambda self: len(self.awake) > 1)
    def a_watcher_dies_in_a_recovery(self, number: int, released: int) -> None:
        """A node dies, and so does the node that puts its operations back."""
        node = one_of(self.awake, number)
        self._turn(node)
        node.crash(is_delivered=True, is_host=False)
        self._check()
        for each in self.awake:
            each.fuse = Fuse(3 + released, crashes=True, is_sent=True)
            break
        self._pass(_SOON)

    @rule(number=NUMBERS, is_late=st.booleans())
    @precondition(lambda self: len(self.awake) > 1)
    def a_node_is_back_at_the_last_moment(self, number: int, is_late: bool) -> None:
        """A node renews its lease when another has just been told that it is dead."""
        node, watcher = one_of(self.awake, number), one_of(self.awake, number + 1)
        for each in (watcher, node):
            self._turn(each)
        if node.is_over or watcher.is_over:
            return
        if is_late:
            self.time.server += 6.0
            self._check()
        else:
            self._lose_connections(node, watcher)
            self.time.server += GONE_SECONDS  # the watcher's next look is the one that counts
            self._check()
        if watcher.is_over:
            return
        for do in (watcher.act, node.act, node.act, node.read, watcher.read):
            if not (node.is_over or watcher.is_over):
                do()
                self._check()
        self._turn(watcher)
        self._turn(node)

    def _lose_connections(self, node: ModelNode, watcher: ModelNode) -> None:
        """Cut a node's connections, and have a watcher look until it sees that."""
        for wire in node.wires():
            wire.cut()
        for _ in range(8):
            self.time.server += 0.06
            self._check()
            watcher.act()
            if not watcher.is_over:
                watcher.read()
            self._check()
            if watcher.is_over or watcher.session.watcher.watch.suspects:
                return

    @rule(number=NUMBERS, how=st.sampled_from(["lives", "crashes", "was frozen for long"]))
    @precondition(lambda self: self.awake)
    def scripts_are_lost(self, number: int, how: str) -> None:
        """A message wakes a node, and the script that is to follow is not there."""
        node = one_of(self.awake, number)
        for _ in range(3):
            self._turn(node)
        if how == "was frozen for long":
            node.is_frozen = True
            if not self.awake:
                self._add_node()
            self._pass(_LATER)
            node.is_frozen = False
        self.network.control.script_flush()
        self._accept("plain", 1, 0)
        if how == "crashes" and not node.is_over:
            node.crash(is_delivered=True, is_host=False)
            self._check()
            if not self.awake:
                self._add_node()
        self._turn(node)
        self._pass(_SOON)

    @rule(number=NUMBERS, kind=_KINDS, sendings=st.integers(1, 3), crashes=st.booleans())
    @precondition(lambda self: self.awake)
    def a_node_breaks_while_it_completes(
        self, number: int, kind: str, sendings: int, crashes: bool
    ) -> None:
        """A node dies, or loses a connection, when it completes operations."""
        node = self._busy(number, kind)
        self._begin_all(node)
        for reservation in [*node.running]:
            node.finish(reservation, "SUCCESS")
        if not node.is_over:
            node.fuse = Fuse(sendings, crashes=crashes, is_sent=True)
            with node.active():
                node.reservations.complete()
            self._check()
        self._pass(_SOON)

    @rule(number=NUMBERS)
    @precondition(lambda self: self.awake and self.limits == KINDS["turns, concurrency"])
    def places_become_free_one_by_one(self, number: int) -> None:
        """A node that stops ends operations one by one, and others of their keys are held back."""
        node = self._busy(number, "keyed", 12)
        self._begin_all(node)
        if not node.is_over:
            node.stop()
            self._check()
        for reservation in [*node.running]:
            if not node.is_over:
                node.finish(reservation, "SUCCESS")
                with node.active():
                    node.reservations.complete()
                self._check()
        self._pass(_SOON)

    @rule(
        number=NUMBERS,
        kind=_KINDS | st.just("junk"),
        what=st.sampled_from(["give back", "give all back", "postpone", "bury", "starts", "leave"]),
    )
    @precondition(lambda self: self.awake)
    def a_node_does_not_run_what_it_has(self, number: int, kind: str, what: str) -> None:
        """A node puts back, postpones or buries an operation that it has just got."""
        node = self._busy(number, kind, 4)
        if what == "leave" and not node.is_over:
            self._begin_all(node)
            node.stop()
            self._check()
            if node in self.stopping:
                node.leave()
            self._check()
        if node.is_over or not node.waiting:
            return
        if what == "starts":
            for reservation in [*node.waiting]:
                node.begin(reservation)
            self._check()
            what = "give all back"
        for _ in range(1 if "give" in what else len(node.waiting)):
            if node.waiting and not node.is_over:
                self._refuse(node, 0, what)

    def _break(self, node: ModelNode, how: str) -> None:
        if node.is_over:
            return
        self.network.barrier()
        if how == "stop":
            node.stop()
        elif how == "restart":
            self.restart_server()
        elif how in ("crash", "host"):
            node.crash(is_delivered=True, is_host=how == "host")
        else:
            intake, side = node.session.intake.wire, node.session.side.wire
            if isinstance(side, ModelWire) and how == "cut, and slow":
                side.is_slow = True  # the operations it gives back arrive after its next question
            if isinstance(intake, ModelWire):
                attempt(intake.leave_half_open if how == "half open" else intake.cut)
        self._check()

    def _pass(self, pauses: tuple[float, ...]) -> None:
        for pause in pauses:
            self.time.server += pause
            self._check()
            for node in self.awake:
                self._turn(node)
