"""What happened in a pool lately, as its samples tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks.metrics.collector import STALE
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pooltasks.metrics.samples import StoredSample

    _Event = tuple[float, str, dict[str, int]]
    """When, what, and its numbers."""

_MOST = 100
"""Events that are shown."""


def events_of(samples: Mapping[str, Sequence[StoredSample]], now: float) -> list[dict[str, Any]]:
    """Return what the samples of a pool tell, the latest first, at most 100 events.

    Args:
        samples: Of each node, oldest first.
        now: Server time.

    Returns:
        For each its time ``at`` (seconds since the epoch), ``kind``, ``node``
        and numbers: ``from`` and ``to`` of sizes, ``count`` of workers and operations.
    """
    events = [event for node, its in samples.items() for event in _of_node(node, its, now)]
    return sorted(events, key=lambda event: event["at"])[: -_MOST - 1 : -1]


def _of_node(name: str, samples: Sequence[StoredSample], now: float) -> Iterator[dict[str, Any]]:
    before: StoredSample | None = None
    for one in samples:
        for at, kind, numbers in (*_between(before, one), *_of_sample(one)):
            yield {"at": at, "kind": kind, "node": name, **numbers}
        before = one
    if before is not None and not before.sample.stopped and now - before.at > _patience(before):
        yield {"at": before.at, "kind": "node-silent", "node": name}


def _between(before: StoredSample | None, one: StoredSample) -> Iterator[_Event]:
    if before is None:
        return
    if one.at - before.at > _patience(before):
        yield before.at, "node-silent", {}
        yield one.at, "node-back", {}
    if one.sample.size != before.sample.size and not one.sample.stopped:
        yield one.at, "resized", {"from": before.sample.size, "to": one.sample.size}


def _of_sample(one: StoredSample) -> Iterator[_Event]:
    sample = one.sample
    if sample.number == 0:
        yield one.at, "node-started", {"to": sample.size}
    if sample.counts.recoveries:
        yield one.at, "workers-replaced", {"count": sample.counts.recoveries}
    if lost := sample.counts.outcomes[Outcome.LOST]:
        yield one.at, "operations-lost", {"count": lost}
    if sample.stopped:
        yield one.at, "node-stopped", {}


def _patience(one: StoredSample) -> float:
    return max(STALE, STALE * one.sample.interval)
