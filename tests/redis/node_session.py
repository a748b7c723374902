"""A node's session and reservations without a node: a test is the event loop."""

from __future__ import annotations

import time
from typing import Any

import redis

from pooltasks.broker.names import Names
from pooltasks.broker.reservations import FAIR, LIMITED, UNLIMITED, Reservations
from pooltasks.broker.session import NodeSession
from pooltasks.broker.wire import Wire

DEADLINE = 20.0  # seconds


class Node:
    """One node of a pool."""

    def __init__(
        self,
        url: str,
        queue: str,
        *,
        places: tuple[int, ...] = (0,),
        last_chance: int = 2,
        limited: bool = False,
        fair: bool = False,
        version: str = "",
        operations: tuple[str, ...] = (),
    ) -> None:
        self._url = url
        self.names = Names(queue)
        self.refusals: list[Exception] = []
        self.taken_for_dead = 0
        self.received: list[tuple[str, bytes]] = []
        self.refused_messages = 0
        self.session = NodeSession(
            self.names,
            self._connect,
            self,
            version,
            priorities=len(places) > 1,
            fair=fair,
            limited=operations,
        )
        self.reservations = Reservations(
            self.session, places, last_chance, limited=limited, fair=fair
        )
        self.session.open()

    def _connect(self) -> Wire:
        client = redis.Redis.from_url(
            self._url, protocol=3, socket_timeout=2, socket_connect_timeout=1
        )
        return Wire(client.connection_pool.get_connection())

    # Callbacks of the session.

    def scripts(self) -> Any:
        return (*FAIR, *LIMITED, *UNLIMITED, *Reservations.SCRIPTS)

    def on_opened(self, link: Any) -> None:
        pass

    def on_closing(self, link: Any) -> None:
        if link is self.session.intake:
            self.reservations.intake_lost()

    def on_joined(self, reservations: Any) -> None:
        self.reservations.rejoined(reservations)

    def on_taken_for_dead(self) -> None:
        self.taken_for_dead += 1
        self.reservations.forget()

    def on_refusal(self, error: Exception) -> None:
        self.refusals.append(error)

    def on_time(self, server: float, sent: float, received: float) -> None:
        pass

    # What a test does.

    def turn(self) -> None:
        self.session.act()
        for link in (self.session.side, self.session.intake):
            self.session.read(link)

    def turn_until(self, condition: Any, what: str, *others: Node) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, what
            for node in (self, *others):
                node.turn()
            time.sleep(0.001)  # between turns

    def ask(self, room: int = 10, *, wait: bool = False) -> None:
        self.reservations.reserve(room, self._take, self.refusals.append, wait=wait)

    def _take(self, messages: list[tuple[str, bytes]] | None) -> None:
        if messages is None:
            self.refused_messages += 1
        else:
            self.received += messages

    def reserve(self, room: int = 10) -> list[tuple[str, bytes]]:
        self.received.clear()
        self.ask(room)
        self.turn_until(lambda: not self.session.intake.is_owed(), "an answer")
        return list(self.received)

    def has_looked_at(self, nodes: int) -> bool:
        """Whether it has looked since there were so many nodes."""
        return (self.session.watcher._seen or b"").endswith(b"/%d" % nodes)

    def settle(self) -> None:
        self.reservations.complete()
        self.turn_until(lambda: not self.session.side.is_owed(), "the answers")

    def die(self) -> None:
        """End as a process does that is killed: its connections close, without a word."""
        for link in (self.session.side, self.session.intake):
            if link.wire is not None:
                link.wire.close()
                link.wire = None
