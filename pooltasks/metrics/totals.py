"""Totals: all work of a pool, added up in Redis by the script that stores samples.

Samples are forgotten after an hour, nodes come and go. Prometheus wants numbers
that only grow, and the same ones from each exporter: so they are kept in one
hash for each pool, to which a sample adds its counts. A sample that is
written again adds only the counts that it did not hold before.

Histograms are kept in few buckets. Each ends where one of the fine buckets
does, so nothing is estimated: the count up to a bound is exact.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from pooltasks.errors import Category
from pooltasks.metrics.counts import OTHER, Counts
from pooltasks.metrics.histogram import BUCKETS, Histogram, bucket_of
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pooltasks.metrics.sample import Sample
    from pooltasks.pool_settings import Objective

_Name = TypeVar("_Name", Outcome, Category)

LIFE = 86_400.0
"""Seconds for which totals outlive the last sample of their pool."""

_LADDER = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds; each lies in the last fine bucket of one of the few buckets."""
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_REST = BUCKETS - 1
_SUM = "sum"
_MICRO = 1e6

MOST_NAMED = 32
"""Operations of a pool that are counted by name, the first that it runs."""

ADD = f"""
-- Add the amounts of a sample (JSON: number, amounts, operations) to the hash of
-- totals and that of totals by name. `counted` holds what the node's last sample
-- added: if this is the same one again, the difference is added.
local function named(by_name, operation)
  if operation == '{OTHER}' or redis.call('HEXISTS', by_name, 'order:' .. operation) == 1 then
    return operation
  end
  local names = tonumber(redis.call('HGET', by_name, 'names') or 0)
  if names >= {MOST_NAMED} then return '{OTHER}' end
  redis.call('HSET', by_name, 'order:' .. operation, names, 'names', names + 1)
  return operation
end
-- Returns the sample's number, 0 if the node's last one is not known; and whether anything
-- was counted by name.
local function add(totals, by_name, counted, json, memory)
  local sample = cjson.decode(json)
  local last = redis.call('GET', counted)
  local begins = '{{"number":' .. string.format('%d', sample.number) .. ','
  local again = last and string.sub(last, 1, #begins) == begins and cjson.decode(last)
  local before = again and again.amounts or {{}}
  for field, amount in pairs(sample.amounts) do
    redis.call('HINCRBY', totals, field, string.format('%.0f', amount - (before[field] or 0)))
  end
  local before = again and again.operations or {{}}
  for operation, outcomes in pairs(sample.operations) do
    local name, was = named(by_name, operation), before[operation] or {{}}
    for outcome, amount in pairs(outcomes) do
      redis.call('HINCRBY', by_name, 'count:' .. outcome .. ':' .. name,
                 string.format('%.0f', amount - (was[outcome] or 0)))
    end
  end
  redis.call('SET', counted, json, 'PX', memory)
  return last and sample.number or 0, next(sample.operations) ~= nil
end
"""


def latency_bounds() -> list[int]:
    """Return the bounds of latencies: fewer, and each is a bound of wait and run too."""
    return [bucket_of(seconds) for seconds in _LATENCIES]


def bounds(objective: Objective) -> list[int]:
    """Return the last fine bucket of each of the few buckets, ascending, without the endless one.

    One of them ends where the objective's wait does, within a fine bucket.
    """
    return _bounds(objective.wait_ms)


def _bounds(wait_ms: float) -> list[int]:
    return sorted({*map(bucket_of, _LADDER), bucket_of(wait_ms / 1000)})


