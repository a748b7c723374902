"""The intake of a node: messages come in here, and what has finished goes out.

It takes the place of kombu's consumer. Celery's event loop calls it at each turn;
Celery's own connection, with which it hears remote control and tells of events, has
nothing to do with messages: it may break and be made again while operations go on.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from celery.utils.log import get_logger

from pooltasks.broker.dead_letters import letter
from pooltasks.broker.limiting import quoted
from pooltasks.broker.names import Names
from pooltasks.broker.pause import Pause
from pooltasks.broker.reservations import ACKNOWLEDGE, START, Reservations
from pooltasks.broker.server import Connector
from pooltasks.broker.session import STOP_SECONDS, NodeSession
from pooltasks.broker.uniqueness import UNLOCK
from pooltasks.broker.validation import identity_of
from pooltasks.broker.wire import pack
from pooltasks.errors import MessageRefusedError
from pooltasks.node.intake.backlog import QueueLength
from pooltasks.node.intake.controls import Controls, limited_operations
from pooltasks.node.intake.lending import Lending
from pooltasks.node.intake.message import Message, due_time, read
from pooltasks.node.intake.reports import refused_result
from pooltasks.node.scoreboard.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from celery import Celery

    from pooltasks.broker.link import Link
    from pooltasks.broker.results import StoredResult
    from pooltasks.broker.scripts import Script
    from pooltasks.node.scoreboard.error_log import ErrorLog
    from pooltasks.node.workforce.loans import Loans
    from pooltasks.pool_settings import PoolSettings

logger = get_logger(__name__)

_PAUSE = 0.02
"""Seconds until messages are asked for again, when one may be waiting that has to stay."""
_REFUSED = 0.1
"""Seconds until they are asked for again, when the server has said that this node gets none."""
_RETIRED = 1.0
"""Seconds until a node asks again whose version is not the pool's any more."""
_MOMENT = 0.005
"""Seconds before its time at which an operation may start: it takes as long to get there."""


