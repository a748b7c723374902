"""Traffic: what operations cost that come one by one, as real ones do, and how long they take.

Drained, a queue's work is done for many operations at once. Here they come at the times of a
Poisson process, beside stock Celery and other queues. A latency is from when an operation was
meant to be sent until it has run; the operation itself notes it, in the same way everywhere.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.measure import BrokenRoundError, Producer, processes, running
from benchmarks.system import LATENCIES_VARIABLE, PROCESSES_VARIABLE
from benchmarks.telemetry import Figure
from pooltasks.cli.bench.picture import Chart, svg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import redis

    from benchmarks.measure import Candidate

_LEAD: Final = 2.0  # seconds of the load before those that count
_REST: Final = 3.0  # seconds after the start that an idle system has to itself
_IDLE: Final = 10.0  # seconds for which it is measured idle
_PATIENCE: Final = 5.0  # seconds for the last operations: who needs longer does not keep up
_CATCHING_UP: Final = 120.0  # seconds for those of a load that was too much
_P50, _P99 = 0.05, 0.1  # seconds, of the requirements document
_LOOK: Final = 0.05
_SEED: Final = 1


class _BehindError(BrokenRoundError):
    """A system does not keep up with a load."""


class Load(NamedTuple):
    """A load."""

    rate: float
    """Operations a second."""
    run: float
    """Seconds that each sleeps."""
    seconds: float
    """That count."""


@dataclass(frozen=True)
class Cost:
    """The measurements of one load on one system; CPU in milliseconds an operation."""

    system: str
    rate: float
    """Operations a second."""
    run: float
    """Seconds that each sleeps."""
    producer: float
    parent: float
    """Of the process that was started, as a node; of several all together."""
    workers: float
    """Of all processes that it has started."""
    server: float
    idle: float
    """Share of a core (0–1) that parents and workers take without a load."""
    p50: float
    """Seconds, as those that follow."""
    p99: float
    p999: float
    sender_late: float
    """Seconds that the sender was late at the most: beyond some milliseconds it measures itself."""

    @property
    def together(self) -> float:
        """CPU milliseconds an operation of all but the producer."""
        return self.parent + self.workers + self.server

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "together": self.together}


class _Cpu(NamedTuple):
    """CPU seconds so far."""

    parents: float
    workers: float
    server: float

    @classmethod
    def now(cls, parents: Sequence[int], server: int) -> _Cpu:
        """Return those of processes, of all that they have started, and of the server."""
        its_parents = its_workers = its_server = 0.0
        for pid, session, seconds in processes():
            if pid == server:
                its_server = seconds
            elif pid in parents:
                its_parents += seconds
            elif session in parents:
                its_workers += seconds
        return cls(its_parents, its_workers, its_server)

    def since(self, before: _Cpu) -> _Cpu:
        """Return what was used since."""
        return _Cpu(*(one - other for one, other in zip(self, before, strict=True)))


def measure(
    candidate: Candidate,
    loads: Sequence[Load],
    *,
    workers: int,
    server: redis.Redis,
    server_pid: int,
    url: str,
    folder: Path,
) -> Iterator[Cost]:
    """Put loads on one system, one after the other; yield what each cost.

    Nothing is yielded of a rate that is too much for it, nor of those that follow with the same
    run.

    Args:
        candidate: The system.
        loads: The loads.
        workers: Worker processes.
        server: Its client, which empties it first.
        server_pid: Its process.
        url: Its address for the system; another one may lead through a proxy.
        folder: For logs and latencies.

    Raises:
        BrokenRoundError: The system did not do its task.
    """
    server.flushall()
    latencies = folder / f"latencies-{candidate.module}"
    latencies.mkdir(exist_ok=True)
    variables = {LATENCIES_VARIABLE: str(latencies), PROCESSES_VARIABLE: str(workers)}
    with Producer(candidate, url, folder, **variables) as producer:
        commands = producer.introduction()["workers"]
        with running(commands, producer.environment, folder) as parents:
            _offer(producer, Load(50.0, 0.0, 1.0), latencies)  # until all processes are warm
            time.sleep(_REST)
            before = _Cpu.now(parents, server_pid)
            time.sleep(_IDLE)  # the time that is measured
            rested = _Cpu.now(parents, server_pid).since(before)
            idle = (rested.parents + rested.workers) / _IDLE
            for _, those in groupby(loads, key=lambda load: load.run):
                for load in those:
                    try:
                        _offer(producer, load._replace(seconds=_LEAD), latencies)
                        before = _Cpu.now(parents, server_pid)
                        offered = _offer(producer, load, latencies)
                    except _BehindError:
                        _offer(producer, Load(50.0, 0.0, 1.0), latencies, _CATCHING_UP)
                        break
                    used = _Cpu.now(parents, server_pid).since(before)
                    yield _cost(candidate.name, load, idle, used, offered)


def _cost(system: str, load: Load, idle: float, used: _Cpu, offered: _Offered) -> Cost:
    sent, cpu, late, seen = offered
    parent, workers, server = (1000 * its / sent for its in used)
    return Cost(
        system,
        load.rate,
        load.run,
        producer=1000 * cpu / sent,
        parent=parent,
        workers=workers,
        server=server,
        idle=idle,
        p50=seen[len(seen) // 2],
        p99=seen[len(seen) * 99 // 100],
        p999=seen[len(seen) * 999 // 1000],
        sender_late=late,
    )


class _Offered(NamedTuple):
    """What was sent, and how it went."""

    sent: int
    cpu: float
    """Seconds of the producer."""
    late: float
    """Seconds that the sender was late at the most."""
    latencies: list[float]
    """Seconds, in order."""


def _offer(producer: Producer, load: Load, folder: Path, patience: float = _PATIENCE) -> _Offered:
    """Have a load sent, and wait until all of it has run."""
    for file in folder.iterdir():
        file.unlink()
    sent, cpu, late = producer.ask("offer", [load.rate, load.seconds, load.run, _SEED])
    deadline = time.monotonic() + patience
    while len(seen := _read(folder)) < sent:
        if time.monotonic() > deadline:
            raise _BehindError(f"{len(seen)} of {sent} operations have run")
        time.sleep(_LOOK)
    return _Offered(sent, cpu, late, sorted(seen))


def _read(folder: Path) -> list[float]:
    data = b"".join(file.read_bytes() for file in folder.iterdir())
    return [latency for (latency,) in struct.iter_unpack("d", data[: len(data) // 8 * 8])]


def table(costs: Sequence[Cost]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield (
        f"{'':<18}{'ops/s':>7}{'run, ms':>9}   {'CPU, ms an operation':<37}{'idle,':>8}"
        "   latency, ms"
    )
    yield (
        f"{'':<34}   {'producer':>8}{'parent':>8}{'workers':>9}{'server':>8}{'sum':>7}"
        f"{'%':>5}{'p50':>9}{'p99':>9}{'p99.9':>9}"
    )
    for its in costs:
        yield (
            f"{its.system:<18}{its.rate:>7g}{1000 * its.run:>9g}   {its.producer:>8.2f}"
            f"{its.parent:>8.2f}{its.workers:>9.2f}{its.server:>8.2f}{its.together:>7.2f}"
            f"{100 * its.idle:>5.1f}{1000 * its.p50:>9.1f}{1000 * its.p99:>9.1f}"
            f"{1000 * its.p999:>9.1f}"
        )


def targets(costs: Sequence[Cost]) -> Iterator[Figure]:
    """Yield ours beside the others', load by load."""
    for ours in costs:
        if ours.system != "pooltasks":
            continue
        load = f"at {ours.rate:g}/s of {1000 * ours.run:g} ms"
        for other in costs:
            if (other.rate, other.run) != (ours.rate, ours.run) or other is ours:
                continue
            yield Figure(f"{load}: CPU ÷ {other.system}", ours.together / other.together, "", 1.0)
            yield Figure(f"{load}: p99 ÷ {other.system}", ours.p99 / other.p99, "", 1.0)


