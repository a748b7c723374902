"""A node's session with the server: who it is, its connections, its end.

A session outlives connections. It has two: over the *intake* it waits for messages,
over the *side* it says everything else. Each that breaks is opened again at once, and
nothing else happens: the node keeps its identity and what it has reserved. Only a node
that was taken for dead begins anew, under another identity.

Its lease, and its turn to watch the other nodes of its pool, are in ``watcher.py``.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery.utils.log import get_logger
from redis.exceptions import RedisError

from pooltasks.broker.link import ANSWER_SECONDS, Link
from pooltasks.broker.pause import is_passing
from pooltasks.broker.scripts import Script, load
from pooltasks.broker.tracks import AHEAD, Standing, Tracks
from pooltasks.broker.watcher import RELEASE, WATCH, Watcher, release_of
from pooltasks.broker.watching import LEASE_SECONDS
from pooltasks.broker.wire import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pooltasks.broker.names import Names
    from pooltasks.broker.owner import Owner
    from pooltasks.broker.tracks import Track
    from pooltasks.broker.wire import Wire

logger = get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two attempts to connect: what an attempt costs a server is little."""

STOP_SECONDS = 0.75
"""Within which a server answers a node that stops: what comes after it may wait for it too."""

JOIN = Script("forget.lua", "join.lua")
STATE = Script("state.lua")


