"""What Prometheus sees of the pools."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
import redis
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pooltasks import keys
from pooltasks.errors import Category
from pooltasks.metrics import prometheus
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.decisions import DecisionStore, PoolDecision
from pooltasks.metrics.families import families
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.prometheus import PoolCollector, register
from pooltasks.metrics.sample import Resources, Sample
from pooltasks.metrics.samples import SampleStore
from pooltasks.metrics.standings import Standings
from pooltasks.metrics.surroundings import ServerMemory
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import Metric

    from pooltasks.app import PoolApp

NOW = 1_800_000_000.0
DEADLINE = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The server's clock, which the test moves."""
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def client(clock: Clock) -> redis.Redis:  # noqa: ARG001  the server's clock
    return fakeredis.FakeRedis()


@pytest.fixture
def app(make_app: Callable[..., PoolApp]) -> PoolApp:
    return make_app(pools={"code": {"objective": {"wait_ms": 40}}, "quiet": {}})


@pytest.fixture
def read(app: PoolApp, client: redis.Redis) -> Standings:
    return Standings(app, client)


@pytest.fixture
def store(client: redis.Redis) -> SampleStore:
    return SampleStore(client, "code", ["pool.code"], Objective(wait_ms=40))


def sample(number: int = 0, **changes: Any) -> Sample:
    values: dict[str, Any] = {
        "interval": 1.0,
        "size": 3,
        "warm": 2,
        "warming": 1,
        "busy": 1,
        "reserved": 1,
        "reserved_age": 0.5,
        "counts": counted(),
    }
    return Sample(number, **{**values, **changes})


def counted(successes: int = 3, failures: int = 0) -> Counts:
    wait, run = Histogram(), Histogram()
    for _ in range(successes):
        wait.add(0.002)
        run.add(0.3)
    for _ in range(failures):
        wait.add(0.2)
    return Counts(
        outcomes=Counter({Outcome.SUCCESS: successes, Outcome.FAILURE: failures}),
        categories=Counter({Category.PYTHON: failures}),
        busy=0.5,
        process=2.0,
        wait=wait,
        run=run,
    )


class Scraped:
    """The series of a scrape."""

    def __init__(self, text: str) -> None:
        self.values = {
            (its.name, frozenset(its.labels.items())): its.value
            for family in text_string_to_metric_families(text)
            for its in family.samples
        }

    def __call__(self, name: str, /, **labels: str) -> float | None:
        """Return the value of a series, None if there is no such one."""
        return self.values.get((f"pooltasks_{name}", frozenset(labels.items())))

    def of(self, pool: str) -> set[str]:
        """Return the names of the series of a pool."""
        return {name for name, labels in self.values if ("pool", pool) in labels}


class Fixed:
    """A collector of families that are made at each scrape."""

    def __init__(self, make: Callable[[], list[Metric]]) -> None:
        self.collect = make


def scraped(collector: Any) -> Scraped:
    registry = CollectorRegistry()
    registry.register(collector)
    return Scraped(generate_latest(registry).decode())


@pytest.fixture
def scrape(read: Standings) -> Callable[[], Scraped]:
    return lambda: scraped(Fixed(lambda: families(read.pools, read.read(), up=True)))


