"""Unique operations from producers of every kind, while nodes and workers are killed."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from chaos.accounting import Account, settle
from chaos.cluster import QUEUE
from chaos.keyed import Killer, by_key, cluster_with_notes, most_at_once, read
from chaos.reporting import counted
from pooltasks import keys as names
from pooltasks.broker.uniqueness import HEADER
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from chaos.cluster import Cluster
    from chaos.keyed import KeyedRun

_PATIENCE = 20.0
_TOGETHER = 10
"""Calls of one submission, or of one turn of the event loop."""
_LONGEST_RUN = 0.02
_LOOK_SECONDS = 0.05
# All that waits or is reserved, at one moment.
_ALL = """
local found = redis.call('LRANGE', KEYS[1], 0, -1)
for _, identity in ipairs(redis.call('HKEYS', KEYS[2])) do
  for _, entry in ipairs(redis.call('HVALS', ARGV[1] .. identity)) do
    found[#found + 1] = string.sub(entry, 3)
  end
  for _, message in ipairs(redis.call('LRANGE', ARGV[2] .. identity, 0, -1)) do
    found[#found + 1] = message
  end
end
return found
"""


class Report(NamedTuple):
    """What producers were told, and what the operations' own notes and the server say."""

    account: Account
    happened: Counter[str]
    calls: int
    duplicates: int
    """Calls that got the result of another one."""
    rerun: int
    """Runs beyond the first of an operation."""
    together: int
    """Keys of which two operations ran at the same moment."""
    too_soon: int
    """Operations that were accepted before the one before with their key had ended."""
    seen_together: int
    """Operations that waited or were reserved beside another one with their key."""
    looks: int
    """Times that somebody looked for these at the server."""
    foreign: int
    """Calls that got the result of an operation which nobody has submitted."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether no two with the same key ever waited or ran, and none was lost."""
        return (
            self.account.is_whole
            and self.account.done == self.account.accepted
            and not (self.together or self.too_soon or self.seen_together or self.foreign)
        )

    def lines(self) -> list[str]:
        """Return the results as text."""
        its = self.account
        return [
            f"{counted(self.happened)}; {self.calls} calls; {self.seconds:.0f} s",
            (
                f"{its.accepted} accepted: {its.done} done; "
                f"{self.duplicates} got the result of another call; {self.rerun} ran again after a "
                f"death; {self.together} ran together with another one, {self.too_soon} were "
                f"accepted before the one before had ended; {self.seen_together} seen together at "
                f"the server in {self.looks} looks"
            ),
        ]


class _Call(NamedTuple):
    id: str
    is_duplicate: bool
    answered: float
    """When its producer had the answer, in monotonic seconds."""


class _Producers:
    """A thread, a thread that submits many at once, and an event loop."""

    def __init__(self, cluster: Cluster, calls: int, keys: int, seconds: float, seed: int) -> None:
        app = cluster.application(cluster.url)
        self._once = app.tasks["chaos.keyed_operations.once"]
        self._pool = Pool("chaos", app=app)
        self._each = calls // 3
        self._pause = seconds * _TOGETHER / self._each
        self._arguments = (keys, seed)
        self.calls: list[_Call] = []
        self.errors: list[BaseException] = []

    def run(self) -> None:
        """Make all calls; return when they are answered.

        Raises:
            ExceptionGroup: A call has failed.
        """
        actions = (self._delay, self._submit_many, lambda: asyncio.run(self._await()))
        threads = [threading.Thread(target=self._tried, args=(action,)) for action in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise BaseExceptionGroup("calls of unique operations failed", self.errors)

    def _tried(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  raised again in run()
            self.errors.append(error)

    def _chunks(self, number: int) -> list[list[tuple[str, float]]]:
        keys, seed = self._arguments
        chance = random.Random(f"{seed}:{number}")  # noqa: S311  repeatable
        some = [
            (f"key-{chance.randrange(keys)}", chance.uniform(0.0, _LONGEST_RUN))
            for _ in range(self._each)
        ]
        return [some[at : at + _TOGETHER] for at in range(0, len(some), _TOGETHER)]

    def _note(self, results: Sequence[Any]) -> None:
        now = time.monotonic()
        self.calls.extend(_Call(each.id, each.is_duplicate, now) for each in results)

    def _delay(self) -> None:
        for chunk in self._chunks(1):
            for call in chunk:
                self._note([self._once.delay(*call)])
            time.sleep(self._pause)

    def _submit_many(self) -> None:
        for chunk in self._chunks(2):
            self._note(self._pool.submit_many(self._once, chunk))
            time.sleep(self._pause)

    async def _await(self) -> None:
        async def call(its: tuple[str, float]) -> None:
            self._note([await self._once.adelay(*its)])

        for number, chunk in enumerate(self._chunks(3)):
            calls: Sequence[Awaitable[None]] = [call(its) for its in chunk]
            if number % 2:
                await asyncio.gather(*calls)
            else:
                for each in calls:
                    await each
            await asyncio.sleep(self._pause)


class _Onlooker:
    """Looks at the server for operations with the same key while it is entered."""

    def __init__(self, cluster: Cluster) -> None:
        self._redis = cluster.redis
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.looks = 0
        self.together = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        places = (names.unacked(QUEUE, ""), names.incoming(QUEUE, ""))
        while not self._stopping.wait(_LOOK_SECONDS):
            found = self._redis.eval(_ALL, 2, QUEUE, names.unacked_index(QUEUE), *places)
            headers = [json.loads(message)["headers"] for message in found]
            digests = Counter(its[HEADER][0] for its in headers)
            self.together += sum(number - 1 for number in digests.values())
            self.looks += 1


def unique(
    folder: Path,
    *,
    calls: int,
    keys: int,
    seconds: float,
    node_kills: int,
    worker_kills: int,
    seed: int,
) -> Report:
    """Make ``calls`` calls of so many keys over ``seconds``, while nodes and workers die."""
    begun = time.monotonic()
    with cluster_with_notes(folder) as (cluster, notes):
        producers = _Producers(cluster, calls, keys, seconds, seed)
        killer = Killer(cluster, nodes=node_kills, workers=worker_kills, seconds=seconds, seed=seed)
        with _Onlooker(cluster) as onlooker, killer:
            producers.run()
            accepted = {call.id for call in producers.calls if not call.is_duplicate}
            account = settle(cluster, accepted, _PATIENCE)
    runs = read(notes, killer.deaths)
    account.repeated = len(runs) - len({run.operation for run in runs})
    told = [call for call in producers.calls if call.is_duplicate]
    return Report(
        account,
        killer.happened,
        len(producers.calls),
        len(told),
        account.repeated,
        sum(most_at_once(its) > 1 for its in by_key(runs).values()),
        _too_soon(runs, producers.calls),
        onlooker.together,
        onlooker.looks,
        sum(call.id not in accepted for call in told),
        time.monotonic() - begun,
    )


def _too_soon(runs: Sequence[KeyedRun], calls: Sequence[_Call]) -> int:
    """Return how many operations were accepted before the one before with their key had ended."""
    answered = {call.id: call.answered for call in calls if not call.is_duplicate}
    too_soon = 0
    for its in by_key(runs).values():
        last_end: dict[str, float] = {}
        for run in its:  # in the order of their first starts
            last_end[run.operation] = max(run.end, last_end.get(run.operation, 0.0))
        too_soon += sum(answered[after] < last_end[before] for before, after in pairwise(last_end))
    return too_soon
