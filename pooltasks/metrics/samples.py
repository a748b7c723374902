"""The samples of a pool: an hour of them in Redis.

A node appends to streams of its own, so that nodes never contend, and the
server gives each entry its time, so that the samples of all nodes are on one
clock. The script that appends also reads the queue: one round trip a second.

Each entry begins with its format. One of another version's is not decoded: its
node is there, and nothing is known of it.
"""

from __future__ import annotations

import gc
import math
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.utils.log import get_logger

from pooltasks import keys
from pooltasks.broker.scripts import Script
from pooltasks.metrics.sample import FORMAT, OperationRecord, Sample
from pooltasks.metrics.totals import ADD, LIFE, amounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import redis

    from pooltasks.pool_settings import Objective
    from pooltasks.telemetry import Outcome

logger = get_logger(__name__)

HISTORY = 3600.0
"""Seconds of samples that are kept."""
_MARGIN = 60.0
_END_OF_TIME = 1e11  # seconds since the epoch: the year 5138
_NOTHING: Mapping[str, Mapping[Outcome, int]] = {}
_EACH_RENEWS = 32
"""Samples of a node of which one sets anew how long the pool's keys live. The first one does,
and after the server has lost its data the next."""
_PAGE = 1000
"""Entries that one script reads: about a millisecond of the server's time."""

_QUEUE = """
-- Keys from `first` on: what waits for its turn, since when (turns.lua), and one queue's lists.
-- Returns how many wait, and since when the oldest; '' if it does not say. kombu takes from the
-- right. The name is searched as plain text: fast in megabytes, and a user's quotes are escaped.
local function queue(first)
  local depth, name = redis.call('HLEN', KEYS[first]), '"published_at":'
  local oldest = depth > 0 and redis.call('ZRANGE', KEYS[first + 1], 0, 0, 'WITHSCORES')[2]
  for i = first + 2, #KEYS do
    depth = depth + redis.call('LLEN', KEYS[i])
    local message = depth > 0 and redis.call('LINDEX', KEYS[i], -1)
    if message then
      local at = string.find(message, name, 1, true)
      local number = at and tonumber(string.match(message, '^ *([%d.eE+-]+)', at + #name))
      if not number then return depth, '' end
      oldest = math.min(oldest or number, number)
    end
  end
  return depth, oldest and string.format('%.6f', oldest) or ''
end
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
"""

# KEYS: the pool's nodes, its totals, those by name, the node's samples, its operations, what its
# last sample added to the totals, what waits for its turn, since when, the queue's lists.
# ARGV: node, entries to keep, ms to live, seconds to remember nodes, what the sample adds
# to the totals, ms for them to live, the sample, what was done by operation ('' for nothing).
WRITE = Script(
    tail=f"""
{_QUEUE}
{ADD}
local depth, oldest = queue(7)
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[2], '*',
           'sample', '{FORMAT.decode()}' .. depth .. ' ' .. oldest .. ' ' .. ARGV[7])
if ARGV[8] ~= '' then
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[2], '*',
             'operations', '{FORMAT.decode()}' .. ARGV[8])
  redis.call('PEXPIRE', KEYS[5], ARGV[3])
end
local number, named = add(KEYS[2], KEYS[3], KEYS[6], ARGV[5], ARGV[3])
if named then redis.call('PEXPIRE', KEYS[3], ARGV[6]) end
redis.call('ZADD', KEYS[1], now, ARGV[1])
-- Lives of an hour or a day are set anew by one sample in some: that is most of what one costs.
if number % {_EACH_RENEWS} == 0 then
  for _, key in ipairs({{KEYS[1], KEYS[4], KEYS[5]}}) do redis.call('PEXPIRE', key, ARGV[3]) end
  for _, key in ipairs({{KEYS[2], KEYS[3]}}) do redis.call('PEXPIRE', key, ARGV[6]) end
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.6f', now - ARGV[4]))
end
return {{now, depth, oldest}}
"""
)

# KEYS: the pool's nodes, what waits for its turn, since when, the queue's lists. ARGV: seconds.
_READ = f"""
{_QUEUE}
local depth, oldest = queue(2)
local first = string.format('%.6f', now - ARGV[1])
return {{now, depth, oldest, redis.call('ZRANGEBYSCORE', KEYS[1], first, '+inf')}}
"""

# KEYS: a stream whose entries have one field. ARGV: first entry, how many at most.
# Three strings instead of thousands: parsing those takes a client much longer.
_PAGE_OF = """
local ids, lengths, values = {}, {}, {}
for i, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])) do
  ids[i], lengths[i], values[i] = entry[1], #entry[2][2], entry[2][2]
end
return {table.concat(ids, ' '), table.concat(lengths, ' '), table.concat(values)}
"""


