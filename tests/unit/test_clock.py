"""Two hosts whose clocks differ agree on the time, because both use the server's."""

from __future__ import annotations

import itertools
import os
import random
import time
from typing import Any, Self

import pytest
import redis

from pooltasks.ages import waited
from pooltasks.broker import clock as module
from pooltasks.broker.clock import REFRESH, ServerClock, server_now

EPOCH = 1_800_000_000.0


class World:
    """True time, which no host knows; each host has its own."""

    def __init__(self) -> None:
        self.true = 1000.0
        self.host: Host | None = None


class Host:
    """A host whose clock is ``ahead`` and runs ``drift`` too fast."""

    def __init__(self, world: World, ahead: float, booted: float, drift: float = 0.0) -> None:
        self.world, self.ahead, self.booted, self.drift = world, ahead, booted, drift

    def monotonic(self) -> float:
        return (self.world.true - self.booted) * (1 + self.drift)

    def time(self) -> float:
        return EPOCH + self.world.true + self.ahead


class Server:
    """Answers TIME after ``there`` seconds and is heard after another ``back``."""

    def __init__(self, world: World, delays: Any) -> None:
        self.world, self.delays, self.ahead, self.asked = world, delays, 0.0, 0

    def time(self) -> tuple[int, int]:
        self.asked += 1
        there, back = next(self.delays)
        self.world.true += there
        now = EPOCH + self.world.true + self.ahead
        self.world.true += back
        return int(now), round(now % 1 * 1e6)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(module.time, "monotonic", lambda: world.host.monotonic())  # noqa: PLW0108  the host changes
    monkeypatch.setattr(module.time, "time", lambda: world.host.time())  # noqa: PLW0108  as above
    return world


def delays(there: float = 0.0001, back: float = 0.0001) -> Any:
    return itertools.repeat((there, back))


def test_waits_are_true_between_hosts_whose_clocks_differ_by_five_seconds(world: World) -> None:
    source = random.Random(4)
    # Up to 4 ms each way, now and then much more: a loaded machine.
    jitter = (
        (source.uniform(0, 0.004), source.uniform(0, 0.004) + (source.random() < 0.1) * 0.2)
        for _ in itertools.count()
    )
    server = Server(world, jitter)
    producer = Host(world, ahead=5.0, booted=-4e6, drift=40e-6)
    worker = Host(world, ahead=0.0, booted=900.0, drift=-40e-6)
    clocks = {producer: ServerClock(), worker: ServerClock()}

    def now(host: Host) -> float:
        world.host = host
        if clocks[host].is_due():
            clocks[host].measure(server)
        return clocks[host].now()

    worst = 0.0
    for _ in range(2000):
        published_at = now(producer)
        began = world.true
        world.true += source.choice([0.0, 0.02, 3.0])
        headers = {"published_at": published_at}
        now(worker)  # it may ask, which takes time
        wait = waited(headers, clocks[worker].now())
        assert wait >= 0
        worst = max(worst, abs(wait - (world.true - began)))
    assert worst <= 0.005
    assert server.asked < 2000


def test_it_shows_the_host_s_time_until_the_server_has_answered(world: World) -> None:
    world.host = Host(world, ahead=5.0, booted=0.0)
    clock = ServerClock()
    assert clock.now() == EPOCH + world.true + 5.0
    assert clock.error is None
    clock.measure(Server(world, delays()))
    assert clock.now() == pytest.approx(EPOCH + world.true, abs=0.001)
    assert clock.error == pytest.approx(0.0001, abs=1e-5)


def test_the_quickest_of_several_answers_counts(world: World) -> None:
    world.host = Host(world, ahead=5.0, booted=0.0)
    clock = ServerClock()
    server = Server(world, iter([(0.5, 0.0), (0.001, 0.002), (0.0, 0.3), (0.004, 0.0), (0.1, 0.1)]))
    clock.measure(server)
    assert server.asked == 5
    assert clock.error == pytest.approx(0.0015, rel=0.1)
    assert abs(clock.now() - EPOCH - world.true) <= clock.error


def test_a_slow_answer_that_tells_nothing_new_changes_nothing(world: World) -> None:
    world.host = Host(world, ahead=5.0, booted=0.0)
    clock = ServerClock()
    clock.measure(Server(world, delays()))
    world.true += REFRESH + 1
    assert clock.is_due()
    clock.measure(Server(world, delays(0.3, 0.0)))
    assert not clock.is_due()
    assert clock.now() == pytest.approx(EPOCH + world.true, abs=0.003)


def test_a_clock_that_was_set_is_followed_even_by_a_slow_answer(world: World) -> None:
    world.host = Host(world, ahead=5.0, booted=0.0)
    clock = ServerClock()
    server = Server(world, delays())
    clock.measure(server)
    server.ahead = -30.0  # another server took over
    server.delays = delays(0.2, 0.2)
    clock.measure(server)
    assert clock.now() == pytest.approx(EPOCH + world.true - 30.0, abs=0.21)


def test_a_correction_of_the_host_s_clock_is_not_seen(world: World) -> None:
    world.host = Host(world, ahead=5.0, booted=0.0)
    clock = ServerClock()
    clock.measure(Server(world, delays()))
    world.host.ahead = 0.0
    assert clock.now() == pytest.approx(EPOCH + world.true, abs=0.001)


def test_a_forked_worker_learns_what_its_node_learns() -> None:
    clock = ServerClock()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)  # the node has measured
        os._exit(0 if abs(clock.now() - time.time() - 5.0) < 1 else 1)
    now = time.monotonic()
    clock.observe(time.time() + 5.0, now, now)
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(read)
    os.close(write)


class Away:
    """A server that does not answer."""

    asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def time(self) -> None:
        type(self).asked += 1
        raise redis.ConnectionError


def test_a_server_that_is_away_is_asked_seldom_and_never_by_eager_operations(
    make_app, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    monkeypatch.setattr(module, "impatient_client", lambda _: Away())
    app._extension.clock = ServerClock()
    app.conf.task_always_eager = True
    server_now(app)
    assert Away.asked == 0
    app.conf.task_always_eager = False
    for _ in range(3):
        assert server_now(app) == pytest.approx(time.time(), abs=5)
    assert Away.asked == 1
