"""The reservations of a node: from the message that arrives to its acknowledgement.

One script moves a batch of messages from the queue to the node's unacked hash and
completes what has finished meanwhile (``reserve.lua``). While the queue is empty the
node waits with ``BLMOVE queue incoming``: the server gives each message to one waiting
node, and runs the script that was sent right behind it at that moment.

Each reservation has a number, set aside before it is asked for: no number is used twice,
whichever answer gets lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pooltasks.broker.completion import Batch, Completion
from pooltasks.broker.link import ANSWER_SECONDS
from pooltasks.broker.scripts import LIMITS, Script
from pooltasks.broker.uniqueness import UNLOCK
from pooltasks.broker.wire import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from pooltasks.broker.results import StoredResult
    from pooltasks.broker.session import NodeSession
    from pooltasks.broker.uniqueness import Lock

AT_ONCE = 500
"""Messages that are reserved in one step at the most."""
KEYLESS_AT_ONCE = 50
"""Messages beyond a node's room that it reserves only to find their keys, where keys take turns."""
WAIT_SECONDS = 60.0
"""How long the server lets a node wait for a message before it asks again. The connection is not
idle meanwhile: the server says something over it each time the node renews its lease."""


class Scripts(NamedTuple):
    """The scripts that reserve, and end reservations."""

    reserve: Script
    reserve_sorted: Script
    """The same during a rollout."""
    complete: Script
    give_back: Script
    postpone: Script
    bury: Script


def _scripts(*limits: str, turns: Sequence[str] = ()) -> Scripts:
    before = ("store.lua", "unlock.lua", *limits, *turns)
    complete = (*before, "complete.lua")
    return Scripts(
        Script(*before, "unsorted.lua", "complete.lua", "reserve.lua"),
        Script(*before, "sort.lua", "sorted.lua", "complete.lua", "reserve.lua"),
        Script(*complete, tail="complete(KEYS[1], 2, ARGV, 1, unlock, leave, go_on)"),
        Script("entries.lua", *limits, "give_back.lua"),
        Script("delay.lua", *limits, *turns, "postpone.lua"),
        Script("store.lua", "unlock.lua", "trim.lua", *limits, *turns, "bury.lua"),
    )


FAIR = _scripts(*LIMITS, turns=("turns.lua",))
"""The scripts of a pool whose keys take turns."""
LIMITED = _scripts(*LIMITS)
"""The same for a pool whose operations have limits, and none is fair."""
UNLIMITED = _scripts("unlimited.lua")
"""The same for a pool none of whose operations has limits."""
RESERVE, _, COMPLETE, GIVE_BACK, POSTPONE, _ = UNLIMITED
START = Script("start.lua")
ACKNOWLEDGE = Script("acknowledge.lua")


def trial_mark(deliveries: int) -> bytes:
    """Return the beginning of a message that has its last chance after so many deliveries."""
    return b'{"deliveries": %d,' % deliveries


def _nothing(_: str) -> bool:
    return False