class Intake:
    """Takes messages for a node's workers, as many as these have room for.

    Args:
        app: The application.
        queue: The pool's queue.
        settings: The pool's settings.
        allowed: Returns how many messages the node may hold now; 0: none.
        revoked: Ids of operations that are not to run.
    """

    no_ack_consumers = None
    """For kombu's messages: each of them is acknowledged."""

    def __init__(
        self,
        app: Celery,
        queue: str,
        settings: PoolSettings,
        allowed: Callable[[], int],
        revoked: Collection[str],
    ) -> None:
        self.app = app
        self.queue = queue
        self.protection = app.pooltasks.protection
        """Checks and decrypts messages; None: there are no keys."""
        self.allowed = allowed
        self._revoked = revoked
        self._clock = app.pooltasks.clock
        self._dead_letters = settings.dead_letters
        prefix = app.conf.broker_transport_options.get("global_keyprefix", "")
        names = Names(queue, prefix, app.conf.broker_transport_options.get("sep"))
        limited = limited_operations(app, queue)
        fair = any(limits.fair for limits in limited.values())
        self.session = NodeSession(
            names,
            Connector(app),
            self,
            app.pooltasks.settings.version,
            priorities=bool(settings.priorities),
            fair=fair,
            limited=map(quoted, limited),
        )
        self.reservations = Reservations(
            self.session,
            settings.priorities or (0,),
            settings.max_deliveries - 1,
            limited=bool(limited),
            fair=fair,
        )
        self._controls = Controls(app, self.session, self.reservations, limited)
        self.pause = Pause()
        forget = WeakMethod(self._leave_to_parent)
        os.register_at_fork(after_in_child=lambda: (its := forget()) and its())
        self.prefetch_count = 0
        """Messages that the node may hold if all its workers are warm; 0: no limit."""
        self.on_message: Callable[[Message], None] | None = None
        """Takes each message; None while Celery's consumer is not ready."""
        self.on_lost: Callable[[], object] = int
        """Called when the node was taken for dead; the consumer forgets what has not begun."""
        self.needs_node: Callable[[], bool] = bool
        """Returns whether the node has to see each operation before it begins."""
        self.on_delivered: Callable[[], object] = int
        """Called when all messages of a reservation have been taken."""
        self.errors: ErrorLog | None = None
        """Counts what cannot be read, once the node's pool has started."""
        self._hub: Any = None
        self._timer: Any = None
        self._acts_at = 0.0
        """When the timer has the session do what is due, in monotonic seconds."""
        self.sender = Sender(self.session, prefix)
        """Sends the node's samples and errors."""
        self._length = QueueLength(self.session, self.reservations.lists, fair=fair)
        self.is_caught_up = False
        """Whether the last reservation found fewer messages than there was room for."""
        self._fds: dict[int, int] = {}
        self._lending = Lending(self, settings)
        self._loans: Loans | None = None

    def lend_with(self, loans: Loans) -> None:
        """Lend the wait for messages to workers, where that is right."""
        self._loans, loans.intake = loans, self._lending
        self.reservations.is_lent = loans.may_cover

    def _leave_to_parent(self) -> None:
        """Close this process's copies of the connections: they end with the node."""
        for link in (self.session.side, self.session.intake):
            link.close()

    # Callbacks of the session.

    def scripts(self) -> Sequence[Script]:
        """Return the scripts that a node uses."""
        return (*Sender.SCRIPTS, START, ACKNOWLEDGE, UNLOCK, *self.reservations.scripts)

    def on_opened(self, link: Link) -> None:
        """Read a connection from the event loop."""
        fd = link.fileno()
        if self._hub is not None and fd is not None:
            self._fds[id(link)] = fd
            self._hub.add_reader(fd, self._read, link)

    def on_closing(self, link: Link) -> None:
        """Read a connection no more."""
        fd = self._fds.pop(id(link), None)
        if self._hub is not None and fd is not None:
            self._hub.remove_reader(fd)
        if link is self.session.intake:
            self.reservations.intake_lost()
        else:
            self._length.forget()

    def on_joined(self, reservations: Collection[str]) -> None:
        """Give back what was reserved over a connection that broke before the answer came."""
        self.is_caught_up = False
        self.reservations.rejoined(reservations)
        self._controls.tell()

    def on_taken_for_dead(self) -> None:
        """Leave what has not begun to the nodes that have it now."""
        self.reservations.forget()
        self.on_lost()

    def on_refusal(self, error: Exception) -> None:
        """Leave a server that refuses alone for a moment."""
        self.pause.refused(error)

    def on_time(self, server: float, sent: float, received: float) -> None:
        """Set the clock that the node shares with its workers."""
        self._clock.observe(server, sent, received)

    # Calls of the event loop.

    def start(self, hub: Any) -> None:
        """Attach to an event loop; called again when the loop starts anew."""
        self._hub = hub
        for link in (self.session.side, self.session.intake):
            if link.wire is not None:
                self.on_opened(link)
        hub.on_tick.add(self.turn)
        if self._timer is not None:
            self._timer.cancel()
        self._act()

    def _act(self) -> None:
        self._act_in(self.session.act())

    def _act_in(self, seconds: float) -> None:
        self._acts_at = time.monotonic() + seconds
        self._timer = self._hub.call_later(seconds, self._act)

    def _read(self, link: Link) -> None:
        self.session.read(link)
        # An answer may call for the next look sooner than it was expected.
        self._act_by(self.session.watcher.look_at)

    def _act_by(self, at: float) -> None:
        if at < self._acts_at - _MOMENT and self._timer is not None:
            self._timer.cancel()
            self._act_in(max(0.001, at - time.monotonic()))

    def turn(self) -> None:
        """Ask for messages and complete what is finished; called at each turn of the loop."""
        reservations, session = self.reservations, self.session
        if not session.is_open:
            return
        if self._loans is not None and self._loans.goes_on():
            self.is_caught_up = False  # whatever has come meanwhile
            self._complete()
            return
        is_asking = session.intake.is_owed()
        room = 0 if is_asking else self.room()
        if room > 0 or (not is_asking and self._controls.lack_keys and self.may_ask()):
            wait = room > 0 and self.is_caught_up and not reservations.completion
            wait = wait and not session.is_retired
            if self._loans is not None and self._loans.begin(is_crowded=not self.is_caught_up):
                self._complete()
                return
            reservations.reserve(max(0, room), self._on_reserved, self._on_refused, wait=wait)
        elif not is_asking or reservations.is_waiting:
            self._complete()

    def _complete(self) -> None:
        if not self.pause.is_refused():
            self.reservations.complete()

    def room(self) -> int:
        """Return for how many messages there is room now."""
        return self.allowed() - len(self.reservations.held) if self.may_ask() else 0

    def may_ask(self) -> bool:
        """Return whether messages may be reserved now, if there is room."""
        if self.on_message is None or not self.pause.is_over() or self.session.is_stopping:
            return False
        return self._controls.is_known

    def _on_refused(self, error: Exception) -> None:
        self.pause.refused(error)

    def _on_reserved(self, messages: list[tuple[str, bytes]] | None) -> None:
        self.pause.accepted()
        self._controls.lack_keys = False
        if messages is None or self.session.is_retired:
            self.pause.rest(_REFUSED if messages is None else _RETIRED)
            return
        # Fewer than there was room for: the lists are empty, or the others have to stay.
        self.is_caught_up = not messages or self.room() > 0
        if not messages and self.reservations.has_trial:
            self.pause.rest(_PAUSE)
        self.take(messages)

    def take(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Take messages that are reserved: hand them on, or put them back where they came from."""
        if self.on_message is None or not self.allowed() or self.session.is_stopping:
            # No worker is there for them since the node began to wait: others have some.
            self.reservations.give_back([(reservation, b"") for reservation, _ in messages])
            return
        postponed = []
        for reservation, raw in messages:
            message = read(raw, reservation, self)
            if message is None:
                continue
            due = due_time(message.headers, self.app)
            if due is not None and due - self._clock.now() > _MOMENT:
                operation_id = message.headers["id"]
                if operation_id not in self._revoked:
                    postponed.append((reservation, operation_id, due))
                    continue
            if self._controls.concern(message):
                self._controls.hand_on(message, self._deliver)
            else:
                self.on_message(message)
        self.on_delivered()
        if postponed:
            self.reservations.postpone(postponed)
        self._controls.give_back_keyed()

    def _deliver(self, message: Message) -> None:
        """Hand a message on that had to wait for an answer."""
        if message.delivery_tag not in self.reservations.held:
            return  # given back meanwhile
        if self.on_message is not None:
            self.on_message(message)
        else:
            self.reservations.give_back([(message.delivery_tag, b"")])

    def length(self) -> int:
        """Return how many operations were in the queue when that was asked last; ask again."""
        return self._length.last()

    def hurry(self, operations: Sequence[str]) -> None:
        """Have delayed operations be due now: a node finds that they are revoked."""
        if operations:
            scores = [part for operation in operations for part in (0, operation)]
            session = self.session
            session.send_until_done(pack(("ZADD", session.names.delayed, "XX", *scores)))
            session.watcher.look()

    # Calls of messages.

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002  kombu's
        """Acknowledge a message with the next step to the server."""
        self.reservations.acknowledge(delivery_tag)

    def bury(
        self, message: Message, reason: str, history: Any = None, result: StoredResult | None = None
    ) -> None:
        """Make a message a dead letter; its caller gets ``result``."""
        self.reservations.bury(
            message.delivery_tag,
            letter(
                message.raw,
                reason,
                history=history,
                at=self._clock.now(),
                bounds=self._dead_letters,
            ),
            result,
        )

    def bury_unreadable(self, raw: bytes, reservation: str, reason: str) -> None:
        """Make a message a dead letter that cannot be read; tell its caller if its id can be."""
        result = refused_result(self.app, identity_of(raw)[0], reason)
        if self.errors is not None:
            named = zip(("id", "task"), identity_of(raw), strict=True)
            self.errors.found(MessageRefusedError(reason), dict(named), reason=reason)
        self.reservations.bury(
            reservation,
            letter(raw, reason, at=self._clock.now(), bounds=self._dead_letters),
            result,
        )

    # How it ends.

    def give_back_all_but(self, running: Collection[str]) -> int:
        """Put back everything that no worker has begun; return how much.

        Args:
            running: The reservations of what workers run.
        """
        rest = sorted(self.reservations.held.difference(running), key=int)
        self.reservations.give_back([(reservation, b"") for reservation in rest])
        return len(rest)

    def drain(self, *, undo: bool = False) -> None:
        """Have the server give this node no more messages, or some again."""
        if undo:
            self.session.join_again()
            self.pause.rest(0.0)
        else:
            self.session.reserve_nothing(stops=False)

    def stop(self) -> None:
        """Reserve nothing more, from now on and for good."""
        self.session.reserve_nothing(stops=True)
        self._act_by(time.monotonic() + STOP_SECONDS + _MOMENT)

    def is_settled(self) -> bool:
        """Return whether the server knows of everything that has finished."""
        return self.reservations.completion.is_empty() and not self.session.side.is_owed()

    def leave(self, seconds: float) -> None:
        """Complete what is finished, put back the rest, and end."""
        if self._hub is not None:
            self._timer.cancel()
            self._hub.on_tick.discard(self.turn)
        self.on_message = None
        self.reservations.intake_lost()
        self.reservations.complete()
        begun = time.monotonic()
        put_back = self.session.leave(seconds)
        if put_back is None:
            logger.warning(
                "The server did not answer within %.1f seconds: the pool's other nodes put back "
                "what this one had reserved.",
                time.monotonic() - begun,
            )
        elif put_back:
            logger.info("put %d operations back that had not ended", put_back)
