"""Traffic: what operations cost that come one by one, as real ones do, and how long they take.

Drained, a queue's work is done for many operations at once. Here they come at the times of a
Poisson process, beside stock Celery and other queues. A latency is from when an operation was
meant to be sent until it has run; the operation itself notes it, in the same way everywhere.
"""

from __future__ import annotations

import struct
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.measure import BrokenRoundError, Producer, processes, running
from benchmarks.system import LATENCIES_VARIABLE, PROCESSES_VARIABLE
from benchmarks.telemetry import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import redis

    from benchmarks.measure import Candidate

_LEAD: Final = 2.0  # seconds of the load before those that count
_REST: Final = 3.0  # seconds after the start that an idle system has to itself
_IDLE: Final = 10.0  # seconds for which it is measured idle
_PATIENCE: Final = 20.0  # seconds for the last operations
_LOOK: Final = 0.05
_SEED: Final = 1


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
            for load in loads:
                _offer(producer, load._replace(seconds=_LEAD), latencies)
                before = _Cpu.now(parents, server_pid)
                sent, cpu, late, seen = _offer(producer, load, latencies)
                used = _Cpu.now(parents, server_pid).since(before)
                parent, its_workers, its_server = (1000 * its / sent for its in used)
                yield Cost(
                    candidate.name,
                    load.rate,
                    load.run,
                    producer=1000 * cpu / sent,
                    parent=parent,
                    workers=its_workers,
                    server=its_server,
                    idle=idle,
                    p50=seen[len(seen) // 2],
                    p99=seen[len(seen) * 99 // 100],
                    p999=seen[len(seen) * 999 // 1000],
                    sender_late=late,
                )


def _offer(producer: Producer, load: Load, folder: Path) -> tuple[int, float, float, list[float]]:
    """Have a load sent; return how many, the CPU time, how late, and the latencies in order."""
    for file in folder.iterdir():
        file.unlink()
    sent, cpu, late = producer.ask("offer", [load.rate, load.seconds, load.run, _SEED])
    deadline = time.monotonic() + _PATIENCE
    while len(seen := _read(folder)) < sent:
        if time.monotonic() > deadline:
            raise BrokenRoundError(f"{len(seen)} of {sent} operations have run")
        time.sleep(_LOOK)
    return sent, cpu, late, sorted(seen)


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
