"""The scenario ``memory``: what a worker, a node and a waiting operation need."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import click

from pooltasks import remote
from pooltasks.broker.client import redis_client
from pooltasks.broker.queues import waiting_in
from pooltasks.cli.bench.load import Listener
from pooltasks.cli.bench.loaded import put
from pooltasks.cli.bench.picture import Chart, of_the_load
from pooltasks.cli.bench.report import Report
from pooltasks.cli.bench.watch import look, nodes_of
from pooltasks.metrics.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pooltasks.cli.bench.loaded import Subject
    from pooltasks.cli.bench.victims import Nodes
    from pooltasks.cli.bench.watch import Look

_MB = 1e6
_WORKER = 50.0
"""Megabytes, of the requirements document: "Python process RSS"."""
_MORE = 8
"""Workers that the pool grows by at the most: a host may have no room for all that it may have."""
_STEPS = 4
"""Sizes of the pool that are measured."""
_WAITING = 1000
"""Operations that wait, to see what the server needs for one."""
_PATIENCE = 60.0
"""Seconds for a new size to be warm, and for what waited to be answered."""
_LOOK = 0.1


@dataclass(frozen=True)
class Memory:
    """The pool's memory at one size, in megabytes."""

    workers: int
    """Workers on this host."""
    worker_rss: float
    """RSS of the largest worker."""
    worker_pss: float
    """PSS of a worker, on average."""
    worker_uss: float
    """USS of a worker, on average."""
    node_rss: float
    """RSS of the largest node."""
    node_pss: float
    """PSS of the largest node."""
    whole: float
    """All nodes and workers; what they share is counted once."""

    @classmethod
    def of(cls, its: Look) -> Memory:
        """Return the memory of one look at the processes."""
        return cls(
            workers=len(its.workers),
            worker_rss=max(worker.rss for worker in its.workers) / _MB,
            worker_pss=_mean([worker.pss for worker in its.workers]),
            worker_uss=_mean([worker.uss for worker in its.workers]),
            node_rss=max(node.rss for node in its.nodes) / _MB,
            node_pss=max(node.pss for node in its.nodes) / _MB,
            whole=sum(process.pss for process in (*its.nodes, *its.workers)) / _MB,
        )


def memory(subject: Subject) -> Report:
    """Grow the pool step by step under load, and measure its processes each time."""
    before = sum(its["size"] for its in subject.nodes.values())
    seconds = max(1, subject.seconds // _STEPS)
    found = []
    with _optimizer_paused(subject):
        try:
            for size in _sizes(subject.nodes):
                subject.tell(f"{size} workers")
                nodes = _resized(subject, size)
                loaded = put(replace(subject, nodes=nodes, seconds=seconds, settle=0))
                its = look(subject.pool, nodes, subject.beside)
                if not its.workers:
                    raise click.ClickException("No worker of the pool is on this host.")
                found.append(Memory.of(its))
        finally:
            _resized(subject, before)
    waiting = _of_a_waiting_operation(subject)
    last, first = found[-1], found[0]
    more = last.workers - first.workers
    return Report(
        loaded,
        [
            Goal("memory of a worker, resident (RSS), largest", last.worker_rss, "MB", _WORKER),
            Goal("memory of a worker, its share (PSS)", last.worker_pss, "MB"),
            Goal("memory of a worker, its own (USS)", last.worker_uss, "MB"),
            Goal(
                "memory that one more worker takes",
                (last.whole - first.whole) / more if more else None,
                "MB",
            ),
            Goal("memory of a node, resident (RSS), largest", last.node_rss, "MB"),
            Goal("memory of a node, its share (PSS)", last.node_pss, "MB"),
            Goal("memory of the server, a waiting operation", waiting, "bytes"),
        ],
        [_chart(found), *of_the_load(loaded)],
        notes=[_in_words(its) for its in found],
        figures={"sizes": [asdict(its) for its in found]},
    )


def _sizes(nodes: Nodes) -> list[int]:
    """Return the sizes to measure, from the smallest that the nodes allow upwards."""
    low, high, size = (
        sum(its[name] for its in nodes.values()) for name in ("floor", "ceiling", "size")
    )
    high = min(high, size + _MORE)
    return sorted({low + round((high - low) * step / (_STEPS - 1)) for step in range(_STEPS)})


@contextmanager
def _optimizer_paused(subject: Subject) -> Iterator[None]:
    decisions = subject.pool.decisions()
    is_paused = decisions.paused() is not None
    if not is_paused:
        decisions.pause(_STEPS * (subject.seconds + _PATIENCE))
    try:
        yield
    finally:
        if not is_paused:
            decisions.resume()


def _resized(subject: Subject, size: int) -> Nodes:
    """Give the pool a size; return its nodes when all workers are warm, and no other is left."""
    app = subject.pool.app
    for name, share in remote.split(size, subject.nodes).items():
        remote.ask(app, "pool_resize", [name], size=share)
    nodes: Nodes = {}

    def is_warm() -> bool:
        nonlocal nodes
        nodes = nodes_of(subject.pool, remote.ask(app, "pool_status", list(subject.nodes)))
        warm = sum(its["warm"] for its in nodes.values())
        # Those that are too many end when they have finished.
        all_of_them = sum(len(its["workers"]) - its["spares"] for its in nodes.values())
        return bool(warm == all_of_them == size)

    _wait_until(is_warm, f"{size} workers were not warm")
    return nodes


def _of_a_waiting_operation(subject: Subject) -> float | None:
    """Return the bytes of the server for an operation in the queue; None if it holds none there.

    The nodes take none meanwhile.
    """
    pool = subject.pool
    limit = pool.settings.max_queue
    number = _WAITING if limit is None else min(_WAITING, limit)
    listener = Listener(pool)
    listener.start()
    names = list(subject.nodes)
    try:
        remote.ask(pool.app, "pool_drain", names)
        try:
            for _ in range(number):
                call = subject.call
                its = pool.submit(call.operation, call.args, call.kwargs)
                listener.expect(its.id, time.monotonic(), lambda *_: None)
            size, length = _queue(subject)
        finally:
            remote.ask(pool.app, "pool_drain", names, undo=True)
        _wait_until(lambda: not listener.outstanding, "what had waited was not answered")
    finally:
        listener.close()
    return size / length if length else None


def _queue(subject: Subject) -> tuple[int, int]:
    """Return the bytes of the pool's queue, and its length."""
    client = redis_client(subject.pool.app)
    lists = waiting_in(subject.pool.app, subject.pool.queue)
    sizes = [client.memory_usage(name, samples=0) or 0 for name in lists]
    return sum(sizes), sum(int(client.llen(name)) for name in lists)


def _wait_until(reached: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            raise click.ClickException(f"{failure} within {_PATIENCE:g} s.")
        time.sleep(_LOOK)  # between looks


def _chart(found: Sequence[Memory]) -> Chart:
    lines = {
        "largest RSS": [its.worker_rss for its in found],
        "PSS": [its.worker_pss for its in found],
        "USS": [its.worker_uss for its in found],
    }
    return Chart(
        "Memory of a worker, one size of the pool after the other",
        "MB",
        {name: list(enumerate(values)) for name, values in lines.items()},
        _WORKER,
    )


def _in_words(its: Memory) -> str:
    return (
        f"{its.workers} workers: {its.worker_rss:.1f} MB RSS the largest, {its.worker_pss:.1f} MB "
        f"PSS and {its.worker_uss:.1f} MB USS one; all and their nodes {its.whole:.1f} MB"
    )


def _mean(sizes: Sequence[int]) -> float:
    return sum(sizes) / len(sizes) / _MB
