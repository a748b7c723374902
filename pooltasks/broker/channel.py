"""The channel of a node: kombu's for Redis, with a reservation that loses nothing.

Stock kombu takes a message with BRPOP and notes it as unacked in a second
step; a node that dies between the two loses it. Here one script moves a batch
from the queue to the unacked hash (``reserve.lua``), and carries the
acknowledgements that have gathered. While the queue is empty the node waits
with ``BLMOVE queue queue RIGHT RIGHT``, which puts the message back where it
was: it takes nothing. The script is written right behind it, so that the server
runs it at the moment a message comes, and the node hears of both at once.
"""

from __future__ import annotations

import time
from functools import cached_property, partial
from hashlib import sha1
from importlib.resources import files
from itertools import count
from queue import Empty
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery.utils.log import get_logger
from kombu.transport import redis, virtual
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from pooltasks import keys
from pooltasks.broker.client import client_on
from pooltasks.broker.completion import COMPLETE, Batch, SideDoor
from pooltasks.broker.dead_letters import DeadLetters, deliveries_of, reason_of
from pooltasks.broker.pause import Pause
from pooltasks.broker.reading import check_operation, read
from pooltasks.broker.recovery import redelivered, reservation_end, reserved_message
from pooltasks.broker.reserved import QoS
from pooltasks.broker.tenure import Tenure
from pooltasks.broker.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)

_AT_ONCE = 500
"""Messages that are reserved in one step at the most."""
_PAUSE = 0.02
"""Seconds until it is asked again, when a message may be waiting that has to stay."""
_MOMENT = 0.02
"""Seconds for which one of several lists is watched."""
_RESERVE = COMPLETE + files("pooltasks.broker").joinpath("reserve.lua").read_text("utf-8")
_RESERVE_SHA = sha1(_RESERVE.encode()).hexdigest()  # noqa: S324  the server's name of a script

_GIVE_BACK = """
-- KEYS[1] hash, unacked  KEYS[2] list, the queue  ARGV[1] reservation id  ARGV[2] the message
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
  redis.call('RPUSH', KEYS[2], ARGV[2])
end
"""

_NOTHING = Batch([], [])