class NodeSession:
    """One node's session.

    Args:
        names: The keys and channels of its pool.
        connect: Opens a connection to the server, with RESP3.
        owner: The node.
        version: Of the node's code; '' if it has none.
        priorities: Whether the pool has priorities.
        fair: Whether operations of the pool are fair.
        limited: The operations with limits that its code has, as their names stand in keys.
    """

    def __init__(
        self,
        names: Names,
        connect: Callable[[], Wire],
        owner: Owner,
        version: str = "",
        *,
        priorities: bool = False,
        fair: bool = False,
        limited: Iterable[str] = (),
    ) -> None:
        self.names = names
        self._limited = " ".join(limited)
        self._tracks = Tracks(names, version, fair=fair)
        self.track: Track | None = None
        """The lists that it takes from while they differ by version; None: from all."""
        self.identity = uuid4().hex
        self.epoch = 0
        self.side = Link(self._connect_side, self._on_push, owner.on_refusal)
        self.intake = Link(self._connect_intake, self._on_push, owner.on_refusal)
        self.is_stopping = False
        self._open_wire = connect
        self._owner = owner
        self.watcher = Watcher(
            self,
            on_time=owner.on_time,
            on_refusal=owner.on_refusal,
            on_taken_for_dead=self._was_taken_for_dead,
            priorities=priorities,
            fair=fair,
        )
        self._is_known = False
        """Whether the server knows this identity."""
        self._try_at = 0.0
        self._pause = _FIRST_PAUSE
        self._said: set[str] = set()
        self._away_since: float | None = None
        self._refused: list[tuple[bytes, Callable[[Any], None] | None]] = []
        self._refused_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether both connections are open."""
        return self.side.wire is not None and self.intake.wire is not None

    @property
    def is_retired(self) -> bool:
        """Whether another version of the code runs what waits, and this one nothing."""
        return self.track is not None and self.track.takes_nothing

    def has_waited(self) -> float:
        """Return for how many seconds the server owes an answer, or has been away."""
        now = time.monotonic()
        return max(self.side.has_waited(now), now - (self._away_since or now))

    def open(self) -> None:
        """Open the connections that are closed.

        Raises:
            redis.RedisError: The server is away.
        """
        for link in (self.side, self.intake):
            if link.wire is None and not (link is self.intake and self.is_stopping):
                link.open()
                self._owner.on_opened(link)
        self._pause = _FIRST_PAUSE
        if self._away_since is not None:
            away = time.monotonic() - self._away_since
            if self._said:
                logger.warning("Connected to the server again after %.1f seconds.", away)
            self._away_since = None
            self._said.clear()

    def read(self, link: Link) -> None:
        """Take what has come over a connection; open it again if it broke."""
        try:
            link.read()
        except RedisError as error:
            self.lost(link, error)

    def send(self, link: Link, command: bytes, *handlers: Any, **options: Any) -> None:
        """Send a command as :meth:`Link.send`; open the connection again if it broke."""
        try:
            link.send(command, *handlers, **options)
        except RedisError as error:
            self.lost(link, error)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have what the side sends meanwhile go out with one write: the server wakes once."""
        try:
            with self.side.together():
                yield
        except RedisError as error:
            self.lost(self.side, error)

    def send_until_done(
        self,
        command: bytes,
        on_answer: Callable[[Any], None] | None = None,
        within: float = ANSWER_SECONDS,
    ) -> None:
        """Send a command over the side, as often as it takes until the server has done it.

        A server whose memory is full, or that lacks its replicas, refuses for a while.
        """

        def refused(error: Exception) -> None:
            self._owner.on_refusal(error)
            if is_passing(error):
                self._refused.append((command, on_answer))
            else:
                logger.error("The server refuses a command of this node for good: %s", error)

        self.send(self.side, command, on_answer, refused, within=within)

    def refused(self, error: Exception) -> None:
        """Note that the server refuses what it was asked."""
        self._owner.on_refusal(error)

    def _send_refused(self, now: float) -> None:
        if self._refused and now >= self._refused_until and self.side.wire is not None:
            self._refused_until = now + _LONGEST_PAUSE
            again, self._refused = self._refused, []
            for command, on_answer in again:
                self.send_until_done(command, on_answer)

    def lost(self, link: Link, error: Exception) -> None:
        """Open a connection again that broke; try later if the server is away."""
        self._owner.on_closing(link)
        link.close()
        now = time.monotonic()
        if link is self.intake and self.is_stopping:
            self.find_what_no_answer_told()
            return
        if self._away_since is None:
            self._away_since = now
        if now >= self._try_at:
            try:
                self.open()
            except RedisError as failure:
                self._away(failure)
            else:
                logger.info("a connection to the server broke and is open again: %s", error)
            self._try_at = time.monotonic() + self._pause

    def find_what_no_answer_told(self) -> None:
        """Have what the intake reserved last be known: a node that stops opens it no more."""

        def found(reservations: list[bytes]) -> None:
            self._owner.on_joined([each.decode() for each in reservations])

        self.send_until_done(pack(("HKEYS", self.names.unacked(self.identity))), found)

    def _away(self, error: Exception) -> None:
        for link in (self.side, self.intake):
            self._owner.on_closing(link)
            link.close()
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        if str(error) not in self._said:
            self._said.add(str(error))
            logger.error("The server is away: %s. Trying again until it answers.", error)

    def act(self) -> float:
        """Do what is due; return the seconds after which there may be something again."""
        now = time.monotonic()
        for link in (self.side, self.intake):
            if link.wire is not None and link.is_overdue(now):
                self.read(link)  # the answer may be here: it was this node that was busy
                if link.wire is not None and link.is_overdue(now):
                    self.lost(link, TimeoutError("the server is silent"))
        if self.side.wire is None or (self.intake.wire is None and not self.is_stopping):
            if now < self._try_at:
                return self._try_at - now
            self.lost(self.side if self.side.wire is None else self.intake, TimeoutError("closed"))
            now = time.monotonic()
        if now >= self.watcher.look_at and self.side.wire is not None:
            self.watcher.renew(now)
        self._send_refused(now)
        return max(0.001, self.watcher.look_at - now)

    # The connections.

    @contextmanager
    def _new_wire(self) -> Iterator[Wire]:
        """Open a connection, and close it again if what has to be said over it is refused."""
        wire = self._open_wire()
        try:
            yield wire
        except BaseException:
            wire.close()
            raise

    def _connect_side(self) -> Wire:
        with self._new_wire() as wire:
            # First: a node without a subscription seems dead.
            self._subscribe(wire)
            load(wire, (WATCH, JOIN, STATE, RELEASE, AHEAD, *self._owner.scripts()))
            if not self._is_known:
                self._join(wire)
                self._is_known = True
            self.watcher.connected()
        return wire

    def _connect_intake(self) -> Wire:
        with self._new_wire() as wire:
            self._subscribe(wire, self.names.due, self.names.beat_of(self.identity))
            reserved = self._join(wire)
            if reserved == 0:
                # The others forget a dead node once nothing is subscribed to its name.
                wire.send(pack(("UNSUBSCRIBE",)))
                self._begin_anew()
                # The side's channel has the old name; it joins under the new one.
                self._owner.on_closing(self.side)
                self.side.open()
                self._owner.on_opened(self.side)
                self._subscribe(wire, self.names.due, self.names.beat_of(self.identity))
                reserved = self._join(wire)
            self._owner.on_joined(reserved)
        return wire

    def join_again(self) -> None:
        """Begin another epoch: the node was drained, or a rollout began or ended."""
        if self.is_stopping:
            return
        self._owner.on_closing(self.intake)
        self.intake.close()
        try:
            self.open()
        except RedisError as error:
            self.lost(self.intake, error)

    def _join(self, wire: Wire) -> Any:
        """Join; return the ids of what the server has as reserved here, 0 if it was dead."""
        names = self.names
        self.epoch += 1
        keys = (
            *(names.index, names.leases, names.incoming(self.identity), names.lists[0]),
            *(names.unacked(self.identity), names.watchers),
            *(names.rollout, names.nodes, names.limits, names.held, names.resume),
        )
        lease, is_new = int(LEASE_SECONDS * 1000), int(not self._is_known)
        its = (self.identity, self.epoch, lease, is_new, names.alive, self._limited)
        answer = wire.ask(JOIN.call(keys, its))
        if answer == 0:
            return 0
        of_rollout, reserved = answer[:4], answer[4:]
        self.track = self._tracks.of(Standing(*(each.decode() for each in of_rollout)))
        return [each.decode() for each in reserved]

    def _subscribe(self, wire: Wire, *channels: str) -> None:
        # The confirmations are pushes, and left out when the next answer is read.
        names = self.names
        wire.send(pack(("SUBSCRIBE", names.alive, names.alive_of(self.identity), *channels)))

    def _on_push(self, message: Any) -> None:
        if message[0] != b"message":
            return
        channel = message[1].decode()
        if channel == self.names.due and message[2] == b"join":
            self.join_again()  # a rollout has begun or ended
        elif channel == self.names.due:
            self.watcher.look()
        elif channel == self.names.alive_of(self.identity):
            self.watcher.look_soon()

    def _was_taken_for_dead(self) -> None:
        self._begin_anew()
        for link in (self.intake, self.side):
            self._owner.on_closing(link)
            link.close()
        self._try_at = 0.0

    def _begin_anew(self) -> None:
        logger.warning(
            "This node was silent for too long and was taken for dead: its operations run "
            "elsewhere. It goes on as a new one."
        )
        self.identity = uuid4().hex
        self.epoch = 0
        self._is_known = False
        self.watcher.watches = False
        self._owner.on_taken_for_dead()

    # Its end.

    def reserve_nothing(self, *, stops: bool) -> None:
        """Have the server refuse this node further messages, from now on.

        Args:
            stops: Whether the node stops. Otherwise :meth:`join_again` undoes it.
        """
        self.is_stopping |= stops
        if self.is_stopping:
            self._set_state("stopping", STOP_SECONDS)
        else:
            self._set_state("drained")

    def _set_state(self, state: str, within: float = ANSWER_SECONDS) -> None:
        command = STATE.call((self.names.index,), (self.identity, state))
        self.send_until_done(command, within=within)

    def leave(self, seconds: float) -> int | None:
        """Put back what is left, and end the session.

        Args:
            seconds: How long the server may take.

        Returns:
            How many messages went back; None if the server is away: the others put back
            what is left.
        """
        deadline = time.monotonic() + seconds
        put_back: int = 0
        self.is_stopping = True
        for link in (self.side, self.intake):
            self._owner.on_closing(link)  # the event loop reads neither from now on
        self.intake.close()
        if self.side.wire is None and self._away_since is not None:
            return None
        while time.monotonic() < deadline:
            try:
                if self.side.wire is None:
                    self.side.open()
                wire = self.side.wire
                assert wire is not None  # noqa: S101  for the type checker: it is open
                while self.side.is_owed() and time.monotonic() < deadline:
                    wire.wait(0.1)
                    self.side.read()
                moved, left = wire.ask(release_of(self.names, self.identity, "left"))
                put_back += moved
                if left <= 0:
                    self.side.close()
                    return put_back
            except RedisError:
                self.side.close()
                time.sleep(min(_FIRST_PAUSE, max(0.0, deadline - time.monotonic())))
        self.side.close()
        return None
