"""Faults of the kind that a change may bring: the model has to find each of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from chaos.model.flow import KINDS
from chaos.model.scripts import Replacement
from pooltasks.broker import reservations
from pooltasks.broker.completion import Batch
from pooltasks.broker.link import Link
from pooltasks.broker.reservations import COMPLETE, Reservations

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


_KINDS = {
    "limited": [kind for kind, limits in KINDS.items() if limits and not limits.fair],
    "fair": [kind for kind, limits in KINDS.items() if limits and limits.fair],
}
"""The kinds of pools whose nodes run such scripts."""


@dataclass(frozen=True)
class Fault:
    """One planted fault."""

    name: str
    """The fault of the code, in words."""
    replacements: Sequence[Replacement] = ()
    """In scripts."""
    patched: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    """In Python."""
    kinds: Sequence[str] = ()
    """The kinds of pools that run the script; none: all."""


def _in_script(name: str, script: str, old: str, new: str, kinds: Sequence[str] = ()) -> Fault:
    kinds = kinds or _KINDS.get(script.partition(" ")[0], ())
    return Fault(name, (Replacement(script, old, new),), kinds=kinds)


def _in_class(name: str, owner: type, method: str, function: Any) -> Fault:
    return Fault(name, patched=partial(patch.object, owner, method, function))


def _acknowledge_before_the_result(self: Reservations) -> None:
    if not self.completion:
        return
    batch = self.completion.take()
    first, second = Batch([], batch.reservations), Batch(batch.results, [])
    its = self._session
    key = its.names.unacked(its.identity)
    for part in (first, second):
        command = COMPLETE.call((key, *part.keys()), part.arguments())
        self._send(command, lambda _: self.completion.done(batch), batch)


def _rejoined_without_a_look(self: Reservations, reservations: Collection[str]) -> None:
    """Leave what was reserved over the connection that broke."""


def _rejoined_with_everything(self: Reservations, reservations: Collection[str]) -> None:
    self._give_back([(each, b"") for each in reservations])


def _start_at_once(self: Reservations, reservation: str, then: Callable[[], None]) -> None:
    then()
    _start(self, reservation, then=lambda: None)


_start = Reservations.start


def _start_whatever_the_answer(
    self: Reservations, reservation: str, then: Callable[[], None]
) -> None:
    its = self._session
    command = reservations.START.call((its.names.unacked(its.identity),), (reservation,))
    its.send_until_done(command, lambda _: then())


def _forget_nothing(self: Reservations) -> None:
    self._on_trial = None


def _nothing_is_sent_again(link: Link) -> None:
    link._sent.clear()  # noqa: SLF001  the fault is in there
    _open(link)


_open = Link.open


FAULTS = (
    _in_script(
        "a connection that was given up still reserves",
        "reserve",
        "if epoch ~= ARGV[5] then",
        "if not epoch then",
    ),
    _in_script(
        "whoever asks reserves, dead or not",
        "reserve",
        "if epoch ~= ARGV[5] then",
        "if false then",
    ),
    _in_script(
        "the message that woke a node is dropped when the node has no room",
        "reserve",
        "if take('0', first) == false then redis.call('RPUSH', KEYS[4], first) end",
        "take('0', first)",
    ),
    _in_script(
        "a message with its last chance is dropped if there is one already",
        "reserve",
        "redis.call('RPUSH', key, stay[at])",
        "local _ = stay[at]",
    ),
    _in_script(
        "a node has several operations with their last chance",
        "reserve",
        "if tried and on_trial then return false end",
        "",
    ),
    _in_script(
        "the message that woke a node stays behind at its death",
        "release",
        "redis.call('RPUSH', KEYS[6], message)",
        "",
    ),
    _in_script(
        "the death of a node that was asked to stop counts as a delivery",
        "release",
        "state == 'stopping' and 'dead, stopping' or 'dead'",
        "'dead'",
    ),
    _in_script(
        "a node that stops counts a delivery for what it puts back",
        "release",
        "state == 'dead' and 1 or 0",
        "1",
    ),
    _in_script(
        "a recovery does not ask whether the lease has run out",
        "release",
        "if lease and tonumber(lease) >= time[1] * 1000 + math.floor(time[2] / 1000) then",
        "if false then",
    ),
    _in_script(
        "a recovery does not ask whether the node has renewed its lease",
        "release",
        "if redis.call('PUBSUB', 'NUMSUB', ARGV[4])[2] > 0 or lease ~= ARGV[3] then",
        "if false then",
    ),
    _in_script(
        "a recovery does not note that the node is dead",
        "release",
        "redis.call('HSET', KEYS[1], ARGV[1], state)",
        "",
    ),
    _in_script(
        "a recovery forgets the node before its last message",
        "release",
        "if left == 0 then\n",
        "redis.call('HDEL', KEYS[1], ARGV[1])\nif left == 0 then\n",
    ),
    _in_script(
        "a recovery forgets a node whose connections a message may wake",
        "release",
        "if ARGV[2] == 'left' or redis.call('PUBSUB', 'NUMSUB', ARGV[4])[2] == 0 then",
        "if true then",
    ),
    _in_script(
        "a node that leaves stays in the index",
        "release",
        "  redis.call('HDEL', KEYS[1], ARGV[1])\n",
        "",
    ),
    _in_script(
        "a recovery puts messages back behind the others",
        "release",
        "redis.call('RPUSH', list_of(entry, 6), returned(entry, deaths))",
        "redis.call('LPUSH', list_of(entry, 6), returned(entry, deaths))",
    ),
    _in_script(
        "what had started and must not run twice goes back as if it had not",
        "release",
        "if string.sub(entry, 2, 2) == 's' then",
        "if false then",
    ),
    _in_script(
        "a message keeps its place when it is given back",
        "give_back",
        "    redis.call('HDEL', KEYS[1], ARGV[at])\n",
        "",
    ),
    _in_script(
        "a message is given back behind the others",
        "give_back",
        "redis.call('RPUSH', list_of(entry, 2), message)",
        "redis.call('LPUSH', list_of(entry, 2), message)",
    ),
    _in_script(
        "a node that was taken for dead comes back under its name",
        "join",
        "if ARGV[4] == '0' and (not state or string.sub(state, 1, 4) == 'dead') then return 0 end",
        "",
    ),
    _in_script(
        "a node that comes back leaves the message that woke it",
        "join",
        "  redis.call('RPUSH', KEYS[4], message)\n",
        "",
    ),
    _in_script(
        "the leases live for ever",
        "join",
        "redis.call('EXPIRE', KEYS[2], 86400)\n",
        "",
    ),
    _in_script(
        "a node that is dead renews its lease",
        "watch",
        "if not state or string.sub(state, 1, 4) == 'dead' then return 0 end",
        "",
    ),
    _in_script(
        "a delayed operation leaves its message behind",
        "watch",
        "redis.call('HDEL', KEYS[5], ...)",
        "",
    ),
    _in_script(
        "a delayed operation takes the place of another one",
        "postpone",
        "if redis.call('HEXISTS', messages, entry) == 1 then",
        "if false then",
    ),
    _in_script(
        "a postponed operation is dropped",
        "postpone",
        "  redis.call('HSET', messages, entry, message)\n",
        "",
    ),
    _in_script(
        "an operation starts though it is another node's",
        "start",
        "if not entry then return 0 end",
        "if not entry then return 1 end",
    ),
    _in_script(
        "a dead letter is made of a message that is another node's",
        "bury",
        "if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then",
        "if redis.call('HDEL', KEYS[1], ARGV[1]) == 2 then",
    ),
    _in_script(
        "a result is stored, and its message stays",
        "complete",
        "redis.call('HDEL', unacked, unpack(arguments, some, math.min(some + 999, #arguments)))",
        "",
    ),
    _in_script(
        "the end of an operation with limits is not counted",
        "limited complete",
        "if turn ~= 0 then return end",
        "if true then return end",
    ),
    _in_script(
        "one more of a key is reserved than may run",
        "limited reserve",
        "places = at_once - ahead",
        "places = 1 + at_once - ahead",
    ),
    _in_script(
        "what starts takes nothing of the rate",
        "limited reserve",
        "redis.call('ZADD', rates, string.format('%.3f', spent + every), flow)",
        "",
        ["rate"],
    ),
    _in_script(
        "a key goes on having turns while others wait",
        "fair reserve",
        "redis.call('ZADD', turns, score_of(place, tag + share_of(flow)), line)",
        "redis.call('ZADD', turns, score_of(place, tag), line)",
    ),
    _in_script(
        "what has had its turn stays in its line",
        "fair reserve",
        "    gone[#gone + 1] = field\n",
        "",
    ),
    _in_script(
        "what lacks its key and is one too many is dropped",
        "fair reserve",
        "if keyless < 1 then return false end",
        "if keyless < 1 then return nil end",
    ),
    _in_script(
        "lines are not written down when a place becomes free",
        "fair complete",
        "if has_come then settle() end",
        "",
        ["turns, concurrency"],
    ),
    _in_script(
        "only a line that begins when a place becomes free is written down",
        "fair complete",
        "  end\n  has_come = true\n",
        "    has_come = true\n  end\n",
        ["turns, concurrency"],
    ),
    _in_script(
        "two calls of a unique operation are published",
        "admit",
        "if holder and (holder ~= id or not must) and ARGV[at + 5] == '0' then",
        "if false then",
    ),
    _in_script(
        "the key of a unique operation stays taken",
        "complete",
        "if ended[some] then unlock(",
        "if false then unlock(",
    ),
    _in_class(
        "a message is acknowledged before its result is stored",
        Reservations,
        "complete",
        _acknowledge_before_the_result,
    ),
    _in_class(
        "what was reserved over a connection that broke stays reserved",
        Reservations,
        "rejoined",
        _rejoined_without_a_look,
    ),
    _in_class(
        "a node that comes back gives back what it runs",
        Reservations,
        "rejoined",
        _rejoined_with_everything,
    ),
    _in_class(
        "an operation starts before the server has noted it",
        Reservations,
        "start",
        _start_at_once,
    ),
    _in_class(
        "an operation starts whatever the server says",
        Reservations,
        "start",
        _start_whatever_the_answer,
    ),
    _in_class(
        "a broken connection forgets what was not answered", Link, "open", _nothing_is_sent_again
    ),
)