def amounts(
    sample: Sample, objective: Objective, outcomes: Mapping[str, Mapping[Outcome, int]]
) -> str:
    """Return the amounts that a sample adds to its pool's totals, as the script reads them.

    Args:
        sample: The sample of a node's workers together.
        objective: Of the pool.
        outcomes: The number of each operation's ends by outcome.
    """
    counts, used = sample.counts, sample.resources
    allowed = bucket_of(objective.wait_ms / 1000)
    its = {
        "busy": round(counts.busy * _MICRO),
        "process": round(counts.process * _MICRO),
        "recoveries": counts.recoveries,
        "cpu": round((used.node_cpu + used.workers_cpu) * _MICRO) if used else 0,
        # Counted now: a later objective must not change these counts.
        "late": sum(count for bucket, count in counts.wait.counts.items() if bucket > allowed),
        **{f"outcome:{outcome}": count for outcome, count in counts.outcomes.items()},
        **{f"category:{category}": count for category, count in counts.categories.items()},
    }
    bound_of = _bound_of(objective.wait_ms)
    for name, histogram in (
        ("wait", counts.wait),
        ("run", counts.run),
        ("latency", counts.latency),
        ("recovery", counts.recovery),
    ):
        if histogram.counts:
            its[f"{name}:{_SUM}"] = round(histogram.total * _MICRO)
        for bucket, count in _coarse(histogram, bound_of).items():
            its[f"{name}:{bucket}"] = count
    # A zero adds nothing. "process" stays: there are totals from the first sample on.
    its = {name: amount for name, amount in its.items() if amount or name == "process"}
    # The number comes first: the script looks for it there.
    whole = {"number": sample.number, "amounts": its, "operations": outcomes}
    return json.dumps(whole, separators=(",", ":"))


@cache
def _bound_of(wait_ms: float) -> Sequence[int]:
    """Return for each fine bucket the one of the few buckets that holds it."""
    limits = [*_bounds(wait_ms), _REST]
    return [limits[bisect_left(limits, bucket)] for bucket in range(BUCKETS)]


def _coarse(histogram: Histogram, bound_of: Sequence[int]) -> dict[int, int]:
    """Return the values of a histogram by the bound that they do not exceed."""
    coarse: dict[int, int] = {}
    for bucket, count in histogram.counts.items():
        bound = bound_of[bucket]
        coarse[bound] = coarse.get(bound, 0) + count
    return coarse


@dataclass(frozen=True)
class Totals:
    """The work of a pool since its totals began."""

    counts: Counts
    """The sums, in histograms of few buckets."""
    late: int
    """Operations that waited longer than the objective of their time allowed."""
    cpu: float
    """CPU seconds of all nodes and workers."""

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> Totals | None:
        """Return the totals of a hash; None if the hash does not exist.

        Nodes of several versions may have added to it. A field that only other versions
        know is left out; a field that only this version counts begins with its nodes.
        """
        if not fields:
            return None
        by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for field, value in fields.items():
            kind, _, name = field.decode().partition(":")
            by_kind[kind][name] = int(value)
        counts = Counts(
            outcomes=_known(Outcome, by_kind["outcome"]),
            categories=_known(Category, by_kind["category"]),
            recoveries=by_kind["recoveries"][""],
            busy=by_kind["busy"][""] / _MICRO,
            process=by_kind["process"][""] / _MICRO,
            wait=_histogram(by_kind["wait"]),
            run=_histogram(by_kind["run"]),
            latency=_histogram(by_kind["latency"]),
            recovery=_histogram(by_kind["recovery"]),
        )
        return cls(counts, by_kind["late"][""], by_kind["cpu"][""] / _MICRO)


def by_name(fields: Mapping[bytes, bytes]) -> dict[str, Counter[Outcome]]:
    """Return each operation's ends by outcome; the operation that was seen first comes first.

    Args:
        fields: The hash of the totals by name.
    """
    order: dict[str, float] = {OTHER: MOST_NAMED}
    counts: dict[str, Counter[str]] = {}
    for field, value in fields.items():
        kind, _, rest = field.decode().partition(":")
        if kind == "order":
            order[rest] = int(value)
        elif kind == "count":
            outcome, _, name = rest.partition(":")
            counts.setdefault(name, Counter())[outcome] = int(value)
    names = sorted(counts, key=order.__getitem__)
    return {name: _known(Outcome, counts[name]) for name in names}


def _known(names: Iterable[_Name], counts: Mapping[str, int]) -> Counter[_Name]:
    return Counter({name: counts[name.value] for name in names if name.value in counts})


def _histogram(amounts: Mapping[str, int]) -> Histogram:
    counts = {int(name): count for name, count in amounts.items() if name != _SUM}
    return Histogram(counts, amounts.get(_SUM, 0) / _MICRO)