class Channel(redis.Channel):
    """A channel that reserves atomically."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # kombu's pools have connections of their own; those publish only.
        self.tenure = getattr(args[0].client, "tenure", None) or Tenure()
        self.completion = self.tenure.completion
        self._asking: Wire | None = None
        self._underway = _NOTHING
        """What went with the reservation whose answer has not come."""
        self.last_chance = 0
        """How many deliveries may end in a death before the next is the last; 0: any number."""
        self._on_trial: str | None = None
        """The reservation that has its last chance, if there is one."""
        self._ids = f"{uuid4().hex}-"
        self._next_id = 0
        self._asked: list[tuple[str, str]] = []
        """Queue and name of each list that was asked for, in their order."""
        self._may_wait = False
        self._room = 0
        self.pause = Pause()
        self._watched = 0
        self._waits = False
        self._without_acknowledgement: set[str] = set()
        super().__init__(*args, **kwargs)

    @property
    def unacked_key(self) -> str:
        """The hash of what the node has reserved."""
        return keys.unacked(self.tenure.identity)

    @property
    def stored_unacked_key(self) -> str:
        """The same as the server knows it: with the prefix of the deployment's keys."""
        prefix: str = self.global_keyprefix
        return prefix + self.unacked_key

    @property
    def is_caught_up(self) -> bool:
        """Whether the last reservation found less than there was room for: nothing was left."""
        return self._may_wait

    @cached_property
    def server(self) -> Any:
        """A client on connections of its own: the channel's may be waiting for messages."""
        return client_on(self.pool, self.global_keyprefix)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from ``queue``."""
        if no_ack:
            self._without_acknowledgement.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        lists = [self._list(q, pri) for pri in self.priority_steps for q in queues]
        self._asked = list(zip(queues * len(self.priority_steps), lists, strict=True))
        # What is to be acknowledged does not wait for a message to come.
        self._waits = self._may_wait and not self.completion
        commands = self._reserve(lists)
        if self._waits:
            # One list can be watched; of several, each in turn for a moment.
            seconds = (timeout or self.brpop_timeout) if len(lists) == 1 else _MOMENT
            watched = lists[self._next_watched(len(lists))]
            name = self.global_keyprefix + watched
            commands = pack(("BLMOVE", name, name, "RIGHT", "RIGHT", seconds)) + commands
        try:
            self._wire.send(commands)
        except self.connection_errors:
            self._take_back()
            raise

    @property
    def _wire(self) -> Wire:
        """The connection over which messages are asked for."""
        connection = self.client.connection
        if self._asking is None or self._asking.connection is not connection:
            self._asking = Wire(connection)
        return self._asking

    def _reserve(self, lists: list[str]) -> bytes:
        """Return the command that completes what is finished and reserves from ``lists``."""
        self._underway = self.completion.take()
        self._room = min(self.qos.room(), _AT_ONCE)
        return pack(
            (
                "EVALSHA",
                _RESERVE_SHA,
                2 + len(lists),
                *(self.global_keyprefix + key for key in (self.unacked_key, keys.LEASES, *lists)),
                self._room,
                self.last_chance,
                int(self.qos.holds(self._on_trial)),
                self.tenure.identity if self.connection.lease else "",
                self._ids,
                self._next_id,
                *(reservation_end(name) for name in lists),
                *self._underway.arguments(),
            )
        )

    def _take_back(self) -> None:
        """Complete again what may not have arrived."""
        self.completion.again(self._underway)
        self._underway = _NOTHING

    def _list(self, queue: str, priority: int) -> str:
        """Return the list in which messages of a priority wait, without the prefix of keys."""
        name: str = self._q_for_pri(queue, priority)
        return name

    def _next_watched(self, lists: int) -> int:
        self._watched = (self._watched + 1) % lists
        return self._watched

    def _brpop_read(self, **_: Any) -> bool:
        try:
            answer = self._answer()
        except NoScriptError:
            # The server was restarted, or somebody emptied its cache of scripts.
            self._take_back()
            self.client.script_load(_RESERVE)
            raise Empty from None
        except self.connection_errors:
            # Disconnected, kombu connects again at the next turn of the loop.
            self.client.connection.disconnect()
            self._take_back()
            raise
        except ReadOnlyError as error:
            self._take_back()
            # A replica since a failover: another server has the messages.
            raise ConnectionResetError(f"the server became a replica: {error}") from error
        except ResponseError as error:
            self._take_back()
            self.pause.refused(error)
            raise Empty from error
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self._underway = _NOTHING
        self.pause.accepted()
        # Less than there was room for: the lists are empty, or what is left has to stay.
        self._may_wait = len(answer) < 2 * self._room
        if not answer:
            if self.qos.holds(self._on_trial):
                self.pause.rest(_PAUSE)
            raise Empty
        self._hand_out(answer[::2], answer[1::2])
        return True

    def _hand_out(self, places: list[int], messages: list[bytes]) -> None:
        """Hand each reserved message to its consumer; give back what is wanted no more."""
        # All numbers are taken before any message is delivered: delivering may
        # raise, and a number that is used twice would overwrite a reservation.
        first = self._next_id
        self._next_id += len(messages)
        trial = b'{"deliveries": %d,' % self.last_chance
        unwanted = []
        for number, place, message in zip(count(first), places, messages, strict=False):
            queue, name = self._asked[place - 1]
            reservation = f"{self._ids}{number}"
            if queue not in self._active_queues or self.qos.is_closed():
                unwanted.append((reservation, name, message))
                continue
            if message.startswith(trial):
                self._on_trial = reservation
            self._receive_reserved(queue, reservation, message)
        for cancelled in reversed(unwanted):
            # Nobody here takes it since the channel began to wait: others do.
            self._return(*cancelled)

    def _answer(self) -> list[Any]:
        """Return what was reserved; the answer to the wait, before it, says nothing more."""
        wire, failure = self._wire, None
        if self._waits:
            try:
                wire.receive()
            except ResponseError as error:
                failure = error  # the other answer has to be read all the same
        answer: list[Any] = wire.receive()
        if failure and not answer:
            self._underway = _NOTHING
            raise failure
        return answer

    def _receive_reserved(self, queue: str, reservation: str, message: bytes) -> None:
        """Hand a reserved message to its consumer; set aside what is no message."""
        try:
            payload = read(message)
            if queue not in self._without_acknowledgement:
                check_operation(payload)
            properties = payload["properties"]
            properties["delivery_tag"] = reservation
            # Where it came from is known; what its sender says of that is not needed.
            properties["delivery_info"] = {
                "exchange": "",
                "routing_key": queue,
                "redelivered": bool(properties["delivery_info"].get("redelivered")),
            }
            self.Message(payload, channel=self)
        except Exception as error:  # noqa: BLE001  nobody knows all that a hostile one can raise
            self._set_aside(queue, reservation, message, error)
            return
        if queue in self._without_acknowledgement:
            self.completion.reservations.append(reservation)
        try:
            self.connection._deliver(payload, queue)  # noqa: SLF001  kombu's name
        except (*self.connection_errors, MemoryError):
            raise
        except Exception as error:  # whatever Celery makes of a hostile message, the node lives
            if reservation not in self.qos._delivered:  # noqa: SLF001  kombu's name
                raise
            self._set_aside(queue, reservation, message, error)
            virtual.QoS.ack(self.qos, reservation)

    def _set_aside(self, queue: str, reservation: str, message: bytes, error: Exception) -> None:
        """Move an unreadable message to the dead letters of its pool."""
        logger.error(
            "queue %s: an unreadable message of %d bytes becomes a dead letter: %s: %s",
            queue,
            len(message),
            type(error).__name__,
            error,
        )
        self._add_dead_letter(
            queue, reservation, message, f"unreadable: {type(error).__name__}: {error}"
        )

    def bury(self, message: Any) -> None:
        """Make a reserved message, which was rejected for good, a dead letter."""
        original = self.original(message)
        if original is not None:
            self._add_dead_letter(
                message.delivery_info["routing_key"],
                message.delivery_tag,
                original,
                reason_of(message),
            )

    def original(self, message: Any) -> bytes | None:
        """Return a reserved message as it was in its queue; None if another node has it now."""
        entry = self.server.hget(self.unacked_key, message.delivery_tag)
        return None if entry is None else reserved_message(entry)

    def _add_dead_letter(self, queue: str, reservation: str, message: bytes, reason: str) -> None:
        DeadLetters(self.server, queue).add(
            message, reason, reservation=(self.unacked_key, reservation)
        )

    def give_back(self, message: Any) -> None:
        """Put a reserved message back at the head of its queue, unless somebody did so already.

        Its header ``deliveries`` goes with it: whoever gives it back because
        its worker died has counted that there.
        """
        payload = message._raw  # noqa: SLF001  kombu's name
        payload["headers"] = message.headers
        info = payload["properties"]["delivery_info"]
        priority = self._get_message_priority(payload, reverse=False)
        self._return(
            message.delivery_tag,
            self._list(info["routing_key"], priority),
            redelivered(payload, deliveries_of(message.headers)),
        )

    def _return(self, reservation: str, name: str, message: bytes) -> None:
        """Put a message back at the head of its list, if its reservation is still there."""
        self.server.eval(_GIVE_BACK, 2, self.unacked_key, name, reservation, message)

    def complete_finished(self) -> None:
        """Complete what no reservation takes along: the channel waits, or has no room for more."""
        if self.completion and (not self._in_poll or self._waits):
            self._at_the_side(self._complete_now)

    def complete_while_waiting(self) -> None:
        """Complete at once what finishes on an idle node: somebody may be waiting for it."""
        self._at_the_side(partial(self._side_door.settle, wait=False))
        if self.completion and self._in_poll and self._waits:
            self._at_the_side(self._complete_now)

    def _at_the_side(self, act: Callable[[], None]) -> None:
        if not self.pause.is_refused():
            try:
                act()
            except ResponseError as error:
                self.pause.refused(error)

    def _complete_now(self) -> None:
        self._side_door.complete(self.stored_unacked_key)

    @cached_property
    def _side_door(self) -> SideDoor:
        return SideDoor(self.pool, self.completion)

    def close(self) -> None:
        """Complete what is finished, and close."""
        if self._in_poll:
            try:
                self._brpop_read()
            except (Empty, *self.connection_errors):
                pass  # what it reserved, if anything, is the node's when it is connected again
        self._take_back()
        if not self.closed:
            try:
                self._side_door.settle()
                if self.completion:
                    self._complete_now()
                    self._side_door.settle()
            except (ResponseError, *self.connection_errors) as error:
                logger.warning(
                    "%d operations could not be acknowledged and will run again: %s",
                    len(self.completion.reservations),
                    error,
                )
        super().close()
