"""Flow control in the model: limits, turns and unique calls, and what must never be of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from chaos.model.node import unit_of
from chaos.model.snapshot import ViolationError
from pooltasks.broker.admission import ADMIT
from pooltasks.broker.pusher import ScriptCommand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chaos.model.snapshot import FlowState, Snapshot
    from pooltasks.broker.names import Names

_FLOW = re.compile(rb'"flow": "([^"]+)"')
_SOME = 1e-3
"""Operations by which a count may be beyond a rate: times are floating point numbers."""


class Limits(NamedTuple):
    """What limits the keyed operation of a pool of the model."""

    concurrency: int | None = None
    every: int | None = None
    """Milliseconds between two starts."""
    burst: int = 1
    fair: bool = False

    def text(self) -> str:
        """Return them as the server has them."""
        its = (self.concurrency, self.every, self.burst if self.every else None)
        weight = " 1" if self.fair else ""
        return " ".join("-" if each is None else str(each) for each in its) + weight


KINDS: Mapping[str, Limits | None] = {
    "plain": None,
    "concurrency": Limits(concurrency=1),
    "rate": Limits(every=100, burst=2),
    "turns": Limits(fair=True),
    "turns, concurrency": Limits(concurrency=2, fair=True),
    "turns, rate": Limits(every=100, burst=2, fair=True),
}
"""The pools that there are, and the limits of their keyed operation."""


def digest_of(unit: int) -> str:
    """Return what makes a call of the unique operation unique: two keys share all calls."""
    return f"{unit % 2}" * 32


def admission(names: Names, message: bytes, unit: int) -> ScriptCommand:
    """Return the command that publishes a unique operation, as a producer does."""
    headers = json.loads(message)["headers"]
    arguments = [0, 1, 1, 0, names.due, 0, 1, 1, 0]
    arguments += [headers["id"], message.decode(), "", 1, 1, 0, 0]
    its = [names.room, names.totals, names.held, names.waiting, names.delayed]
    its += [names.delayed_messages, names.lists[0], names.unique(digest_of(unit))]
    return ScriptCommand(ADMIT, its, arguments)


class FlowLedger:
    """What must never be of flow control.

    Args:
        limits: Of the pool's keyed operation; None: it has none.
    """

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits
        self._starts: dict[bytes, list[float]] = {}
        """When operations of each key were reserved."""
        self._turns: dict[tuple[bytes, int | None], Counter[bytes]] = {}
        """How many turns the others had while an operation was the first of its line."""
        self._lines: dict[int, bytes] = {}
        """The line of each operation that has waited for a turn and was not reserved since."""
        self.unique: dict[int, int] = {}
        """Of each unique operation that was accepted, which key it has."""

    def check(self, before: Snapshot, now: Snapshot, time: float) -> None:
        """Compare two moments.

        Args:
            before: The one.
            now: The one after it.
            time: The server's, in seconds.

        Raises:
            ViolationError: Something is not as it must be.
        """
        self._belongs_together(now.flow)
        self._counts_are_right(now)
        self._no_faster_than_the_rate(before, now, time)
        self._turns_are_taken(before, now)
        self._unique_is_unique(now)

    @staticmethod
    def _belongs_together(flow: FlowState) -> None:
        """What is held has a message, and lines are whole."""
        if flow.held.keys() != flow.messages.keys():
            raise ViolationError(f"held without a message, or the other way: {flow}")
        fields = {
            b"%b\0%d" % (line, number)
            for line, (first, last) in flow.ends().items()
            for number in range(first, last + 1)
        }
        is_whole = flow.ends().keys() == flow.turns.keys() == flow.ages.keys()
        if fields != flow.waiting.keys() or not is_whole:
            raise ViolationError(f"lines that are not whole: {flow}")

    def _counts_are_right(self, now: Snapshot) -> None:
        """As many run of each key as are counted, and no more than may."""
        entries = [entry for its in now.unacked.values() for entry in its.values()]
        marks = (_FLOW.search(entry) for entry in entries if b'"turn": 0, ' in entry)
        reserved = Counter(found[1] for found in marks if found)
        counted = {
            flow: int(number)
            for flow, number in now.flow.running.items()
            if flow[:1] not in (b"#", b"!")
        }
        if self._limits and counted != {
            flow: number for flow, number in reserved.items() if number
        }:
            raise ViolationError(f"{counted} are counted, and {dict(reserved)} are reserved")
        most = self._limits and self._limits.concurrency
        if most and max(reserved.values(), default=0) > most:
            raise ViolationError(f"{dict(reserved)} are reserved, and {most} may be at once")

    def _no_faster_than_the_rate(self, before: Snapshot, now: Snapshot, time: float) -> None:
        if not self._limits or not self._limits.every:
            return
        for unit, places in now.places.items():
            place, entry = places[0]
            was = before.places.get(unit, [("", b"")])[0][0]
            found = _FLOW.search(entry) if place.startswith("unacked") and place != was else None
            if found is None:
                continue
            starts = self._starts.setdefault(found[1], [])
            starts.append(time)
            for many, since in enumerate(reversed(starts), 1):
                allowed = self._limits.burst + (time - since) * 1000 / self._limits.every
                # The server's time has moved between this look and the one before.
                if many > allowed + _SOME + 1:
                    raise ViolationError(f"{many} of {found[1]!r} began in {time - since} s")

    def _turns_are_taken(self, before: Snapshot, now: Snapshot) -> None:
        """While one is the first of its line no other line has more than two turns.

        A line that is empty in between, and begins anew, may have two.
        """
        for field, entry in before.flow.waiting.items():
            unit = unit_of(entry)
            if unit is not None:
                self._lines[unit] = field.partition(b"\0")[0]
        had: Counter[bytes] = Counter()
        for unit in list(self._lines):
            place = now.places.get(unit, [("", b"")])[0][0]
            if place not in ("waiting", "list"):
                had[self._lines.pop(unit)] += 1
        heads = set(now.flow.heads().items())
        # An operation that only now became the first has not waited for the turns of this step.
        self._turns = {
            head: self._turns[head] + had if head in self._turns else Counter() for head in heads
        }
        for (line, unit), others in self._turns.items():
            for other, turns in others.items():
                if other[:1] == line[:1] and other != line and turns > 2:  # noqa: PLR2004  explained
                    raise ViolationError(
                        f"{unit} in {line!r} waits, and {other!r} had {turns} turns"
                    )

    def _unique_is_unique(self, now: Snapshot) -> None:
        open_: Counter[int] = Counter()
        for unit, key in self.unique.items():
            places = now.places.get(unit)
            if places and places[0][0] != "dead" and unit not in now.results:
                open_[key] += 1
        if max(open_.values(), default=0) > 1:
            raise ViolationError(f"several unique operations with the same key: {dict(open_)}")

    def check_end(self, now: Snapshot) -> None:
        """Check when all operations have ended.

        Raises:
            ViolationError: Something is left.
        """
        flow = now.flow
        left = [*flow.waiting, *flow.lines, *flow.held]
        left += [its for its in flow.running if its[:1] not in (b"#", b"!")]
        left += [key.encode() for key in now.keys if ":unique:" in key]
        if left:
            raise ViolationError(f"all has ended, and there is {left}")
