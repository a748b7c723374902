"""Everything that the server has of a pool, at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos.model.node import result_key, unit_of
from chaos.model.scripts import RESERVED_KEY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pooltasks.broker.names import Names

_EVERYTHING = """
-- Return everything that the server has of a pool, at one moment.
-- KEYS[1…10] the queue's lists, then index, leases, delayed messages, delayed, letters, messages,
--            and seven of flow control
-- ARGV[1] prefix of what is unacked   ARGV[2] prefix of what is incoming
-- ARGV[3] list of what was reserved since the last look   then channels
local found, content, own = {}, {}, {}
local reserved = redis.call('LRANGE', ARGV[3], 0, -1)
redis.call('DEL', ARGV[3])
local function read(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'list' then return redis.call('LRANGE', key, 0, -1) end
  if kind == 'hash' then return redis.call('HGETALL', key) end
  if kind == 'zset' then return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  return {}
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  found[#found + 1] = key
  found[#found + 1] = redis.call('TTL', key)
  for at = 1, 2 do
    if string.sub(key, 1, #ARGV[at]) == ARGV[at] then
      own[#own + 1] = key
      own[#own + 1] = read(key)
    end
  end
end
for at, key in ipairs(KEYS) do content[at] = read(key) end
return {found, content, own, reserved, redis.call('PUBSUB', 'NUMSUB', unpack(ARGV, 4))}
"""


class ViolationError(AssertionError):
    """Something that must never be."""


_OF_FLOW = 7


@dataclass
class FlowState:
    """What the server has of a pool's flow control, at one moment."""

    waiting: dict[bytes, bytes] = field(default_factory=dict)
    """What waits for its turn."""
    lines: dict[bytes, bytes] = field(default_factory=dict)
    turns: dict[bytes, bytes] = field(default_factory=dict)
    ages: dict[bytes, bytes] = field(default_factory=dict)
    running: dict[bytes, bytes] = field(default_factory=dict)
    held: dict[bytes, bytes] = field(default_factory=dict)
    messages: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Sequence[list[Any]]) -> FlowState:
        """Return what the contents of the keys are, in their order."""
        return cls(*(dict(table(each)) for each in content))

    def ends(self) -> dict[bytes, tuple[int, int]]:
        """Return the numbers of the first and the last of each line."""
        its = {line: ends.split() for line, ends in self.lines.items() if line[:1].isdigit()}
        return {line: (int(first), int(last)) for line, (first, last) in its.items()}

    def heads(self) -> dict[bytes, int | None]:
        """Return which operation is the first of each line."""
        return {
            line: unit_of(self.waiting[b"%b\0%d" % (line, first)])
            for line, (first, _) in self.ends().items()
        }


@dataclass
class Snapshot:
    """Everything that the server has, at one moment."""

    lists: list[list[bytes]] = field(default_factory=list)
    """Messages of each list, the head (the next one) first."""
    places: dict[int, list[tuple[str, bytes]]] = field(default_factory=dict)
    """Where each operation is: the kind of place with the identity, and the entry."""
    unacked: dict[str, dict[str, bytes]] = field(default_factory=dict)
    index: dict[str, str] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)
    subscriptions: dict[str, int] = field(default_factory=dict)
    results: set[int] = field(default_factory=set)
    reserved: set[int | None] = field(default_factory=set)
    """Operations that were reserved since the snapshot before."""
    keys: list[str] = field(default_factory=list)
    without_ttl: list[str] = field(default_factory=list)
    flow: FlowState = field(default_factory=FlowState)

    def read_places(self, delayed: list[bytes], messages: list[bytes], own: list[Any]) -> None:
        """Note where everything is that is not in a list."""
        for message in (each for one in self.lists for each in one):
            self.put("list", message)
        for place, entries in (("delayed", delayed), ("dead", messages)):
            for entry in entries[1::2]:
                self.put(place, entry)
        for place, its in (("held", self.flow.messages), ("waiting", self.flow.waiting)):
            for entry in its.values():
                self.put(place, entry)
        for key, entries in table(own):
            kind, _, identity = key.decode().rpartition(":")
            is_unacked = kind.endswith(":unacked")
            if is_unacked:
                self.unacked[identity] = {name.decode(): it for name, it in table(entries)}
            for entry in entries[1::2] if is_unacked else entries:
                self.put(f"{'unacked' if is_unacked else 'incoming'}:{identity}", entry)

    def put(self, place: str, entry: bytes) -> None:
        """Note where an operation is."""
        unit = unit_of(entry)
        if unit is not None:
            self.places.setdefault(unit, []).append((place, entry))


def table(answer: list[Any]) -> Iterable[tuple[Any, Any]]:
    """Return keys and values of an answer that has them alternately."""
    return zip(answer[::2], answer[1::2], strict=True)


class Camera:
    """Takes snapshots.

    Args:
        control: A client of the server.
        names: The keys of the pool.
    """

    def __init__(self, control: Any, names: Names) -> None:
        self._names = names
        self._everything = control.register_script(_EVERYTHING)

    def take(self, identities: Sequence[str], units: Collection[int]) -> Snapshot:
        """Return what the server has.

        Args:
            identities: Of the nodes whose subscriptions are counted.
            units: The operations whose results are looked for.

        Raises:
            ViolationError: Two keys that belong together do not fit.
        """
        names, now = self._names, Snapshot()
        keys = (*names.lists, names.index, names.leases, names.delayed_messages, names.delayed)
        keys += (names.dead, names.dead_messages, *names.of_turns[:_OF_FLOW])
        channels = [names.alive_of(identity) for identity in identities]
        arguments = (names.unacked(""), names.incoming(""), RESERVED_KEY, *channels)
        found, content, own, reserved, counts = self._everything(keys=keys, args=arguments)
        now.keys = [key.decode() for key in found[::2]]
        now.without_ttl = [key.decode() for key, ttl in table(found) if ttl == -1]
        *lists, index, leases, delayed, due, letters, messages = content[:-_OF_FLOW]
        now.flow = FlowState.of(content[-_OF_FLOW:])
        now.lists = [each[::-1] for each in lists]
        now.index = {name.decode(): state.decode() for name, state in table(index)}
        now.leases = {name.decode(): float(end) / 1000 for name, end in table(leases)}
        if {*delayed[::2]} != {*due[::2]}:
            raise ViolationError(f"delayed operations without a time or message: {delayed} {due}")
        if {*letters[::2]} != {*messages[::2]}:
            raise ViolationError(f"dead letters without a reason or message: {letters} {messages}")
        now.read_places(delayed, messages, own)
        now.subscriptions = dict(zip(identities, counts[1::2], strict=True))
        now.reserved = {unit_of(message) for message in reserved}
        results = {result_key(unit): unit for unit in units}
        now.results = {results[key] for key in found[::2] if key in results}
        return now