class Reservations:
    """The reservations of one node, over its session.

    Args:
        session: The node's.
        places: The places of the pool's lists, most urgent first.
        last_chance: How many deliveries may end in a death before the next is the last.
        limited: Whether operations of the pool have limits.
        fair: Whether some of them are fair.
    """

    SCRIPTS = (COMPLETE, GIVE_BACK, START, ACKNOWLEDGE, POSTPONE, UNLOCK)

    def __init__(
        self,
        session: NodeSession,
        places: Sequence[int],
        last_chance: int,
        *,
        limited: bool = False,
        fair: bool = False,
    ) -> None:
        names = session.names
        self.scripts = UNLIMITED
        self._of_limits: Sequence[str] = ()
        self._keyless = KEYLESS_AT_ONCE if fair else 0
        if fair:
            self.scripts, self._of_limits = FAIR, names.of_turns
        elif limited:
            self.scripts, self._of_limits = LIMITED, names.of_limits
        self.completion = Completion()
        self.held: set[str] = set()
        """Reservations that are not finished."""
        self.controlled: dict[str, Lock | None] = {}
        """Reservations of operations with limits, and of unique ones with what is free then."""
        self.is_waiting = False
        """Whether the server is to answer when a message comes, and not at once."""
        self._session = session
        self._places = places
        self._last_chance = last_chance
        self._trial_mark = trial_mark(last_chance)
        self.is_lent: Callable[[str], bool] = _nothing
        """Returns whether a reservation may be that of a worker to which the wait is lent."""
        self._on_trial: str | None = None
        """The reservation that has its last chance, if there is one."""
        self._next = 1

    def forget(self) -> None:
        """Forget every reservation: the node was taken for dead, and others have them."""
        self.held.clear()
        self.controlled.clear()
        self.completion.reservations.clear()
        self.completion.controlled.clear()
        self._on_trial = None

    def set_aside(self, numbers: int) -> int:
        """Return the first of so many numbers of reservations that only the caller uses."""
        self._next += numbers
        return self._next - numbers

    def lists(self) -> list[str]:
        """Return the lists in which wait what the node may reserve, most urgent first."""
        names, track = self._session.names, self._session.track
        lists = [names.lists[place] for place in self._places]
        if track is None:
            return lists
        its = [track.lists[place] for place in self._places] if track.lists else []
        return its + lists if track.waits_at in lists else its

    @property
    def has_trial(self) -> bool:
        """Whether the node has a message with its last chance."""
        return self._on_trial in self.held

    def reserve(
        self,
        room: int,
        on_reserved: Callable[[list[tuple[str, bytes]] | None], None],
        on_refusal: Callable[[Exception], None],
        *,
        wait: bool,
    ) -> None:
        """Ask for messages, and complete what is finished.

        Args:
            room: For how many, at least 1; 0 where keys take turns: only for what lacks its key.
            on_reserved: Takes reservation ids and messages; None if the server gives this
                node none.
            on_refusal: Takes the server's error.
            wait: Whether to wait for a message where there is none.
        """
        session = self._session
        names, link = session.names, session.intake
        room = min(room, AT_ONCE)
        first = self.set_aside(room + self._keyless)
        batch = self.completion.take()
        unacked, incoming = names.unacked(session.identity), names.incoming(session.identity)
        track = session.track
        by_place = names.lists if track is None else track.lists
        places = self._places if by_place else ()
        of_rollout = () if track is None else names.of_rollout
        script = self.scripts.reserve if track is None else self.scripts.reserve_sorted
        command = script.call(
            (
                *(unacked, names.index, incoming, *(by_place[place] for place in places)),
                *(*batch.keys(), *of_rollout, *self._of_limits),
            ),
            (
                f"{room} {self._keyless}" if self._keyless else room,
                self._last_chance,
                int(self.has_trial),
                session.identity,
                session.epoch,
                first,
                len(places),
                *places,
                *batch.arguments(),
            ),
        )
        if wait:
            source = names.lists[0] if track is None else track.waits_at
            command = pack(("BLMOVE", source, incoming, "RIGHT", "RIGHT", WAIT_SECONDS)) + command
        self.is_waiting = wait

        def reserved(answer: Any) -> None:
            self.completion.done(batch)
            self.is_waiting = False
            if answer == 1:
                session.join_again()
            on_reserved(None if answer in (0, 1) else self._hold(first, answer))

        def refused(error: Exception) -> None:
            self.completion.again(batch)
            self.is_waiting = False
            on_refusal(error)

        within = ANSWER_SECONDS + (WAIT_SECONDS if wait else 0.0)
        session.send(link, command, reserved, refused, again=False, within=within, ahead=int(wait))

    def _hold(self, first: int, answer: list[Any]) -> list[tuple[str, bytes]]:
        found = []
        for number, message in enumerate(answer[1::2], first):
            reservation = str(number)
            self.held.add(reservation)
            if self._last_chance and message.startswith(self._trial_mark):
                self._on_trial = reservation
            found.append((reservation, message))
        return found

    def intake_lost(self) -> None:
        """Note that no answer comes to what the intake was asked."""
        self.is_waiting = False
        self.completion.all_again()

    def rejoined(self, reservations: Collection[str]) -> None:
        """Give back what the server has as reserved here, and this node has never seen."""
        unknown = set(reservations) - self.held - self.completion.pending()
        its = [each for each in unknown if not self.is_lent(each)]
        self._give_back([(each, b"") for each in sorted(its, key=int, reverse=True)])

    def acknowledge(self, reservation: str) -> None:
        """Acknowledge a message with the next step to the server."""
        if reservation in self.held:
            self.held.discard(reservation)
            if reservation in self.controlled:
                lock = self.controlled.pop(reservation)
                self.completion.controlled.append((reservation, lock))
            else:
                self.completion.reservations.append(reservation)

    def unlock(self, lock: Lock, then: Callable[[], None]) -> None:
        """Give the key of a unique operation free that is about to start.

        Args:
            lock: Of the operation.
            then: Called when that is done.
        """

        def unlocked(_: Any) -> None:
            then()

        self._session.send_until_done(lock.command(), unlocked)

    def complete(self) -> None:
        """Complete what is finished, without a reservation."""
        if not self.completion:
            return
        batch = self.completion.take()
        session = self._session
        command = self.scripts.complete.call(
            (session.names.unacked(session.identity), *batch.keys(), *self._of_limits),
            batch.arguments(),
        )

        def completed(_: Any) -> None:
            self.completion.done(batch)

        self._send(command, completed, batch)

    def _send(self, command: bytes, on_answer: Any, batch: Batch) -> None:
        def refused(error: Exception) -> None:
            self.completion.again(batch)
            self._session.refused(error)

        self._session.send(self._session.side, command, on_answer, refused)

    def give_back(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Put messages back at the head of their lists, the first one first.

        Args:
            messages: Reservation ids, and each message as it goes back; empty: as it came.
        """
        its = [each for each in messages if each[0] in self.held]
        for reservation, _ in its:
            self.held.discard(reservation)
            self.controlled.pop(reservation, None)
        self._give_back(its[::-1])

    def _give_back(self, messages: list[tuple[str, bytes]]) -> None:
        session = self._session
        names = session.names
        keys = (names.unacked(session.identity), *names.lists, *self._of_limits)
        for start in range(0, len(messages), AT_ONCE):
            some = [part for each in messages[start : start + AT_ONCE] for part in each]
            session.send_until_done(self.scripts.give_back.call(keys, some))

    def start(self, reservation: str, then: Callable[[], None]) -> None:
        """Note at the server that an operation starts which must not run twice.

        Args:
            reservation: Its reservation.
            then: Called when that is noted; not if the message is not this node's any more,
                or was given back meanwhile.
        """
        session = self._session
        identity = session.identity

        def noted(answer: Any) -> None:
            # An operation that was given back after this was sent runs elsewhere.
            if answer and session.identity == identity and reservation in self.held:
                then()

        command = START.call((session.names.unacked(identity),), (reservation,))
        session.send_until_done(command, noted)

    def acknowledge_first(self, reservation: str, then: Callable[[], None]) -> None:
        """Acknowledge an operation that is to run once at most, before it starts.

        Args:
            reservation: Its reservation.
            then: Called when the server has acknowledged it; not if the message is not
                this node's any more.
        """
        if reservation not in self.held:
            return
        self.held.discard(reservation)  # it is not given back any more
        session = self._session
        names, identity = session.names, session.identity

        def acknowledged(answer: Any) -> None:
            if answer:
                then()

        command = ACKNOWLEDGE.call((names.index, names.unacked(identity)), (identity, reservation))
        session.send_until_done(command, acknowledged)

    def postpone(self, operations: Iterable[tuple[str, str, float]]) -> None:
        """Have operations wait at the server until they are due.

        Args:
            operations: Reservation, id and due time (server time in seconds) of each.
        """
        session = self._session
        names = session.names
        parts: list[Any] = []
        for reservation, operation_id, due in operations:
            self.held.discard(reservation)
            self.controlled.pop(reservation, None)
            parts += (reservation, operation_id, int(due * 1000) + 1)
        keys = (
            names.unacked(session.identity),
            names.delayed,
            names.delayed_messages,
            *self._of_limits,
        )
        command = self.scripts.postpone.call(keys, (names.due, session.identity, *parts))
        session.send_until_done(command)

    def bury(self, reservation: str, letter: Sequence[Any], result: StoredResult | None) -> None:
        """Make a reserved message a dead letter.

        Args:
            reservation: Its reservation.
            letter: As :func:`pooltasks.broker.dead_letters.letter` returns it.
            result: The result that its caller gets, if its id can be read.
        """
        if reservation not in self.held:
            return
        self.held.discard(reservation)
        session = self._session
        names = session.names
        keys: list[Any] = [
            names.unacked(session.identity),
            names.dead,
            names.dead_messages,
            names.dead_order,
        ]
        arguments = [reservation, *letter]
        if result is not None:
            keys.append(result.key)
        arguments += ("", "") if result is None else (result.value, result.expires)
        lock = self.controlled.pop(reservation, None)
        if lock is not None:
            keys.append(lock.key)
            arguments += (lock.owner, lock.till)
        session.send_until_done(self.scripts.bury.call([*keys, *self._of_limits], arguments))