def test_a_pool_is_shown_as_its_nodes_tell_it(
    store: SampleStore, client: redis.Redis, scrape: Callable[[], Scraped]
) -> None:
    used = Resources(node_cpu=0.1, workers_cpu=0.4, node_rss=9, workers_rss=90, pss=50)
    store.write(
        "a",
        sample(counts=counted(5, 2), resources=used),
        outcomes={"shop.buy": {Outcome.SUCCESS: 5, Outcome.FAILURE: 2}},
    )
    store.write(
        "b", sample(spares=2, overflow=1, resources=used, size=2, warming=0, busy=0, reserved=0)
    )
    client.lpush("pool.code", "not", "to be read")
    client.hset(keys.dead_letters("pool.code"), "one", "letter")

    its = scrape()

    code = {"pool": "code"}
    assert its("up") == 1
    assert its("pool_info", queue_name="pool.code", optimizer="on", **code) == 1
    assert its("objective_wait_seconds", **code) == 0.04
    assert its("objective_ratio", **code) == 0.99
    assert its("size", **code) == 5
    assert its("workers", state="busy", **code) == 1
    assert its("workers", state="idle", **code) == 3
    assert its("workers", state="warming", **code) == 1
    assert its("spares", **code) == 2
    assert its("overflow", **code) == 1
    assert its("memory_bytes", **code) == 100
    assert its("cpu_seconds_total", **code) == 1
    assert its("operations_by_name_total", name="shop.buy", outcome="success", **code) == 5
    assert its("operations_by_name_total", name="shop.buy", outcome="failure", **code) == 2
    assert its("operations_by_name_total", name="shop.buy", outcome="lost", **code) is None
    assert its("queue_length", **code) == 2
    assert its("backlog", **code) == 3
    assert its("dead_letters", **code) == 1
    assert its("nodes", state="live", **code) == 2
    assert its("nodes", state="lost", **code) == 0
    assert its("utilization_ratio", **code) == 0.25
    assert its("operations_total", outcome="success", **code) == 8
    assert its("operations_total", outcome="failure", **code) == 2
    assert its("operations_total", outcome="lost", **code) == 0
    assert its("errors_total", category="python", **code) == 2
    assert its("late_operations_total", **code) == 2
    assert its("recoveries_total", **code) == 0
    assert its("busy_seconds_total", **code) == 1
    assert its("process_seconds_total", **code) == 4
    assert its("wait_seconds_count", **code) == 10
    assert its("wait_seconds_sum", **code) == pytest.approx(0.416)
    assert its("run_seconds_count", **code) == 8


def test_what_the_optimizer_wants_is_shown_as_long_as_it_decides(
    client: redis.Redis, clock: Clock, scrape: Callable[[], Scraped]
) -> None:
    store = DecisionStore(client, "code")
    turn = store.begin()
    assert turn is not None
    decision = PoolDecision(
        at=clock.now,
        policy="objective",
        target=7,
        before=5,
        wanted=9,
        hosts=3,
        nodes={},
        told=[],
        reason="a test",
    )
    store.commit(turn, None, decision)
    its = scrape()
    assert its("target_slots", pool="code") == 7
    assert its("nodes_wanted", pool="code") == 3
    assert its("target_slots", pool="quiet") is None
    assert its("pool_info", pool="control", queue_name="pool.control", optimizer="off") == 1
    clock.now += 16
    assert scrape()("target_slots", pool="code") is None


def test_an_optimizer_without_a_turn_for_three_seconds_is_silent(
    client: redis.Redis, clock: Clock, scrape: Callable[[], Scraped]
) -> None:
    decision = PoolDecision(
        at=clock.now,
        policy="objective",
        target=7,
        before=5,
        wanted=9,
        hosts=1,
        nodes={},
        told=[],
        reason="a test",
    )
    turn = DecisionStore(client, "code").begin()
    assert turn is not None
    DecisionStore(client, "code").commit(turn, None, decision)

    def after(seconds: float) -> float | None:
        client.hset(keys.optimizer("code"), "token", int((clock.now - seconds) * 1000))
        return scrape()("target_slots", pool="code")

    assert after(2.5) == 7
    assert after(3.5) is None


def test_what_is_not_known_has_no_series(
    store: SampleStore, client: redis.Redis, scrape: Callable[[], Scraped]
) -> None:
    configured = {"pool_info", "objective_wait_seconds", "objective_ratio"}
    empty = {f"pooltasks_{name}" for name in (*configured, "nodes", "dead_letters")}
    its = scrape()
    assert its.of("quiet") == empty | {
        f"pooltasks_{name}" for name in ("queue_length", "backlog", "oldest_age_seconds")
    }
    # A message that does not say since when it waits.
    client.lpush("pool.code", "not to be read")
    store.write("a", sample())
    its = scrape()
    assert its("queue_length", pool="code") == 1
    assert its("oldest_age_seconds", pool="code") is None
    assert its("health_score", pool="code") is None  # nothing to compare with yet