@dataclass(frozen=True)
class QueueState:
    """A pool's queue at one moment."""

    at: float
    """Server time, seconds since the epoch."""
    depth: int
    published_at: float | None
    """When the oldest message was published; None if there is none or it does not say."""

    @property
    def oldest_age(self) -> float | None:
        """Seconds for which the oldest message has waited; 0 of an empty queue, None: not known."""
        if not self.depth:
            return 0.0
        return None if self.published_at is None else max(0.0, self.at - self.published_at)


@dataclass(frozen=True)
class StoredSample:
    """A sample with what the server added to it."""

    sample: Sample
    queue: QueueState

    @property
    def at(self) -> float:
        """Server time, seconds since the epoch."""
        return self.queue.at


def queue_state(reply: Any) -> QueueState:
    """Return what :data:`WRITE` answers."""
    return _queue_state(*reply)


class Reading(NamedTuple):
    """The stored data of a pool."""

    queue: QueueState
    """Now."""
    samples: dict[str, list[StoredSample]]
    """Samples of each node, oldest first; nodes without one are left out."""
    unreadable: dict[str, float]
    """Nodes whose last sample has the format of another version, and its server time."""


class SampleStore:
    """The samples of one pool in Redis.

    Args:
        client: With ``decode_responses=False``.
        pool: The pool's name.
        lists: The lists of its queue.
        objective: Its totals count the operations that waited longer.
    """

    def __init__(
        self, client: redis.Redis, pool: str, lists: Sequence[str], objective: Objective
    ) -> None:
        self._client = client
        self.pool = pool
        self._lists = [*keys.in_lines(keys.queue(pool)), *lists]
        self._objective = objective
        self._write = client.register_script(WRITE.text)
        self._read = client.register_script(_READ)

    def write(
        self,
        node: str,
        sample: Sample,
        operations: OperationRecord | None = None,
        outcomes: Mapping[str, Mapping[Outcome, int]] = _NOTHING,
    ) -> QueueState:
        """Append a node's sample, and add it to the pool's totals.

        Args:
            node: Its name.
            sample: The sample of its workers together.
            operations: Their work by operation, in the time that the record names.
            outcomes: The number of each operation's ends by outcome, in the time of the sample.

        Raises:
            redis.RedisError: It may or may not have arrived.
        """
        call = self.write_call(node, sample, operations, outcomes)
        return queue_state(self.ask_to_write(*call))

    def ask_to_write(self, names: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run :data:`WRITE`; return its answer.

        Raises:
            redis.RedisError: It may or may not have arrived.
        """
        return self._write(keys=names, args=arguments)

    def write_call(
        self,
        node: str,
        sample: Sample,
        operations: OperationRecord | None = None,
        outcomes: Mapping[str, Mapping[Outcome, int]] = _NOTHING,
    ) -> tuple[list[str], list[Any]]:
        """Return keys and arguments with which :data:`WRITE` does what :meth:`write` does."""
        return [
            keys.pool_nodes(self.pool),
            keys.pool_totals(self.pool),
            keys.pool_totals_by_name(self.pool),
            keys.node_samples(self.pool, node),
            keys.node_operations(self.pool, node),
            keys.node_counted(self.pool, node),
            *self._lists,
        ], [
            node,
            math.ceil(HISTORY / sample.interval),
            int((HISTORY + _MARGIN) * 1000),
            HISTORY,
            amounts(sample, self._objective, outcomes),
            int(LIFE * 1000),
            sample.encode(),
            b"" if operations is None else operations.encode(),
        ]

    def ask(self, client: redis.Redis, seconds: float) -> Any:
        """Have a client or pipeline ask for the queue and the nodes of the last ``seconds``."""
        lists = [keys.pool_nodes(self.pool), *self._lists]
        return self._read(keys=lists, args=[seconds], client=client)

    def read(self, seconds: float) -> Reading:
        """Return the queue now, and each node's samples of the last ``seconds``."""
        now, depth, oldest, nodes = self.ask(self._client, seconds)
        queue = _queue_state(now, depth, oldest)
        names = [node.decode() for node in nodes]
        streams = [keys.node_samples(self.pool, name) for name in names]
        entries = self._entries(streams, queue.at - seconds)
        with nothing_to_collect():
            return _reading(self.pool, queue, dict(zip(names, entries, strict=True)))

    def read_operations(
        self, nodes: Iterable[str], since: float
    ) -> list[tuple[float, OperationRecord]]:
        """Return what ``nodes`` did by operation, each record with its time.

        Args:
            nodes: Their names.
            since: Server time of the first record, seconds since the epoch.
        """
        records: list[tuple[float, OperationRecord]] = []
        for entries in self.operation_entries(list(nodes), since).values():
            by_number = {}
            for at, value in entries:
                record = OperationRecord.decode(value)
                by_number[record.number] = (at, record)
            records += by_number.values()
        return records

    def operation_entries(
        self, nodes: Sequence[str], since: float
    ) -> dict[str, list[tuple[float, bytes]]]:
        """Return what :meth:`read_operations` does for each node, as it is stored.

        A record that may not have arrived comes again under its number. Those in the
        format of another version are left out.

        Raises:
            redis.RedisError: The server does not answer.
        """
        streams = [keys.node_operations(self.pool, node) for node in nodes]
        start = len(FORMAT)
        return {
            node: [(at, value[start:]) for at, value in entries if value.startswith(FORMAT)]
            for node, entries in zip(nodes, self._entries(streams, since), strict=True)
        }

    def _entries(self, streams: Sequence[str], since: float) -> list[list[tuple[float, bytes]]]:
        """Return the entries of streams, each with its server time in seconds."""
        found: dict[str, list[tuple[float, bytes]]] = {stream: [] for stream in streams}
        first = dict.fromkeys(streams, str(max(0, int(since * 1000))))
        while first:
            pipeline = self._client.pipeline(transaction=False)
            for stream, entry in first.items():
                pipeline.eval(_PAGE_OF, 1, stream, entry, _PAGE)
            pages = zip(list(first), pipeline.execute(), strict=True)
            for stream, (ids, lengths, values) in pages:
                entries = ids.split()
                end = 0
                for entry, length in zip(entries, map(int, lengths.split()), strict=True):
                    begin, end = end, end + length
                    found[stream].append((_time(entry), values[begin:end]))
                if len(entries) < _PAGE:
                    del first[stream]
                else:
                    first[stream] = f"({entries[-1].decode()}"
        return list(found.values())


@contextmanager
def nothing_to_collect() -> Iterator[None]:
    """Make what stays: looking for garbage in it again and again takes a third of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read_last(client: redis.Redis, stores: Sequence[SampleStore]) -> list[Reading]:
    """Return, for each pool, its queue now and the last sample of each node of the last hour.

    All pools are read at once, in two round trips (three the first time).

    Raises:
        redis.RedisError: The server does not answer.
    """
    pipeline = client.pipeline(transaction=False)
    for store in stores:
        store.ask(pipeline, HISTORY)
    queues = pipeline.execute()
    for store, (_, _, _, nodes) in zip(stores, queues, strict=True):
        for node in nodes:
            pipeline.xrevrange(keys.node_samples(store.pool, node.decode()), count=1)
    replies = iter(pipeline.execute())
    readings = []
    for store, (now, depth, oldest, nodes) in zip(stores, queues, strict=True):
        entries = {
            node.decode(): [(_time(entry), fields[b"sample"]) for entry, fields in its]
            for node, its in zip(nodes, islice(replies, len(nodes)), strict=True)
        }
        readings.append(_reading(store.pool, _queue_state(now, depth, oldest), entries))
    return readings


def _time(entry: bytes) -> float:
    """Return the server time of an entry in seconds since the epoch."""
    return int(entry.partition(b"-")[0]) / 1000


def _reading(
    pool: str, queue: QueueState, entries: Mapping[str, Sequence[tuple[float, bytes]]]
) -> Reading:
    samples, unreadable = {}, {}
    for node, its in entries.items():
        if stored := _stored(its):
            samples[node] = stored
        if its and not its[-1][1].startswith(FORMAT):
            unreadable[node] = its[-1][0]
            _tell(pool, its[-1][1].split(b" ", 1)[0] if its[-1][1].startswith(b"v") else b"")
    return Reading(queue, samples, unreadable)


@lru_cache(maxsize=256)  # once in a process
def _tell(pool: str, its_format: bytes) -> None:
    logger.warning(
        "pool %s: some nodes write samples in the format %s of another version, this one reads %s: "
        "nothing is known of them until they run the same version",
        pool,
        its_format[:8].decode(errors="replace") or "v1",
        FORMAT.decode().strip(),
    )


def _stored(entries: Iterable[tuple[float, bytes]]) -> list[StoredSample]:
    by_number: dict[int, StoredSample] = {}
    for at, value in entries:
        if not value.startswith(FORMAT):
            continue
        _, depth, oldest, encoded = value.split(b" ", 3)
        sample = Sample.decode(encoded)
        # To the end: it is as late as its last version.
        by_number.pop(sample.number, None)
        by_number[sample.number] = StoredSample(sample, _queue_state(at, depth, oldest))
    return list(by_number.values())


def _queue_state(at: Any, depth: Any, published_at: bytes) -> QueueState:
    published = float(published_at or "nan")
    # Anyone may publish, and so write there what is no time.
    return QueueState(float(at), int(depth), published if 0 < published < _END_OF_TIME else None)
