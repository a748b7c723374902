"""What a node stores of itself fits the memory that it may take."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import redis

from pooltasks import keys
from pooltasks.app import Extension, PoolApp
from pooltasks.metrics.samples import HISTORY
from pooltasks.node.scoreboard.notes import ended
from pooltasks.node.scoreboard.sampler import Sampler, Workforce
from pooltasks.node.scoreboard.scoreboard import Scoreboard
from pooltasks.settings import Settings
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    import pytest


def test_an_hour_of_four_busy_nodes_takes_less_than_twenty_megabytes(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLTASKS_REDIS_URL", valkey_url)
    app = PoolApp("test", set_as_current=False)
    app._extension = Extension(Settings.load(), pool="code")
    board = Scoreboard()
    rows = [board.row(index) for index in range(4)]
    sampler = Sampler(
        app, "code", "node", board, lambda: Workforce(4, 4, 0, 0, 0, ()), room=lambda _: 8
    )
    source = random.Random(5)
    seconds = 300
    for _ in range(seconds):
        # 300 operations of 40 kinds, each a little different.
        for number in range(300):
            row, name = rows[number % 4], f"workers.code.operation_{source.randrange(40)}"
            run = source.expovariate(1 / 0.1)
            row.start(name, source.expovariate(1 / 0.02), time.monotonic())
            latency = run + source.expovariate(1 / 0.02)
            row.finish(name, ended(Outcome.SUCCESS), run, latency, time.monotonic())
        sampler.sample()

    with redis.Redis.from_url(valkey_url) as client:
        streams = [
            keys.node_samples("code", sampler.node),
            keys.node_operations("code", sampler.node),
        ]
        sizes = [client.memory_usage(stream, samples=0) for stream in streams]
        counted = sum(
            counts.finished
            for _, record in sampler._store.read_operations([sampler.node], 0)
            for counts in record.counts.values()
        )
        client.flushdb()
    assert 4 * sum(sizes) * HISTORY / seconds < 20e6
    # Nothing is left out, it only comes later.
    later = sum(counts.finished for counts in sampler._operations.values())
    assert counted + later == 300 * seconds
    assert later < counted / 3