def test_the_control_pool_is_shown_and_one_without_metrics_is_not(
    make_app: Callable[..., PoolApp], client: redis.Redis
) -> None:
    app = make_app(pools={"code": {"enable_metrics": False}})
    assert list(Standings(app, client).read()) == ["control"]


def test_a_node_that_falls_silent_is_stale_then_lost_and_one_that_stops_is_gone(
    store: SampleStore, clock: Clock, scrape: Callable[[], Scraped]
) -> None:
    def nodes(its: Scraped) -> dict[str, float | None]:
        return {s: its("nodes", pool="code", state=s) for s in ("live", "stale", "lost")}

    store.write("a", sample())
    store.write("b", sample(stopped=True))
    assert nodes(scrape()) == {"live": 1, "stale": 0, "lost": 0}
    clock.now += 4
    its = scrape()
    assert nodes(its) == {"live": 0, "stale": 1, "lost": 0}
    assert its("size", pool="code") is its("workers", pool="code", state="busy") is None
    clock.now += 12
    assert nodes(scrape()) == {"live": 0, "stale": 0, "lost": 1}
    clock.now += 3600
    assert nodes(scrape()) == {"live": 0, "stale": 0, "lost": 0}


def test_counters_never_go_down_though_nodes_and_their_samples_do(
    store: SampleStore, clock: Clock, scrape: Callable[[], Scraped]
) -> None:
    store.write("a/1", sample(counts=counted(5)))
    before = scrape()
    clock.now += 3700  # its samples have expired
    store.write("a/2", sample(counts=counted(1)))
    after = scrape()
    counters = {key for key in before.values if key[0].endswith(("_total", "_count", "_bucket"))}
    assert len(counters) > 50
    assert all(after.values[key] >= before.values[key] for key in counters)
    assert after("operations_total", pool="code", outcome="success") == 6


def test_buckets_add_up_and_have_the_objective_among_their_bounds(
    store: SampleStore, scrape: Callable[[], Scraped]
) -> None:
    store.write("a", sample(counts=counted(6, 4)))
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in scrape().values.items()
        if name == "pooltasks_wait_seconds_bucket" and ("pool", "code") in labels
    }
    assert list(buckets) == sorted(buckets)
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets[float("inf")] == 10
    assert len(buckets) == 17
    (objective,) = [bound for bound in buckets if 0.04 <= bound < 0.04 * 1.04]
    assert buckets[objective] == 6


def test_health_is_that_of_the_last_minute(
    store: SampleStore, clock: Clock, scrape: Callable[[], Scraped]
) -> None:
    healthy = {"size": 2, "warm": 2, "reserved": 0}
    store.write("a", sample(0, **healthy, counts=counted(0, 100)))
    assert scrape()("health_score", pool="code") is None
    for number in range(1, 8):
        clock.now += 20
        failures = 100 if number == 2 else 0
        store.write("a", sample(number, **healthy, counts=counted(100, failures)))
        score = scrape()("health_score", pool="code")
        assert score == 100 if number in {1, 5, 6, 7} else score < 60, number


