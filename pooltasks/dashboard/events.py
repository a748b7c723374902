"""The recent events of a pool, as its samples tell them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Any

from pooltasks.counted import counted
from pooltasks.metrics.collector import STALE
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pooltasks.metrics.samples import StoredSample

    _Event = dict[str, Any]
    _Samples = Sequence[StoredSample]

MOST = 100
"""Events that are shown."""


class EventLog:
    """The events of a pool. Each sample is looked at once. For one thread."""

    def __init__(self) -> None:
        self._nodes: dict[str, _NodeEvents] = {}

    def update(self, samples: Mapping[str, _Samples], now: float) -> list[_Event]:
        """Return the events that the samples tell, the latest first.

        Args:
            samples: Of each node, oldest first.
            now: Server time.

        Returns:
            For each its time ``at`` (seconds since the epoch), ``kind``, ``node``, ``text``
            and numbers: ``from`` and ``to`` of sizes, ``count`` of workers and operations.
        """
        self._nodes = {
            name: self._nodes[name] if name in self._nodes else _NodeEvents(name)
            for name in samples
        }
        events = [
            event for name, its in samples.items() for event in self._nodes[name].update(its, now)
        ]
        return sorted(events, key=lambda event: event["at"])[::-1]


def deaths(events: Iterable[_Event]) -> Counter[str]:
    """Return how many workers of each node died and were replaced."""
    counts: Counter[str] = Counter()
    for event in events:
        if event["kind"] == "workers-replaced":
            counts[event["node"]] += event["count"]
    return counts


class _NodeEvents:
    def __init__(self, name: str) -> None:
        self._name = name
        self._first = 0.0
        self._last: StoredSample | None = None
        self._events: list[_Event] = []

    def update(self, samples: _Samples, now: float) -> list[_Event]:
        """Return the node's events; one that is silent now is the last of them."""
        if self._last is None or samples[0].at < self._first or self._last.at < samples[0].at:
            self._begin()
        last = self._last
        known = bisect_right(samples, last.at, key=lambda one: one.at) if last else 0
        if last and samples[known - 1].sample.number != last.sample.number:
            # The sample came again under its number, with later counts.
            self._begin()
            last, known = None, 0
        for one in samples[known:]:
            self._events += self._told(last, one)
            last = one
        self._first, self._last = samples[0].at, last
        self._events = [event for event in self._events if event["at"] >= self._first]
        if last and not last.sample.stopped and now - last.at > last.sample.patience(STALE):
            return [*self._events, self._event(last.at, "node-silent")]
        return self._events

    def _begin(self) -> None:
        self._last = None
        self._events = []

    def _told(self, before: StoredSample | None, one: StoredSample) -> Iterator[_Event]:
        sample = one.sample
        if before is not None:
            if one.at - before.at > before.sample.patience(STALE):
                yield self._event(before.at, "node-silent")
                yield self._event(one.at, "node-back")
            if sample.size != before.sample.size and not sample.stopped:
                sizes = {"from": before.sample.size, "to": sample.size}
                yield self._event(one.at, "resized", **sizes)
        if sample.number == 0:
            yield self._event(one.at, "node-started", to=sample.size)
        if sample.counts.recoveries:
            yield self._event(one.at, "workers-replaced", count=sample.counts.recoveries)
        if lost := sample.counts.outcomes[Outcome.LOST]:
            yield self._event(one.at, "operations-lost", count=lost)
        if sample.stopped:
            yield self._event(one.at, "node-stopped")

    def _event(self, at: float, kind: str, **numbers: int) -> _Event:
        text = _in_words(kind, numbers)
        return {"at": at, "kind": kind, "node": self._name, "text": text, **numbers}


def _in_words(kind: str, numbers: Mapping[str, int]) -> str:
    """Return the sentence that people read."""
    count = numbers.get("count", 0)
    verb = "was" if count == 1 else "were"
    size = numbers.get("to", 0)
    return {
        "node-started": f"Node started with {counted(size, 'worker')}",
        "node-stopped": "Node stopped",
        "node-silent": "Node stopped answering",
        "node-back": "Node is back",
        "resized": f"Size {numbers.get('from', 0)} → {size}",
        "workers-replaced": f"{counted(count, 'worker')} died and {verb} replaced",
        "operations-lost": f"{counted(count, 'operation')} lost their worker and will run again",
    }[kind]
