"""Samples: a second of one node's numbers, an hour of them in Redis.

A node appends to a stream of its own, so that nodes never contend, and the
server gives each entry its time, so that the samples of all nodes are on one
clock. The script that appends also reads the queue: one round trip a second.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.errors import Category
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.totals import ADD, LIFE, amounts
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from pooltasks.settings import Objective

HISTORY = 3600.0
"""Seconds of samples that are kept."""
_MARGIN = 60.0
_END_OF_TIME = 1e11  # seconds since the epoch: the year 5138

_QUEUE = """
-- Keys from `first` on: the lists of one queue. Returns their length and when
-- the oldest message was published ('' if it does not say). kombu takes from
-- the right. The name is searched without its value, as plain text: that is
-- fast in a message of megabytes, and text of a user has its quotes escaped.
local function queue(first)
  local depth, oldest, name = 0, nil, '"published_at":'
  for i = first, #KEYS do
    depth = depth + redis.call('LLEN', KEYS[i])
    local message = redis.call('LINDEX', KEYS[i], -1)
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

# KEYS: the stream, the pool's nodes, its totals, what the node's last sample added
# to them, the queue's lists.
# ARGV: node, entries to keep, ms to live, seconds to remember nodes, what the sample adds
# to the totals, ms for them to live, fields of the sample.
_WRITE = f"""
{_QUEUE}
{ADD}
local depth, oldest = queue(5)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
           'depth', depth, 'oldest', oldest, unpack(ARGV, 7))
add(KEYS[3], KEYS[4], ARGV[5], ARGV[6], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.6f', now - ARGV[4]))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {{now, depth, oldest}}
"""

# KEYS: the pool's nodes, the queue's lists. ARGV: seconds.
_READ = f"""
{_QUEUE}
local depth, oldest = queue(2)
local first = string.format('%.6f', now - ARGV[1])
return {{now, depth, oldest, redis.call('ZRANGEBYSCORE', KEYS[1], first, '+inf')}}
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
class Sample:
    """What one node writes once every ``interval`` seconds."""

    number: int
    """Of the node's samples, from 0. One that may not have arrived is written
    again with what came after it, under the same number: the last one counts."""
    interval: float
    size: int
    """Workers that there should be."""
    warm: int
    busy: int
    """Workers that have an operation."""
    reserved: int
    """Operations that the node took from the queue and no worker has started."""
    reserved_age: float
    """Seconds for which the oldest of those has waited; 0 if there are none."""
    stopped: bool = False
    """Whether it is the node's last."""
    room: int | None = None
    """The most workers that the host has memory and processors for; None: not known."""
    counts: Counts = field(default_factory=Counts)
    """Since the sample before."""

    def fields(self) -> dict[str, bytes | str]:
        """Return the fields of a stream entry."""
        its = self.counts
        rest = [
            self.number,
            self.interval,
            self.size,
            self.warm,
            self.busy,
            self.reserved,
            round(self.reserved_age, 3),
            int(self.stopped),
            its.recoveries,
            round(its.busy, 6),
            round(its.process, 6),
            its.outcomes,
            its.categories,
        ]
        return {
            "node": json.dumps(rest, separators=(",", ":")),
            "wait": its.wait.encode(),
            "run": its.run.encode(),
            "room": "" if self.room is None else str(self.room),
        }

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> Sample:
        """Return the sample of a stream entry."""
        number, interval, size, warm, busy, reserved, age, stopped, *rest = json.loads(
            fields[b"node"]
        )
        recoveries, busy_seconds, process_seconds, outcomes, categories = rest
        counts = Counts(
            outcomes=Counter({Outcome(name): count for name, count in outcomes.items()}),
            categories=Counter({Category(name): count for name, count in categories.items()}),
            recoveries=recoveries,
            busy=busy_seconds,
            process=process_seconds,
            wait=Histogram.decode(fields[b"wait"]),
            run=Histogram.decode(fields[b"run"]),
        )
        return cls(
            number,
            interval,
            size,
            warm,
            busy,
            reserved,
            age,
            stopped=bool(stopped),
            room=int(fields[b"room"]) if fields[b"room"] else None,
            counts=counts,
        )


@dataclass(frozen=True)
class StoredSample:
    """A sample with what the server added to it."""

    sample: Sample
    queue: QueueState

    @property
    def at(self) -> float:
        """Server time, seconds since the epoch."""
        return self.queue.at


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
        self._lists = list(lists)
        self._objective = objective
        self._write = client.register_script(_WRITE)
        self._read = client.register_script(_READ)

    def write(self, node: str, sample: Sample) -> QueueState:
        """Append a node's sample, and add what it counted to the totals of the pool.

        Raises:
            redis.RedisError: It may or may not have arrived.
        """
        pairs = [part for pair in sample.fields().items() for part in pair]
        reply: Any = self._write(
            keys=[
                keys.node_samples(self.pool, node),
                keys.pool_nodes(self.pool),
                keys.pool_totals(self.pool),
                keys.node_counted(self.pool, node),
                *self._lists,
            ],
            args=[
                node,
                math.ceil(HISTORY / sample.interval),
                int((HISTORY + _MARGIN) * 1000),
                HISTORY,
                amounts(sample, self._objective),
                int(LIFE * 1000),
                *pairs,
            ],
        )
        return _queue_state(*reply)

    def ask(self, client: redis.Redis, seconds: float) -> Any:
        """Have a client or pipeline ask for the queue and the nodes of the last ``seconds``."""
        lists = [keys.pool_nodes(self.pool), *self._lists]
        return self._read(keys=lists, args=[seconds], client=client)

    def read(self, seconds: float) -> tuple[QueueState, dict[str, list[StoredSample]]]:
        """Return the queue now, and each node's samples of the last ``seconds``, oldest first.

        Nodes that wrote none in that time are left out.
        """
        now, depth, oldest, nodes = self.ask(self._client, seconds)
        queue = _queue_state(now, depth, oldest)
        names = [node.decode() for node in nodes]
        first = max(0, int((queue.at - seconds) * 1000))
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.xrange(keys.node_samples(self.pool, name), min=str(first))
        entries = pipeline.execute() if names else []
        return queue, {
            name: samples
            for name, its in zip(names, entries, strict=True)
            if (samples := _stored(its))
        }


def read_last(
    client: redis.Redis, stores: Sequence[SampleStore]
) -> list[tuple[QueueState, list[StoredSample]]]:
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
    entries = iter(pipeline.execute())
    return [
        (
            _queue_state(now, depth, oldest),
            [one for its in islice(entries, len(nodes)) for one in _stored(its)],
        )
        for now, depth, oldest, nodes in queues
    ]


def _stored(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[StoredSample]:
    by_number: dict[int, StoredSample] = {}
    for entry, fields in entries:
        sample = Sample.of(fields)
        at = int(entry.partition(b"-")[0]) / 1000
        stored = StoredSample(sample, _queue_state(at, fields[b"depth"], fields[b"oldest"]))
        # To the end: it is as late as its last version.
        by_number.pop(sample.number, None)
        by_number[sample.number] = stored
    return list(by_number.values())


def _queue_state(at: Any, depth: Any, published_at: bytes) -> QueueState:
    published = float(published_at or "nan")
    # Anyone may publish, and so write there what is no time.
    return QueueState(float(at), int(depth), published if 0 < published < _END_OF_TIME else None)
