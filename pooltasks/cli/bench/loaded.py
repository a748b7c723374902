"""A pool under load: what a scenario runs on, and what it finds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pooltasks.cli.bench.load import Load
from pooltasks.cli.bench.victims import Victims
from pooltasks.cli.bench.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pooltasks.cli.bench.victims import Nodes
    from pooltasks.cli.bench.watch import Look
    from pooltasks.cli.calls import Call
    from pooltasks.pools import Pool

_TELLS = 12
"""Lines of progress of a load."""


@dataclass(frozen=True)
class Subject:
    """A pool that runs, and the load that a scenario is to put on it."""

    pool: Pool
    nodes: Nodes
    """The status of each of its nodes."""
    call: Call
    rate: float
    """Operations a second."""
    seconds: int
    """That count."""
    settle: int
    """Seconds of the load before those."""
    tell: Callable[[str], None]
    """Takes a line of progress."""
    kills: int = 0
    """Workers to kill."""
    node_kills: int = 0
    """Nodes to kill."""
    peak: float | None = None
    """Operations a second at which the throughput is judged; None: those of ``rate``."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Ids of other processes that belong to the deployment, by name."""


@dataclass(frozen=True)
class Loaded:
    """A load that was put on a pool, and what was seen meanwhile."""

    load: Load
    looks: Sequence[Look]
    victims: Victims
    node_deaths: tuple[float, ...]
    """Seconds from the death of each node until all that was on its way had been answered."""
    worker_deaths: tuple[float, ...]
    """The same of each worker."""

    def within(self, first: float, end: float) -> list[Look]:
        """Return the looks between two of the seconds that count."""
        return [look for look in self.looks if first <= self.load.passed(look.at) < end]


def put(
    subject: Subject,
    *,
    factors: Sequence[float] = (1.0,),
    seconds: int | None = None,
    every: float = 1.0,
    processes: bool = False,
) -> Loaded:
    """Put a load on the pool, and kill what is to be killed meanwhile.

    Args:
        subject: The pool.
        factors: Of the rate, as :class:`Load` has them.
        seconds: By default the subject's.
        every: Seconds between looks at the pool.
        processes: Whether these look at processes and at the server, too.

    Raises:
        redis.RedisError: The server failed.
    """
    seconds = seconds or subject.seconds
    load = Load(subject.pool, subject.call, subject.rate, seconds, subject.settle, factors)
    watch = Watch(subject.pool, subject.nodes, every, processes=processes, beside=subject.beside)
    victims = Victims(lambda: watch.nodes)
    deaths: list[tuple[bool, int]] = []  # of a node or of a worker, and the load's mark

    def kill(*, node: bool) -> None:
        load.mark()  # before: what is answered in between was on its way, too
        if victims.kill_node() if node else victims.kill_worker():
            deaths.append((node, len(load.marks) - 1))

    at: list[tuple[float, Callable[[], Any]]] = [
        *((second, partial(kill, node=False)) for second in _spread(subject.kills, seconds)),
        *((second, partial(kill, node=True)) for second in _spread(subject.node_kills, seconds)),
        *(
            (second, partial(_tell, subject, load))
            for second in _spread(min(_TELLS, seconds), seconds)
        ),
    ]
    watch.start()
    try:
        load.run(at=at)
    finally:
        watch.close()
    found = [(node, load.marks[place].longest) for node, place in deaths]
    return Loaded(
        load=load,
        looks=watch.looks,
        victims=victims,
        node_deaths=tuple(longest for node, longest in found if node),
        worker_deaths=tuple(longest for node, longest in found if not node),
    )


def _spread(number: int, seconds: float) -> list[float]:
    """Return ``number`` moments, evenly spread."""
    return [seconds / (number + 1) * place for place in range(1, number + 1)]


def _tell(subject: Subject, load: Load) -> None:
    second = round(load.passed(time.monotonic()))
    latency = load.whole.latency.quantile(0.99)
    shown = "–" if latency is None else f"{latency * 1e3:.1f} ms"
    subject.tell(
        f"  {second} of {load.seconds:g} s: {load.whole.sent} sent, "
        f"{load.whole.answered} answered, p99 {shown}"
    )