def test_fifty_pools_and_two_hundred_operations_are_few_enough_series(
    make_app: Callable[..., PoolApp], client: redis.Redis
) -> None:
    pools: dict[str, Any] = {f"pool-{number}": {} for number in range(50)}
    app = make_app(pools=pools)
    for pool in pools:
        store = SampleStore(client, pool, [keys.queue(pool)], Objective())
        # The most series that there can be: each operation has ended in every way.
        outcomes = {f"shop.{number}": dict.fromkeys(Outcome, number + 1) for number in range(4)}
        used = Resources(node_cpu=0.1, workers_cpu=0.4, node_rss=9, workers_rss=90, pss=50)
        store.write("a", sample(resources=used), outcomes=outcomes)
        limited = {f"code shop.{number}": "1 - -" for number in range(4)}
        client.hset(keys.flow(keys.queue(pool), "limits"), mapping=limited)
    read = Standings(app, client)
    read.read()
    made = families(read.pools, read.read(), up=True)
    registry = CollectorRegistry()
    registry.register(Fixed(lambda: made))
    started = time.thread_time()
    text = generate_latest(registry).decode()
    # 13 ms on an idle machine; what a scrape may take is 50 ms.
    assert time.thread_time() - started < 0.2
    series = Scraped(text)
    assert 3000 < len(series.values) < 6200
    for number in range(4):
        labels = {"pool": "pool-49", "name": f"shop.{number}", "outcome": "lost"}
        assert series("operations_by_name_total", **labels) == number + 1


def test_operations_with_limits_beyond_what_a_scrape_may_hold_are_shown_together(
    make_app: Callable[..., PoolApp], client: redis.Redis
) -> None:
    app = make_app(pools={"code": {"enable_optimizer": False}})
    limits = {f"code shop.{number}": "1 - -" for number in range(100)}
    client.hset(keys.flow("pool.code", "limits"), mapping=limits)
    client.hset(keys.flow("pool.code", "running"), mapping={"shop.7/": 1, "!shop.8/": "1 5"})
    held = {f"shop.{number}/ann\x000{turn:016d}": 0 for number in (7, 99) for turn in range(number)}
    client.zadd(keys.flow("pool.code", "held"), held)
    read = Standings(app, client)
    made = families(read.pools, read.read(), up=True)
    (family,) = (each for each in made if each.name == "pooltasks_limited_operations")
    lines = {(its.labels["name"], its.labels["state"]): its.value for its in family.samples}
    assert len(lines) == 120
    assert lines["shop.99", "held"] == 99
    assert (lines["shop.7", "running"], lines["shop.7", "held"]) == (1, 7)
    assert lines["other", "held"] == 0


def test_operations_beyond_what_a_scrape_may_hold_are_shown_together(
    make_app: Callable[..., PoolApp], client: redis.Redis
) -> None:
    pools: dict[str, Any] = {f"pool-{number}": {} for number in range(50)}
    store = SampleStore(client, "pool-7", ["pool.pool-7"], Objective())

    def shown(number: int, outcomes: dict[str, dict[Outcome, int]]) -> dict[str, float]:
        store.write("a", sample(number), outcomes=outcomes)
        read = Standings(make_app(pools=pools), client)
        its = scraped(Fixed(lambda: families(read.pools, read.read(), up=True))).values
        return {
            dict(labels)["name"]: value
            for (name, labels), value in its.items()
            if name == "pooltasks_operations_by_name_total" and ("outcome", "success") in labels
        }

    first = {f"shop.{place}": {Outcome.SUCCESS: place} for place in range(4)}
    assert len(shown(0, {"shop.0": {Outcome.SUCCESS: 0}})) == 1
    for number, (name, outcomes) in enumerate(first.items(), 1):
        before = shown(number, {name: outcomes})
    assert before == {f"shop.{place}": place for place in range(4)}
    after = shown(9, {"shop.4": {Outcome.SUCCESS: 10}})
    assert after == {"shop.0": 0, "shop.1": 1, "shop.2": 2, "other": 13}


class Source:
    """Stands for the standings: answers when it is told to."""

    def __init__(self) -> None:
        self.pools: dict[str, Any] = {}
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.readings = 0

    def read(self) -> dict[str, Any]:
        assert self.answers.wait(DEADLINE)
        self.readings += 1
        if self.error is not None:
            raise self.error
        return {}

    def server_memory(self) -> ServerMemory:
        return ServerMemory(used=1, limit=2)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    source = Source()
    monkeypatch.setattr(prometheus, "Standings", lambda *_: source)
    monkeypatch.setattr(prometheus, "_INTERVAL", 0.01)
    return source


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "not in time"


