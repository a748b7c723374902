"""A node's turn to watch: it renews its lease, and looks after the others of its pool.

Every node renews its lease. Two nodes of a pool also watch: they look whether others are
dead, put back what those had reserved, and put delayed operations into the queue when they
are due (``watch.lua``, ``release.lua``). ``watching.py`` tells which nodes are dead.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from pooltasks.broker.scripts import LIMITS, Script
from pooltasks.broker.tracks import AHEAD
from pooltasks.broker.watching import LEASE_SECONDS, PATIENCE_SECONDS, Death, Other, Reason, Watch
from pooltasks.broker.wire import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pooltasks.broker.names import Names
    from pooltasks.broker.session import NodeSession

logger = get_logger(__name__)

RENEW_SECONDS = 3.0
"""How often a node renews its lease at the least. One that samples each second, as a busy node
does, renews with each second sample."""
_ANSWER_SECONDS = 1.5
"""Seconds within which a server answers a renewal that is there. A connection that is silent is
noticed so before the lease runs out."""
_LOOK_ANYWAY_SECONDS = 5.0
"""How often a watching node looks at every single other node although nothing seems changed."""
LOOK_SECONDS = 0.1
"""How often a watching node looks at the others."""
_ALONE_SECONDS = 0.5
"""How often it looks where there are no others."""
_BEAT_SECONDS = 1.5
"""Seconds for which a lease need not be renewed, nor the server be heard over the intake."""
_LATE_SECONDS = 0.4
"""How old an answer may be to say how the others are; that of a node that was frozen is not."""
_SOON = 0.05
"""Seconds until the next look when a node may be dead."""
_PRIORITIES = 0.02
"""Seconds between two looks in a pool with priorities: idle nodes wait at one list only."""
_WATCHERS = 2
_TURN_SECONDS = 0.7
"""How long a node is one of those that watch without saying so again."""
_DUE_AT_ONCE = 1000
_RELEASED_AT_ONCE = 300
"""Messages that one call of a script moves: about a millisecond of the server's time."""

WATCH = Script(*LIMITS, "turns.lua", "watch.lua")
RELEASE = Script("entries.lua", *LIMITS, "forget.lua", "release.lua")


