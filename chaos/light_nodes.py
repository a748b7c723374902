"""Many nodes in one process: ``python -m chaos.light_nodes`` (see ``fleet.py``).

Each has the real intake, session and reservations, and writes the samples of a real
node. A selector takes the place of Celery's event loop. No operation runs: it is
acknowledged as soon as it is taken from the queue.
"""

from __future__ import annotations

import heapq
import json
import os
import resource
import selectors
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.app import PoolApp
from pooltasks.broker.client import impatient_client
from pooltasks.broker.queues import lists_of
from pooltasks.extension import Extension
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.sample import QUIET_SECONDS, Resources, Sample
from pooltasks.metrics.samples import SampleStore
from pooltasks.node.intake.intake import Intake
from pooltasks.node.scoreboard.sampler import seconds_to_next
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pooltasks.node.intake.message import Message

ROOM = 4
"""Operations that a node takes at once."""
POOLS = "fleet{}"
_LONGEST_WAIT = 0.2
_LEAVE_SECONDS = 4.0
_STDIN = 0


@dataclass(order=True)
class _Timer:
    at: float
    number: int
    call: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Do not call."""
        self.call = None


class Loop:
    """A selector with timers."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._timers: list[_Timer] = []
        self._numbers = count()

    def call_at(self, at: float, call: Callable[[], None]) -> _Timer:
        """Call at a moment, in monotonic seconds."""
        timer = _Timer(at, next(self._numbers), call)
        heapq.heappush(self._timers, timer)
        return timer

    def turn(self) -> None:
        """Call the timers that are due, then the readers with data."""
        while self._timers and (
            self._timers[0].call is None or self._timers[0].at <= time.monotonic()
        ):
            call = heapq.heappop(self._timers).call
            if call is not None:
                call()
        wait = self._timers[0].at - time.monotonic() if self._timers else _LONGEST_WAIT
        for key, _ in self.selector.select(max(0.0, min(wait, _LONGEST_WAIT))):
            key.data()


class Hub:
    """The part of Celery's event loop that an intake uses; it ticks when it calls something."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.on_tick: set[Callable[[], None]] = set()

    def _tick(self) -> None:
        for each in [*self.on_tick]:
            each()

    def add_reader(self, fd: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call when data can be read."""

        def readable() -> None:
            call(*arguments)
            self._tick()

        self._loop.selector.register(fd, selectors.EVENT_READ, readable)

    def remove_reader(self, fd: int) -> None:
        """Do not call any more."""
        self._loop.selector.unregister(fd)

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> _Timer:
        """Call after some seconds."""

        def due() -> None:
            call(*arguments)
            self._tick()

        return self._loop.call_at(time.monotonic() + seconds, due)


class LightNode:
    """One node.

    Args:
        loop: That of its process.
        app: The application; nodes of a process share it.
        pool: Its pool.
        name: Its name.
        room: Operations that it takes at once.
        finishes: Whether it acknowledges an operation at once; else it keeps it.
    """

    def __init__(  # noqa: PLR0917  each is another thing
        self, loop: Loop, app: PoolApp, pool: str, name: str, room: int, finishes: bool
    ) -> None:
        self.pool, self.name = pool, name
        self.is_open = True
        self.deaths = 0
        self.taken: list[tuple[str, float]] = []
        """Ids of the operations that it took, and when (seconds since the epoch)."""
        self._room = room
        self._finishes = finishes
        self._hub = Hub(loop)
        settings = app.pooltasks.settings.pool_settings(pool)
        queue = keys.queue(pool)
        self.intake = Intake(app, queue, settings, lambda: room if self.is_open else 0, ())
        self.intake.on_lost = self._died
        self.intake.on_message = self._take
        self.intake.session.open()
        self.intake.start(self._hub)
        lists = lists_of(app, queue)
        self._store = SampleStore(impatient_client(app), pool, lists, settings.objective)
        self._number = 0
        self._clock = app.pooltasks.clock
        self._sample()

    def _died(self) -> None:
        self.deaths += 1

    def _take(self, message: Message) -> None:
        self.taken.append((message.headers["id"], time.time()))
        if self._finishes:
            message.ack()

    def _sample(self) -> None:
        sample = Sample(
            number=self._number,
            interval=QUIET_SECONDS,
            size=self._room,
            warm=self._room,
            busy=0,
            reserved=len(self.intake.reservations.held),
            reserved_age=0.0,
            counts=Counts(process=float(self._room)),
            room=16,
            resources=Resources(0.004, 0.001, 60_000_000, 200_000_000, 150_000_000),
        )
        call = self._store.write_call(f"{self.name}/0000", sample)
        self.intake.sender.sample(*call, self._sampled, self._sampled)
        # No operation runs for long, and so no real node would write each second.
        delay = seconds_to_next(self._clock.now(), 1.0) + QUIET_SECONDS - 1.0
        self._timer = self._hub.call_later(delay, self._sample)

    def _sampled(self, _: Any) -> None:
        self._number += 1

    def leave(self) -> None:
        """Stop like a node that gets SIGTERM."""
        self._timer.cancel()
        self.intake.stop()
        self.intake.leave(_LEAVE_SECONDS)


