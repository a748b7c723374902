"""Observing: the samples of a pool's nodes become one observation for each second.

Nodes sample in the middle of each second of the server's clock, so each second
is one observation, whenever the optimizer comes to see it. One that was away for
a while sees what it missed in order, as if it had been there; one that looks
twice finds nothing new.

Arrivals are not counted anywhere: producers need not be ours. They are what
has finished plus what more is in the pool now than before, waiting or running.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pooltasks.metrics.collector import STALE
from pooltasks.metrics.histogram import Histogram
from pooltasks.optimizer.policies import Observation
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pooltasks.metrics.announced import Announced
    from pooltasks.metrics.sample import Sample
    from pooltasks.metrics.samples import QueueState, StoredSample

MISSED = 60
"""Seconds that an optimizer that was away catches up with; what was before, policies forget too."""
_CLOCK_SET_BACK = 5  # periods
_LOOK_AHEAD = 0.02  # seconds
_OVERHEAD = 0.002
"""Seconds that Celery keeps a worker busy around one operation, at most."""


@dataclass
class _Work:
    """The work of a span of time, as far as policies care."""

    left: int = 0
    """Operations that left the pool: finished, or to be published again."""
    failed: int = 0
    started: int = 0
    late: int = 0
    wait_sum: float = 0.0
    completed: int = 0
    service_sum: float = 0.0
    service_squares: float = 0.0
    busy: float = 0.0

    @classmethod
    def of(cls, sample: Sample, wait: float) -> _Work:
        counts = sample.counts
        runs = counts.run.count
        overhead = min(max(0.0, counts.busy - counts.run.total), runs * _OVERHEAD)
        each = overhead / runs if runs else 0.0
        # The starts and the busy time of a draining node say nothing of the serving nodes. No more
        # does the wait of an operation that a limit may have held back.
        waits = counts.wait.since(counts.limited) if sample.serves else Histogram()
        return cls(
            # An operation that a dead worker lost was put back: it has not left.
            left=sum(counts.outcomes.values()) - counts.outcomes[Outcome.LOST],
            failed=counts.outcomes[Outcome.FAILURE],
            started=waits.count,
            late=round((waits.share_above(wait) or 0.0) * waits.count),
            wait_sum=waits.total,
            completed=runs,
            # Both moments are of the run with the work around it.
            service_sum=counts.run.total + overhead,
            service_squares=counts.run.squares + each * (2 * counts.run.total + overhead),
            busy=counts.busy if sample.serves else 0.0,
        )

    def plus(self, other: _Work, sign: int = 1) -> _Work:
        its = vars(other)
        return _Work(**{name: value + sign * its[name] for name, value in vars(self).items()})


@dataclass
class Watch:
    """How far the samples of a pool have been seen; it outlives the process as JSON."""

    period: int | None = None
    """Number of the last period (a second, if nodes sample once a second)."""
    at: float = 0.0
    """Server time of the last sample in it."""
    inside: int | None = None
    """Operations in the pool then, waiting or running; None if nobody saw them all."""
    seen: dict[str, tuple[int, float, _Work]] = field(default_factory=dict)
    """The last sample of each node: number, time, content. One that may not have
    arrived is written again under its number, with what came after it."""
    present: list[str] = field(default_factory=list)
    """The series of samples of the nodes that were there in it."""

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        seen = {
            node: [number, at, list(vars(work).values())]
            for node, (number, at, work) in self.seen.items()
        }
        return {**vars(self), "seen": seen}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Watch:
        """Return the watch that :meth:`snapshot` wrote."""
        seen = {
            node: (int(number), float(at), _Work(*work))
            for node, (number, at, work) in state["seen"].items()
        }
        return cls(
            state["period"], float(state["at"]), state["inside"], seen, state.get("present", [])
        )

    def observe(
        self,
        queue: QueueState,
        samples: Mapping[str, Sequence[StoredSample]],
        *,
        wait: float,
        size: int,
        interval: float,
    ) -> list[Observation]:
        """Return an observation for each period that is new, oldest first.

        Args:
            queue: The queue now.
            samples: Of each node, oldest first; at least those since :attr:`at`.
            wait: Of the objective, seconds.
            size: Slots that the pool was last told to have.
            interval: Seconds between samples of a node: the length of a period.
        """
        newest = newest_period(samples, interval)
        if newest is None:
            return []
        if self.period is not None and newest < self.period - _CLOCK_SET_BACK:
            self.period = None
        first = newest - MISSED + 1
        if self.period is not None and self.period + 1 >= first:
            first = self.period + 1
        else:
            self._skip(samples, first, interval)
        periods = self._new_work(samples, first, wait, interval)
        observations = []
        for period in range(first, newest + 1):
            end = (period + 1) * interval
            series = _present(samples, period * interval, end)
            present = list(series.values())
            inside_now = [one for one in present if one.at >= period * interval]
            if not inside_now:
                continue  # nobody wrote: the next period has it
            # Each node read the queue; the last to do so knows best.
            latest = max(inside_now, key=lambda one: one.at)
            working = [one.sample for one in present if not one.sample.stopped]
            serving = [sample for sample in working if sample.serves]
            held = sum(sample.reserved + sample.running for sample in working)
            inside = latest.queue.depth + held
            # The reserved operations of a draining node wait for its own workers.
            reserved = sum(sample.reserved for sample in serving)
            work = periods.get(period, _Work())
            # Before the first period nobody looked: as many as after it, say.
            before = inside if self.inside is None else self.inside
            seconds = interval if self.inside is None else max(latest.at - self.at, 1e-3)
            depth = queue.depth if period == newest else latest.queue.depth
            observations.append(
                Observation(
                    now=latest.at,
                    seconds=seconds,
                    # Fewer than none: some were purged, or a node's death is half seen.
                    arrivals=max(0, work.left + inside - before),
                    waiting=depth + reserved,
                    started=work.started,
                    late=work.late,
                    wait_sum=work.wait_sum,
                    completed=work.completed,
                    service_sum=work.service_sum,
                    service_squares=work.service_squares,
                    failed=work.failed,
                    busy=max(0.0, work.busy) / seconds,
                    size=size,
                    warm=sum(sample.capacity for sample in serving),
                    complete=all(
                        one.at >= period * interval or one.sample.is_quiet for one in present
                    ),
                    lossy=self._has_lost_one(samples, series),
                )
            )
            self.period, self.at, self.inside = period, latest.at, inside
            self.present = list(series)
        return observations

    def _has_lost_one(
        self, samples: Mapping[str, Sequence[StoredSample]], present: Mapping[str, StoredSample]
    ) -> bool:
        """Return whether a node that was there is gone, and had not stopped: it died."""
        gone = [samples[name][-1] for name in self.present if name in samples.keys() - present]
        return any(not last.sample.stopped for last in gone)

    def pass_over(self, samples: Mapping[str, Sequence[StoredSample]], interval: float) -> None:
        """Take all that there is as seen: it tells of a part of the pool only.

        Args:
            samples: As for :meth:`observe`.
            interval: Seconds between samples of a node.
        """
        newest = newest_period(samples, interval)
        if newest is None:
            self.inside = None
            return
        self._skip(samples, newest + 1, interval)
        self.period, self.at = newest, max(its[-1].at for its in samples.values())

    def _skip(
        self, samples: Mapping[str, Sequence[StoredSample]], first: int, interval: float
    ) -> None:
        """Take what was before the period ``first`` as seen."""
        self.period = self.inside = None
        self.seen, self.present = {}, []
        for node, its in samples.items():
            before = _last_before(its, first * interval)
            if before is not None:
                self.seen[node] = (before.sample.number, before.at, _Work())

    def _new_work(
        self,
        samples: Mapping[str, Sequence[StoredSample]],
        first: int,
        wait: float,
        interval: float,
    ) -> dict[int, _Work]:
        """Return the work of each period that was not seen before, and note it as seen.

        Late work belongs to the first period that can still have it.
        """
        periods: dict[int, _Work] = {}
        for node, its in samples.items():
            number, at, known = self.seen.get(node, (-1, 0.0, _Work()))
            for one in its:
                if one.at <= at or one.sample.number < number:
                    continue
                work = _Work.of(one.sample, wait)
                new = work.plus(known, -1) if one.sample.number == number else work
                period = max(first, math.floor(one.at / interval))
                periods[period] = periods.get(period, _Work()).plus(new)
                number, at, known = one.sample.number, one.at, work
            self.seen[node] = (number, at, known)
        for node in self.seen.keys() - samples.keys():
            del self.seen[node]
        return periods


def with_announced(observation: Observation, announced: Announced) -> Observation:
    """Return the observation with what applications recorded: never less than was measured."""
    busy = max(
        observation.busy,
        announced.active_checkouts or 0.0,
        (announced.utilization or 0.0) * observation.warm,
    )
    expected = round((announced.throughput or 0.0) * observation.seconds)
    return replace(
        observation,
        waiting=observation.waiting + round(announced.queue_depth or 0.0),
        announced=max(0, expected - observation.arrivals),
        wait_sum=max(observation.wait_sum, (announced.avg_wait_time or 0.0) * observation.started),
        busy=busy,
        failed=max(
            observation.failed, round((announced.error_rate or 0.0) * observation.completed)
        ),
    )


def newest_period(samples: Mapping[str, Sequence[StoredSample]], interval: float) -> int | None:
    """Return the number of the last period that has a sample; None if there is none."""
    return max((math.floor(its[-1].at / interval) for its in samples.values()), default=None)


def _present(
    samples: Mapping[str, Sequence[StoredSample]], start: float, end: float
) -> dict[str, StoredSample]:
    """Return the last sample of each node that is there between two times, by its series.

    A node that starts again begins a new series: it is one node.
    """
    found: dict[str, tuple[str, StoredSample]] = {}
    for series, its in samples.items():
        one, name = _last_before(its, end), _name_of(series)
        is_there = one is not None and _counts(one, start, end)
        if one is not None and is_there and (name not in found or found[name][1].at < one.at):
            found[name] = series, one
    return dict(found.values())


def _name_of(series: str) -> str:
    """Return Celery's name of the node that writes a series."""
    return series.rpartition("/")[0] or series