class Watcher:
    """The watch of one node.

    Args:
        session: The node's.
        on_time: Takes the server's time in seconds, and monotonic seconds around the question.
        on_refusal: Takes what the server answers when it refuses.
        on_taken_for_dead: Called when the server knows the node no more.
        priorities: Whether the pool has priorities.
        fair: Whether operations of the pool are fair.
    """

    def __init__(
        self,
        session: NodeSession,
        *,
        on_time: Callable[[float, float, float], None],
        on_refusal: Callable[[Exception], None],
        on_taken_for_dead: Callable[[], None],
        priorities: bool = False,
        fair: bool = False,
    ) -> None:
        self._session = session
        self._on_time = on_time
        self._on_refusal = on_refusal
        self._on_taken_for_dead = on_taken_for_dead
        self._priorities = priorities
        self._fair = fair
        self.watch = Watch(time.monotonic())
        """The observations since it connected."""
        self.watches = False
        """Whether it is this node's turn."""
        self._slow_until = 0.0
        """Until when the server may take its time with answers, in monotonic seconds."""
        self._looks = True
        """Whether it asks by the script: it watches, too few do, or its lease is in doubt."""
        self._ahead = 0.0
        """The server's time minus monotonic time in seconds, as the script said last."""
        self.look_at = 0.0
        """When it looks next, in monotonic seconds."""
        self._seen: bytes | None = None
        """How many subscriptions and nodes there were at the last look; None: look again."""
        self._asked_at = 0.0
        self._beat_at = 0.0
        """When the server was last told to say something over the intake, in monotonic seconds."""
        self._looked_at = 0.0
        self._recovering: set[str] = set()

    @property
    def _names(self) -> Names:
        return self._session.names

    def connected(self) -> None:
        """Begin anew with what is seen: the connection is new."""
        now = time.monotonic()
        # A server to which a thousand nodes come back is slow, and not silent.
        self._slow_until = now + PATIENCE_SECONDS
        self.watch = Watch(now, PATIENCE_SECONDS if self._asked_at else 0.0)
        self._seen = None
        self._look_now()

    def look(self) -> None:
        """Look now, if this node watches: an operation is due before all others."""
        if self.watches and self._session.side.wire is not None:
            self.renew(time.monotonic())

    def look_soon(self) -> None:
        """Look at every node as soon as nodes do that have others: one has joined.

        Another one may have died at the same moment, and there are as many as before.
        """
        self._seen = None
        if self.watches:
            self.look_at = min(self.look_at, self._asked_at + LOOK_SECONDS)

    def renew(self, now: float) -> None:
        """Renew the lease, and look if this node watches.

        Args:
            now: Monotonic seconds.
        """
        self._asked_at = now
        # Until the answer says more.
        self.look_at = now + (_ALONE_SECONDS if self._looks else RENEW_SECONDS)
        session = self._session
        with session.together():
            if self._looks:
                self._ask(self._watch_command(now), lambda answer: self._see(answer, now))
                if self.watches and session.track is not None:
                    self._ask(AHEAD.call((*self._names.of_rollout, self._names.room), ()))
            else:
                self._renew_only(now)
            if now - self._beat_at >= _BEAT_SECONDS:
                self._beat_at = now
                channel = self._names.beat_of(session.identity)
                self._ask(
                    pack(("PUBLISH", channel, "")),
                    lambda _: session.intake.expect(time.monotonic() + _ANSWER_SECONDS, now),
                )

    def renew_along(self, now: float) -> None:
        """Renew the lease beside something that is sent at this moment, unless it was just done.

        Args:
            now: Monotonic seconds.
        """
        if not self._looks and now - self._asked_at >= _BEAT_SECONDS:
            self.renew(now)

    def _renew_only(self, now: float) -> None:
        """Renew the lease without a script, which costs the server several times as much.

        One that was taken for dead has no lease (``release.lua``), and XX gives it none.
        """
        names = self._names
        server_now = (now + self._ahead) * 1000
        lease = int(server_now + LEASE_SECONDS * 1000)

        def counted(watchers: int) -> None:
            if watchers < _WATCHERS:
                self._look_now()

        def renewed(changed: int) -> None:
            if not changed:
                self._look_now()

        self._ask(pack(("ZCOUNT", names.watchers, int(server_now), "+inf")), counted)
        self._ask(
            pack(("ZADD", names.leases, "XX", "CH", lease, self._session.identity)),
            renewed,
            lambda _: self._look_now(),  # a server whose memory is full takes the script
        )

    def _look_now(self) -> None:
        self._looks = True
        self.look_at = 0.0

    def _answers_by(self, now: float) -> float:
        """Return until when a server that is there has answered what it is asked now."""
        return max(now + _ANSWER_SECONDS, self._slow_until)

    def _ask(self, command: bytes, *handlers: Any) -> None:
        session, now = self._session, time.monotonic()
        within = self._answers_by(now) - now
        session.send(session.side, command, *handlers, again=False, within=within)

    def _watch_command(self, now: float) -> bytes:
        names = self._names
        is_time = now - self._looked_at >= _LOOK_ANYWAY_SECONDS
        if not self.watch.has_begun:
            told_of = b"all"
        elif is_time or self.watch.suspects or self._seen is None:
            told_of = b"suspects"
        else:
            told_of = self._seen
        keys = (
            names.index,
            names.leases,
            names.watchers,
            names.delayed,
            names.delayed_messages,
            *names.lists,
            *names.of_turns,
        )
        arguments = (
            self._session.identity,
            int(LEASE_SECONDS * 1000),
            names.alive,
            told_of,
            int(_TURN_SECONDS * 1000),
            _DUE_AT_ONCE,
            int(self._priorities),
            int(self._fair and not self._session.is_retired),
        )
        return WATCH.call(keys, arguments)

    def _see(self, answer: Any, asked_at: float) -> None:
        now = time.monotonic()
        if answer == 0:
            self._on_taken_for_dead()
            return
        seconds, microseconds, watches, due, seen, looked, uptime, *others = answer
        server_now = int(seconds) + int(microseconds) / 1e6
        self._ahead = server_now - (asked_at + now) / 2
        self._on_time(server_now, asked_at, now)
        self.watches = self._looks = bool(watches)
        if not watches:
            self.look_at = asked_at + RENEW_SECONDS
            return
        is_alone = int(seen.partition(b"/")[2]) == 1
        if now - asked_at > _LATE_SECONDS:
            self._seen = None  # it says nothing of how the others are now: ask again
        elif looked:
            self._looked_at = now
            self._seen = seen
            self.watch.know_uptime(asked_at, uptime)
            for death in self.watch.see(_others(others), asked_at, server_now * 1000):
                self.recover(death)
        elif seen != self._seen:
            self._seen = None  # another answer has come between: ask again
        has_time = is_alone and self._session.track is None
        wait = _ALONE_SECONDS if has_time else LOOK_SECONDS
        if self.watch.suspects:
            wait = _SOON
        if self._priorities:
            wait = _PRIORITIES
        if due >= 0:
            wait = min(wait, due / 1000)
        self.look_at = min(self.look_at, now + wait)

    def recover(self, death: Death) -> None:
        """Put back what a dead node has reserved, some hundred messages a call."""
        if death.identity in self._recovering:
            return
        self._recovering.add(death.identity)
        self._release(death, 0)

    def _release(self, death: Death, before: int) -> None:
        reason = Reason.LATE if death.reason is Reason.DEAD else death.reason

        def released(answer: Any) -> None:
            moved, left = answer
            if left > 0:
                self._release(death, before + moved)
                return
            self._recovering.discard(death.identity)
            if left == 0:
                logger.warning(
                    "node %s is dead (%s): put %d operations back",
                    death.identity,
                    "its connections closed"
                    if death.reason is Reason.GONE
                    else "its lease ran out",
                    before + moved,
                )

        def refused(error: Exception) -> None:
            self._recovering.discard(death.identity)
            self._on_refusal(error)

        command = release_of(self._names, death.identity, reason, death.lease)
        self._session.send(self._session.side, command, released, refused)


def release_of(names: Names, identity: str, reason: str, lease: str = "") -> bytes:
    """Return the command that puts back some of what a node has reserved, as release.lua says."""
    return RELEASE.call(
        (
            names.index,
            names.unacked(identity),
            names.incoming(identity),
            names.leases,
            names.watchers,
            *names.lists,
            names.nodes,
            *names.of_limits,
        ),
        (identity, reason, lease, names.alive_of(identity), _RELEASED_AT_ONCE),
    )


def _others(answer: list[Any]) -> Iterator[Other]:
    for place in range(0, len(answer), 4):
        identity, state, lease, connections = answer[place : place + 4]
        yield Other(identity.decode(), state.decode(), lease.decode(), connections)