class Fleet:
    """The nodes of this process, and the commands for them."""

    def __init__(self, url: str, pools: int) -> None:
        self._loop = Loop()
        self._app = PoolApp("pooltasks", set_as_current=False)
        settings = Settings.load(
            redis_url=url, pools={POOLS.format(number): {} for number in range(pools)}
        )
        self._app._extension = Extension(settings)  # noqa: SLF001  not those of this process
        self._app.finalize()
        self._nodes: list[LightNode] = []
        self._deaths = 0
        self._taken_before_they_left: list[tuple[str, str, float]] = []
        self._is_open = True
        self._heard = b""
        self._hears = True

    def run(self) -> None:
        """Serve until the end of the standard input; one line of JSON is one command."""
        self._loop.selector.register(_STDIN, selectors.EVENT_READ, self._hear)
        while self._hears:
            self._loop.turn()
        for node in self._nodes:
            node.leave()

    def _hear(self) -> None:
        heard = os.read(_STDIN, 65536)
        self._hears = bool(heard)
        self._heard += heard
        while b"\n" in self._heard:
            line, _, self._heard = self._heard.partition(b"\n")
            name, *arguments = json.loads(line)
            print(json.dumps(getattr(self, f"do_{name}")(*arguments)), flush=True)

    def do_join(self, nodes: Sequence[tuple[str, str]], room: int, finishes: bool) -> int:
        """Start nodes: their pools and names. Return how many there are."""
        for pool, name in nodes:
            node = LightNode(self._loop, self._app, pool, name, room, finishes)
            node.is_open = self._is_open
            self._nodes.append(node)
            self._loop.turn()  # the others go on meanwhile
        return len(self._nodes)

    def do_leave(self, number: int) -> int:
        """Have the oldest nodes leave. Return how many there are."""
        for node in self._nodes[:number]:
            node.leave()
            self._deaths += node.deaths
            self._taken_before_they_left += [(node.name, *each) for each in node.taken]
        del self._nodes[:number]
        return len(self._nodes)

    def do_open(self, is_open: bool) -> bool:
        """Have all nodes take operations, or none."""
        self._is_open = is_open
        for node in self._nodes:
            node.is_open = is_open
            node.intake.turn()
        return is_open

    def do_taken(self) -> list[tuple[str, str, float]]:
        """Return the operations taken since the last question: node, operation, time."""
        found, self._taken_before_they_left = self._taken_before_they_left, []
        for node in self._nodes:
            found += [(node.name, *each) for each in node.taken]
            node.taken.clear()
        return found

    def do_names(self) -> list[str]:
        """Return the names of the nodes."""
        return [node.name for node in self._nodes]

    def do_held(self) -> int:
        """Return how many operations the nodes hold."""
        return sum(len(node.intake.reservations.held) for node in self._nodes)

    def do_deaths(self) -> int:
        """Return how often a node was taken for dead."""
        return self._deaths + sum(node.deaths for node in self._nodes)

    def do_cpu(self) -> float:
        """Return the processor seconds of this process."""
        return sum(os.times()[:2])


def main() -> None:
    """Serve the nodes that the standard input asks for."""
    url, pools = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Fleet(url, int(pools)).run()


if __name__ == "__main__":
    main()