def live(samples: Mapping[str, Sequence[StoredSample]], now: float) -> dict[str, StoredSample]:
    """Return the last sample of each node that is there, by Celery's name for it.

    A draining node is one of them; ``sample.serves`` says which are capacity.

    A node that starts again begins a new series under the same name: the old
    one is its past.
    """
    nodes: dict[str, StoredSample] = {}
    for series, its in samples.items():
        last, name = its[-1], _name_of(series)
        if last.sample.stopped or not _is_present(last, now):
            continue
        if name not in nodes or nodes[name].at < last.at:
            nodes[name] = last
    return nodes


def is_due(nodes: Iterable[StoredSample], now: float, interval: float, patience: float) -> bool:
    """Return whether a sample of the present period is missing that may come any moment.

    Args:
        nodes: Of each live node the last sample.
        now: Server time.
        interval: Seconds between samples of a node, the length of a period.
        patience: Seconds after which it is not waited for any longer.
    """
    start = math.floor(now / interval) * interval
    late = now - start - interval / 2
    return -_LOOK_AHEAD <= late < patience and any(
        one.at < start and not one.sample.is_quiet for one in nodes
    )


def _last_before(its: Sequence[StoredSample], end: float) -> StoredSample | None:
    return next((one for one in reversed(its) if one.at < end), None)


def _counts(one: StoredSample, start: float, end: float) -> bool:
    """Return whether a node's last sample before ``end`` tells of the period from ``start``."""
    return one.at >= start or (not one.sample.stopped and _is_present(one, end))


def _is_present(one: StoredSample, now: float) -> bool:
    return now - one.at < one.sample.patience(STALE)