def ceilings(costs: Sequence[Cost]) -> Iterator[str]:
    """Yield the highest rate of each system at which latencies are within the document's bounds."""
    for (system, run), its in groupby(costs, key=lambda cost: (cost.system, cost.run)):
        kept = [cost.rate for cost in its if cost.p50 < _P50 and cost.p99 < _P99]
        most = f"up to {max(kept):g}/s" if kept else "at no rate"
        yield (
            f"{system}: p50 < {1000 * _P50:g} and p99 < {1000 * _P99:g} ms at {1000 * run:g} ms a "
            f"run {most}"
        )


def changes(costs: Sequence[Cost], earlier: Path) -> Iterator[str]:
    """Yield what has changed since an earlier run, as ``--json`` has written it."""
    before = {
        (each["system"], each["rate"], each["run"]): each
        for each in json.loads(earlier.read_text("utf-8"))
    }
    for its in costs:
        was = before.get((its.system, its.rate, its.run))
        if was is not None:
            yield (
                f"{its.system} at {its.rate:g}/s of {1000 * its.run:g} ms: CPU "
                f"{its.together / was['together'] - 1:+.0%}, p50 {its.p50 / was['p50'] - 1:+.0%}, "
                f"p99 {its.p99 / was['p99'] - 1:+.0%}"
            )


def picture(costs: Sequence[Cost]) -> str:
    """Return a picture of CPU and latencies by rate, SVG."""
    charts = []
    for run in sorted({cost.run for cost in costs}):
        for what, values, bound in (
            ("CPU of an operation", [cost.together for cost in costs], None),
            ("Latency, p50", [1000 * cost.p50 for cost in costs], 1000 * _P50),
            ("Latency, p99", [1000 * cost.p99 for cost in costs], 1000 * _P99),
        ):
            # A latency far beyond its bound would flatten the other lines.
            most = float("inf") if bound is None else 2 * bound
            lines: dict[str, list[tuple[float, float]]] = {}
            for cost, value in zip(costs, values, strict=True):
                if cost.run == run:
                    lines.setdefault(cost.system, []).append((cost.rate, min(value, most)))
            title = f"{what}, run {1000 * run:g} ms"
            charts.append(Chart(title, "ms", lines, bound=bound, axis="/s"))
    return svg(charts, max(cost.rate for cost in costs))
