"""The events that may happen to a pool: the rules of which Hypothesis makes its examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from chaos.model.flow import KINDS
from chaos.model.network import Fuse, attempt
from chaos.model.node import unit_of
from chaos.model.pool import MOST_NODES, QUEUE, ROOM, PoolDriver, one_of
from pooltasks.broker.dead_letters import DeadLetters

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBERS = st.integers(0, 7)
KEYED = ("keyed", "keyed", "stock", "unique")
"""Calls under flow control: with a key, with one that a node has to find, unique."""
_ENDS = st.sampled_from(["SUCCESS", "SUCCESS", "FAILURE", "directly", "directly", "killed"])


class PoolMachine(PoolDriver):
    """Everything that may happen to a pool."""

    kinds: Sequence[str] = ("plain", "plain", *KINDS)
    """The kinds of pools from which one is taken."""

    @initialize(
        has_priorities=st.booleans(),
        nodes=st.integers(1, 3),
        kind=st.runner().flatmap(lambda machine: st.sampled_from(machine.kinds)),
    )
    def begin_pool(self, has_priorities: bool, nodes: int, kind: str) -> None:
        """Start some nodes."""
        self.places = (6, 0) if has_priorities else (0,)
        self._begin_flow(kind)
        for _ in range(nodes):
            self._add_node()
        self._live(2)
        self._check()

    @rule()
    @precondition(lambda self: len(self.alive) < MOST_NODES)
    def start_node(self) -> None:
        """Start another node."""
        self._add_node()
        self._check()

    # Rules: producers.

    @rule(
        kind=st.sampled_from(
            ["plain", "plain", "plain", "once", "once", "junk", "delayed", *KEYED, *KEYED]
        ),
        number=st.integers(1, 4),
        place=st.sampled_from([0, 0, 6]),
    )
    def publish(self, kind: str, number: int, place: int) -> None:
        """Publish operations; those that the server refuses are not accepted."""
        self._accept(kind, number, place)

    @rule(number=NUMBERS)
    @precondition(lambda self: self.ledger.has_dead_letters() and not self.network.is_full)
    def retry_dead_letter(self, number: int) -> None:
        """Send a dead letter again."""
        letters = DeadLetters(self.network.control, QUEUE)
        its = sorted(letters.list(), key=lambda letter: letter.id)
        identifier = its[number % len(its)].id
        unit = unit_of(letters.show(identifier)[1])
        assert unit is not None  # noqa: S101  the model made it
        letters.retry(identifier)
        self.ledger.retried(unit)
        self._check()

    @rule(steps=st.integers(1, 4))
    def live(self, steps: int) -> None:
        """Have all nodes do what they do, while some time passes."""
        self._live(steps)

    @rule(number=NUMBERS, times=st.integers(1, 3))
    @precondition(lambda self: self.awake)
    def turn(self, number: int, times: int) -> None:
        """Have one node do what it does."""
        node = one_of(self.awake, number)
        for _ in range(times):
            self._turn(node)

    @rule(number=NUMBERS, what=st.sampled_from(["act", "read", "intake", "side", "ask", "wait"]))
    @precondition(lambda self: self.awake)
    def do_one_thing(self, number: int, what: str) -> None:
        """Have one node do one thing of those that it does in a turn."""
        node = one_of(self.awake, number)
        if what == "act":
            node.act()
        elif what in ("read", "intake", "side"):
            node.read(intake=what != "side", side=what != "intake")
        else:
            node.turn(ROOM, wait=what == "wait")
        self._check()

    @rule(number=NUMBERS, which=NUMBERS, all_=st.booleans())
    @precondition(lambda self: self.with_waiting)
    def begin(self, number: int, which: int, all_: bool) -> None:
        """Have workers begin what waits in a node."""
        node = one_of(self.with_waiting, number)
        waiting = [each for each in node.waiting if each not in node.starting]
        for reservation in waiting if all_ else waiting[which : which + 1]:
            if not node.is_over:
                node.begin(reservation)
        self._check()

    @rule(number=NUMBERS, which=NUMBERS, how=_ENDS, all_=st.booleans())
    @precondition(lambda self: self.with_running)
    def finish(self, number: int, which: int, how: str, all_: bool) -> None:
        """Have workers end what they run."""
        node = one_of(self.with_running, number)
        running = [*node.running]
        for reservation in running if all_ else running[which : which + 1]:
            if node.is_over:
                break
            if how == "killed":
                node.lose_worker(reservation)
            elif how == "directly" and not self.network.is_full:
                node.finish_directly(reservation)
            else:
                node.finish(reservation, "SUCCESS" if how == "directly" else how)
        self._check()

    @rule(
        number=NUMBERS,
        which=NUMBERS,
        what=st.sampled_from(["give back", "give all back", "revoke", "postpone", "bury"]),
    )
    @precondition(lambda self: self.with_waiting)
    def refuse(self, number: int, which: int, what: str) -> None:
        """Have a node not run what it has."""
        self._refuse(one_of(self.with_waiting, number), which, what)

    @rule(number=NUMBERS)
    @precondition(lambda self: self.awake)
    def stop(self, number: int) -> None:
        """Ask a node to stop."""
        one_of(self.awake, number).stop()
        self._check()

    @rule(number=NUMBERS)
    @precondition(lambda self: self.stopping)
    def leave(self, number: int) -> None:
        """End a node that was asked to stop, whatever it runs."""
        one_of(self.stopping, number).leave()
        self._check()

    @rule(number=NUMBERS, undo=st.booleans())
    @precondition(lambda self: self.awake)
    def drain(self, number: int, undo: bool) -> None:
        """Drain a node, or undo it."""
        node = one_of(self.awake, number)
        if not node.session.is_stopping:
            node.drain(undo=undo)
            self._check()

    # Rules: faults.

    @rule(seconds=st.sampled_from([0.03, 0.2, 1.1, 2.5, 6.0]))
    def time_passes(self, seconds: float) -> None:
        """Have time pass in which nobody does anything, and somebody set the hosts' clocks."""
        self.time.server += seconds
        self.time.wall_clock = -1e6 if seconds > 1 else 1e9
        self._check()

    @rule(number=NUMBERS, is_frozen=st.booleans())
    @precondition(lambda self: self.alive)
    def freeze(self, number: int, is_frozen: bool) -> None:
        """Freeze a node, or thaw it."""
        one_of(self.alive, number).is_frozen = is_frozen

    @rule(number=NUMBERS, is_delivered=st.booleans(), is_host=st.booleans())
    @precondition(lambda self: self.alive)
    def crash(self, number: int, is_delivered: bool, is_host: bool) -> None:
        """Have a node's process, or its host, end without a word."""
        one_of(self.alive, number).crash(is_delivered=is_delivered, is_host=is_host)
        self._check()

    @rule(number=NUMBERS, sendings=st.integers(1, 4), crashes=st.booleans(), is_sent=st.booleans())
    @precondition(lambda self: self.alive)
    def light_fuse(self, number: int, sendings: int, crashes: bool, is_sent: bool) -> None:
        """Have a node crash, or lose a connection, at one of its next sendings."""
        one_of(self.alive, number).fuse = Fuse(sendings, crashes=crashes, is_sent=is_sent)

    @rule(
        number=NUMBERS, which=st.integers(0, 1), how=st.sampled_from(["cut", "half open", "silent"])
    )
    @precondition(lambda self: self.alive)
    def break_connection(self, number: int, which: int, how: str) -> None:
        """Break one of a node's connections."""
        wires = one_of(self.alive, number).wires()
        if which >= len(wires):
            return
        self.network.barrier()
        if how == "cut":
            wires[which].cut()
        elif how == "silent":
            wires[which].is_slow = wires[which].stays_half_open = True
        else:
            wires[which].leave_half_open()
        self._check()

    @rule(number=NUMBERS, which=st.integers(0, 1), is_slow=st.booleans())
    @precondition(lambda self: self.alive)
    def slow_down(self, number: int, which: int, is_slow: bool) -> None:
        """Have what a node sends over a connection stay under way, or arrive at once again."""
        wires = one_of(self.alive, number).wires()
        if which < len(wires):
            wires[which].is_slow = is_slow

    @rule(number=NUMBERS, which=st.integers(0, 1), sendings=st.sampled_from([1, 1, 2, None]))
    @precondition(lambda self: self.alive)
    def arrive(self, number: int, which: int, sendings: int | None) -> None:
        """Have arrive what is under way, or the first of it."""
        wires = one_of(self.alive, number).wires()
        if which < len(wires):
            attempt(lambda: wires[which].deliver(sendings))
            self._check()

    @rule(ends=st.booleans())
    @precondition(lambda self: self.network.ghosts)
    def half_open_connections(self, ends: bool) -> None:
        """Have arrive what was under way on half-open connections, or have these end."""
        if ends:
            self.network.end_ghosts()
        else:
            for ghost in self.network.ghosts:
                ghost.deliver()
        self._check()

    @rule()
    def waiting_ends(self) -> None:
        """Have the server let nobody wait for messages any longer."""
        for node in self.alive:
            for wire in node.wires():
                self.network.control.execute_command("CLIENT", "UNBLOCK", wire.number)
        self._check()

    @rule()
    def restart_server(self) -> None:
        """Have the server lose what a restart loses: its connections and scripts."""
        self.network.barrier()
        for node in self.alive:
            for wire in node.wires():
                wire.outbox.clear()
                wire.cut()
        self.network.end_ghosts()
        self.network.control.script_flush()
        self._check()

    @rule(is_full=st.booleans())
    def fill_memory(self, is_full: bool) -> None:
        """Have the server's memory be full, or not any longer."""
        self.network.fill(is_full=is_full)
