"""Operations that are not due yet: the cost of a million of them, and their punctuality.

Those that are due later are written in bulk: each is the one that a producer has
published, with an id and a time of its own.
"""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime
from statistics import median_high
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import psutil

from chaos.cluster import QUEUE, Cluster, wait_until
from pooltasks import Pool, keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LATE_SECONDS = 1.0
MORE = 0.05
"""Share by which a node may grow, or slow down, with operations that are not due."""
_HOUR = 3600.0
_AT_ONCE = 5000
_WRITE_SECONDS = 0.0001
"""Seconds that it takes at the most to write one."""
_GIVE_UP = 300.0


class Plan(NamedTuple):
    """The measurement to make."""

    later: int
    """Operations that are due in an hour."""
    due: int
    """Operations that fall due in the window."""
    window: float
    """Its length in seconds."""
    drained: int
    """Operations of a full queue whose drain is timed."""
    rounds: int
    """How often it is timed, without and with those that are due later."""


class Report(NamedTuple):
    """The measurements."""

    plan: Plan
    drain_before: list[float]
    """Operations a second of a full queue, without them."""
    drain_with: list[float]
    """The same with them."""
    memory_before: float
    """MB of the node and its workers that are theirs alone."""
    memory_with: float
    late: float
    """Seconds by which the latest operation started after its time."""
    missing: int
    """How many never started, and how many of those due in an hour are gone."""

    @property
    def holds(self) -> bool:
        """Whether everything started on time and the rest cost nothing."""
        return (
            self.late <= LATE_SECONDS
            and not self.missing
            and median_high(self.drain_with) >= (1 - MORE) * median_high(self.drain_before)
            and self.memory_with <= (1 + MORE) * self.memory_before
        )

    def lines(self) -> list[str]:
        """Return the results as text."""
        its = self.plan
        rates = (("without", self.drain_before), ("with", self.drain_with))
        return [
            *(
                f"operations a second {name} {its.later} due in an hour: "
                + ", ".join(f"{rate:.0f}" for rate in sorted(drained))
                for name, drained in rates
            ),
            (
                f"a node and its workers: {self.memory_before:.1f} MB without them, "
                f"{self.memory_with:.1f} MB with them"
            ),
            (
                f"{its.due} due within {its.window:g} s: the latest started "
                f"{1000 * self.late:.0f} ms after its time, target {1000 * LATE_SECONDS:.0f} ms; "
                f"{self.missing} missing"
            ),
        ]


def delayed(folder: Path, plan: Plan) -> Report:
    """Measure one node of two workers, in an empty folder."""
    with Cluster(folder, nodes=1, control=False) as cluster:
        its = _Delayed(cluster)
        its.drain(plan.drained)  # the workers have run something
        before = [its.drain(plan.drained) for _ in range(plan.rounds)]
        memory_before = its.memory()
        its.write([time.time() + _HOUR] * plan.later)
        with_them = [its.drain(plan.drained) for _ in range(plan.rounds)]
        memory_with = its.memory()
        late, missing = its.falls_due(plan.due, plan.window)
        gone = plan.later - int(cluster.redis.zcard(keys.delayed(QUEUE)))
        return Report(
            plan, before, with_them, memory_before, memory_with, late, missing + max(0, gone)
        )


class _Delayed:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        app = cluster.application(cluster.url)
        self._work = app.tasks["chaos.operations.work"]
        self._pool = Pool("chaos", app=app)
        self._process = psutil.Process(cluster.nodes[0].popen.pid)
        self.drain(1)

    def drain(self, number: int) -> float:
        """Return how many operations of a full queue started a second."""
        runs, node = self._cluster.runs, self._cluster.nodes[0]
        expected = runs.count() + number
        node.send(signal.SIGSTOP)  # for less than its lease: the sender takes no time from it
        try:
            for result in self._pool.submit_many(self._work, [()] * number):
                result.forget()
        finally:
            begun = time.time()
            node.send(signal.SIGCONT)
        wait_until(lambda: runs.count() >= expected, "the queue is drained", _GIVE_UP)
        return number / (runs.since(begun)[-1].at - begun)

    def memory(self) -> float:
        """Return MB of the node and its workers that are theirs alone."""
        family = [self._process, *self._process.children(recursive=True)]
        return float(sum(process.memory_full_info().uss for process in family)) / 1e6

    def write(self, due: Sequence[float]) -> dict[str, float]:
        """Write delayed operations; return their ids and times.

        Args:
            due: When each is due, in seconds since the epoch.
        """
        server = self._cluster.redis
        template = self._work.apply_async(countdown=_HOUR)
        entry = server.hget(keys.delayed_messages(QUEUE), template.id).decode()
        headers = json.loads(entry[1:])["headers"]
        # The id and the time in the text, each with its replacement for another operation.
        of_it = (template.id, f'"{headers["eta"]}"', f'"published_at": {headers["published_at"]}')
        text = entry
        for place, old in enumerate(of_it):
            text = text.replace(old, f"<{place}>")
        written: dict[str, float] = {}
        for first in range(0, len(due), _AT_ONCE):
            messages, times = {}, {}
            for at in due[first : first + _AT_ONCE]:
                identifier = str(uuid4())
                eta = datetime.fromtimestamp(at, UTC).isoformat()
                message = text.replace("<0>", identifier).replace("<1>", f'"{eta}"')
                messages[identifier] = message.replace("<2>", f'"published_at": {at}')
                times[identifier] = int(at * 1000)
                written[identifier] = at
            with server.pipeline() as pipeline:
                pipeline.hset(keys.delayed_messages(QUEUE), mapping=messages)
                pipeline.zadd(keys.delayed(QUEUE), times)
                pipeline.execute()
        template.revoke()
        return written

    def falls_due(self, number: int, window: float) -> tuple[float, int]:
        """Have operations fall due; return how late the latest started, and how many did not."""
        begin = time.time() + _WRITE_SECONDS * number
        due = self.write([begin + window * place / number for place in range(number)])
        runs = self._cluster.runs
        expected = runs.count() + number
        wait_until(lambda: runs.count() >= expected, "what is due has started", _GIVE_UP)
        started = {start.operation: start.at for start in runs if start.operation in due}
        late = max(at - due[identifier] for identifier, at in started.items())
        return late, number - len(started)
