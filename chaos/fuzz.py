"""Push hostile messages with good ones between them, and account for both."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from chaos.accounting import delayed_messages
from chaos.cluster import QUEUE, Cluster
from chaos.mutations import mutate, oversized
from chaos.operations import noted
from pooltasks import keys
from pooltasks.broker.validation import read_operation
from pooltasks.keys import CONTROL_POOL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

_SHOWN = 5
"""Findings that are printed as text."""
_SAMPLES = keys.queue(CONTROL_POOL)
_GOOD_EVERY = 10
_OVERSIZED_EVERY = 2500
_PATIENCE = 15.0
_LOOK_INTERVAL = 0.1
_BATCH = 500
_READY = ("SUCCESS", "FAILURE", "REVOKED")


class Findings(NamedTuple):
    """The messages, counted by their ends."""

    hostile: int
    good: int
    dead: int
    ended: int
    """Hostile ones that are operations all the same, and have a result."""
    ran: int
    """Hostile ones that ran and leave no result."""
    scheduled: int
    """Hostile ones that are held until they are due."""
    unaccounted: list[bytes]
    good_unfinished: int
    node_deaths: int

    @property
    def holds(self) -> bool:
        """Whether nothing is missing and no node died."""
        return not (self.unaccounted or self.good_unfinished or self.node_deaths)

    def lines(self) -> list[str]:
        """Return the results as text, with the first messages that are missing."""
        missing = [message.decode(errors="backslashreplace") for message in self.unaccounted]
        return [
            (
                f"{self.hostile} hostile messages: {self.dead} dead letters, "
                f"{self.ended} operations with a result, {self.ran} that ran and leave none, "
                f"{self.scheduled} held for later, {len(missing)} unaccounted; "
                f"{self.good} good ones between them, {self.good_unfinished} unfinished; "
                f"{self.node_deaths} nodes died"
            ),
            *missing[:_SHOWN],
        ]


def fuzz(folder: Path, messages: int, seed: int) -> Findings:
    """Push ``messages`` hostile messages to a deployment of two nodes in ``folder``."""
    chance = random.Random(seed)  # noqa: S311  repeatable
    with Cluster(folder, nodes=2, operation_timeout=5, control=False) as cluster:
        samples = _samples(cluster)
        hostile, good = [], []
        for number in range(messages):
            message = _with_new_id(chance.choice(samples))
            if number % _OVERSIZED_EVERY == _OVERSIZED_EVERY // 5:
                hostile.append(oversized(message))
            else:
                hostile.append(mutate(chance, message))
            if number % _GOOD_EVERY == 0:
                good.append(_with_new_id(samples[0]))
                cluster.redis.lpush(QUEUE, good[-1])
            cluster.redis.lpush(QUEUE, hostile[-1])
        return _findings(cluster, hostile, good)


def _samples(cluster: Cluster) -> list[bytes]:
    """Return real messages, one of each kind: from a queue that nobody consumes here."""
    app = cluster.application(cluster.url)
    work = app.tasks["chaos.operations.work"]
    finish = work.s("finish")
    for options in (
        {},
        {"countdown": 0.1},
        {"expires": 60},
        {"time_limit": 3, "soft_time_limit": 2},
        {"link": finish, "link_error": work.si("finish")},
        {"chain": [finish]},
        {"chord": work.si("finish"), "group_id": "g", "group_index": 0},
        {"ignore_result": True},
        {"headers": {"color": "red"}, "priority": 3},
    ):
        work.apply_async(("finish",), queue=_SAMPLES, **options)
    found: list[bytes] = [*reversed(cluster.redis.lrange(_SAMPLES, 0, -1))]
    found += delayed_messages(cluster.redis, _SAMPLES)
    return [message.replace(_SAMPLES.encode(), QUEUE.encode()) for message in found]


def _with_new_id(message: bytes) -> bytes:
    document = json.loads(message)
    document["headers"]["id"] = document["headers"]["root_id"] = str(uuid4())
    return json.dumps(document).encode()


def _findings(cluster: Cluster, hostile: Sequence[bytes], good: Sequence[bytes]) -> Findings:
    seen, since = -1, time.monotonic()
    while (left := int(cluster.redis.llen(QUEUE))) and time.monotonic() - since < _PATIENCE:
        if left != seen:
            seen, since = left, time.monotonic()
        time.sleep(0.1)
    identifiers = [str(json.loads(message)["headers"]["id"]) for message in good]
    finished: set[str] = set()

    def all_finished() -> bool:
        finished.update(_with_result(cluster.redis, set(identifiers) - finished))
        return len(finished) == len(identifiers)

    _wait(all_finished, lambda: len(identifiers) - len(finished))
    open_ones = _Open(cluster, hostile)
    _wait(open_ones.none_is_left, lambda: len(open_ones.left))
    return Findings(
        len(hostile),
        len(good),
        open_ones.dead,
        open_ones.ended,
        open_ones.ran,
        open_ones.scheduled,
        open_ones.left,
        len(identifiers) - len(finished),
        cluster.restarts,
    )


def _wait(is_over: Callable[[], bool], left: Callable[[], int]) -> None:
    """Wait until it is over, or ``left`` has not fallen for a while: the rest is the finding."""
    seen, since = left(), time.monotonic()
    while not is_over() and time.monotonic() - since < _PATIENCE:
        if left() != seen:
            seen, since = left(), time.monotonic()
        time.sleep(_LOOK_INTERVAL)


class _Open:
    """The hostile messages whose end is not known yet."""

    def __init__(self, cluster: Cluster, hostile: Sequence[bytes]) -> None:
        self._cluster = cluster
        self.left = [*hostile]
        self.dead = self.ended = self.ran = self.scheduled = 0

    def none_is_left(self) -> bool:
        """Look once more."""
        server = self._cluster.redis
        dead = set(server.hvals(keys.dead_messages(QUEUE)))
        with_result = _with_result(server, {*filter(None, map(_identifier, self.left))})
        started = {start.operation for start in self._cluster.runs}
        held = set(delayed_messages(server, QUEUE))
        left, self.left, self.scheduled = self.left, [], 0
        for message in left:
            identifier = _identifier(message)
            if message in dead:
                self.dead += 1
            elif identifier in with_result:
                self.ended += 1
            elif identifier is not None and noted(identifier) in started:
                self.ran += 1
            elif message in held and _is_for_later(message):
                self.scheduled += 1
            else:
                self.left.append(message)
        return not self.left


def _is_for_later(message: bytes) -> bool:
    return bool(json.loads(message)["headers"].get("eta"))


def _identifier(message: bytes) -> str | None:
    """Return the id of a message that may be an operation."""
    try:
        headers = json.loads(message)["headers"]
        # As Celery 3 sent it, everything is in the body, which may be compressed.
        is_new = "task" in headers or "id" in headers
        identifier = (headers if is_new else read_operation(message)["headers"])["id"]
    except Exception:  # noqa: BLE001  nobody knows all that a hostile one can raise
        return None
    return identifier if isinstance(identifier, str) else None


def _with_result(server: Any, operations: Iterable[str]) -> set[str]:
    """Return which operations have an end."""
    identifiers = [*operations]
    ended = set()
    for place in range(0, len(identifiers), _BATCH):
        batch = identifiers[place : place + _BATCH]
        names = [f"celery-task-meta-{it}".encode(errors="surrogatepass") for it in batch]
        for identifier, result in zip(batch, server.mget(names), strict=True):
            if result is not None and json.loads(result)["status"] in _READY:
                ended.add(identifier)
    return ended