def test_a_server_that_fails_is_down_until_it_answers_again(
    app: PoolApp, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    collector = PoolCollector(app)
    assert scraped(collector)("up") == 1
    source.error = redis.ConnectionError("gone")
    eventually(lambda: scraped(collector)("up") == 0)
    said = source.readings
    eventually(lambda: source.readings > said + 3)
    assert [record.message for record in caplog.records] == [
        "the pools cannot be read: ConnectionError: gone"
    ]
    source.error = None
    eventually(lambda: scraped(collector)("up") == 1)


def test_a_scrape_does_not_wait_for_a_server_that_hangs(
    app: PoolApp, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "_PATIENCE", 0.05)
    source.answers.clear()
    collector = PoolCollector(app)
    assert scraped(collector)("up") is None  # not known yet
    source.answers.set()
    eventually(lambda: scraped(collector)("up") == 1)
    source.answers.clear()
    monkeypatch.setattr(prometheus, "_OLDEST", 0.0)
    assert scraped(collector)("up") == 0
    source.answers.set()


def test_readings_end_when_nobody_scrapes(
    app: PoolApp, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "_KEEP", 0.0)
    collector = PoolCollector(app)
    for _ in range(2):
        before = source.readings
        assert scraped(collector)("up") == 1
        assert source.readings > before
        eventually(lambda: collector._thread is None)


def test_registering_shows_the_pools_in_the_default_registry_and_reads_nothing(
    app: PoolApp, source: Source
) -> None:
    collector = register(app)
    try:
        assert source.readings == 0
        with pytest.raises(ValueError, match="Duplicated"):
            register(app)
        assert "pooltasks_up 1.0" in generate_latest().decode()
    finally:
        REGISTRY.unregister(collector)


def test_after_a_pause_nothing_is_known_until_the_first_reading(
    app: PoolApp, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "_KEEP", 0.0)
    monkeypatch.setattr(prometheus, "_OLDEST", 0.0)
    monkeypatch.setattr(prometheus, "_PATIENCE", 0.05)
    collector = PoolCollector(app)
    scraped(collector)
    eventually(lambda: collector._thread is None)
    source.answers.clear()
    assert scraped(collector)("up") is None
    source.answers.set()


def test_the_optimizer_s_wish_is_shown_in_workers_too_and_not_where_it_is_unknown(
    make_app: Callable[..., PoolApp], client: redis.Redis, clock: Clock
) -> None:
    app = make_app(pools={"code": {"slots": 4}, "new": {}})
    for pool, target in (("code", 10), ("new", None)):
        store = DecisionStore(client, pool)
        turn = store.begin()
        assert turn is not None
        its = PoolDecision(clock.now, "objective", target, target, target, 1, {}, [], "a test")
        store.commit(turn, None, its)
    read = Standings(app, client)
    its = scraped(Fixed(lambda: families(read.pools, read.read(), up=True)))
    assert (its("target_slots", pool="code"), its("target_size", pool="code")) == (10, 3)
    assert its("target_slots", pool="new") is None
    assert its("target_size", pool="new") is None


def test_without_an_optimizer_nobody_misses_a_control_node(
    make_app: Callable[..., PoolApp], client: redis.Redis
) -> None:
    app = make_app(pools={"code": {"enable_optimizer": False}})
    assert list(Standings(app, client).pools) == ["code"]


def test_latencies_and_recoveries_have_their_durations(
    store: SampleStore, scrape: Callable[[], Scraped]
) -> None:
    its = counted()
    for seconds in (0.03, 0.2, 3.0):
        its.latency.add(seconds)
    its.recovery.add(0.5)
    its.recoveries = 1
    store.write("a", sample(counts=its))
    shown = scrape()
    assert shown("latency_seconds_count", pool="code") == 3
    assert shown("latency_seconds_sum", pool="code") == pytest.approx(3.23, rel=0.01)
    assert shown("recovery_seconds_count", pool="code") == 1
    assert shown("recovery_seconds_sum", pool="code") == pytest.approx(0.5, rel=0.01)
