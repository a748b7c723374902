"""Nodes of several versions: what cannot be read is not known, and harms nothing."""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest

from pooltasks import Pool, keys
from pooltasks.dashboard.reader import PoolReader
from pooltasks.errors import Category
from pooltasks.metrics import samples
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.families import families
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import FORMAT, OperationRecord, Resources, Sample
from pooltasks.metrics.samples import SampleStore
from pooltasks.metrics.standings import Standings
from pooltasks.metrics.totals import Totals, by_name
from pooltasks.optimizer.controller import Controller, Memory
from pooltasks.optimizer.observing import Watch
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from pooltasks.app import PoolApp

OLDER = b"0  [0,1.0,2,2,0,0,0.0,0,0,0,null,null,[0,0,2.0,{},{},[0,0,0]]]\n"
NEWER = b"v6 \xff\x00 anything"
OLDER_RECORD = zlib.compress(b'[0,1.0,{"echo":[0,0,2.0]}]\n')


class Clock:
    """The time of server and host, which the test moves."""

    now = 1_800_000_000.52


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    samples._tell.cache_clear()  # this process may have told it
    return clock


@pytest.fixture
def client(clock: Clock) -> redis.Redis:  # noqa: ARG001  the server's clock
    return fakeredis.FakeRedis()


@pytest.fixture
def app(make_app: Callable[..., PoolApp], client: redis.Redis) -> PoolApp:
    app = make_app(pools={"code": {"pool_size": 2}})
    app.pooltasks.client = client
    return app


@pytest.fixture
def pool(app: PoolApp) -> Pool:
    return Pool("code", app=app)


def histogram(*values: float) -> Histogram:
    its = Histogram()
    for value in values:
        its.add(value)
    return its


def counts(number: int = 3) -> Counts:
    return Counts(
        outcomes=Counter({Outcome.SUCCESS: number}),
        busy=0.3,
        process=2.0,
        wait=histogram(*[0.001] * number),
        run=histogram(*[0.1] * number),
        latency=histogram(*[0.1] * number),
    )


def write(client: redis.Redis, number: int = 0) -> None:
    """Write what a node of this version does in a second."""
    its = Sample(number, 1.0, 2, 2, 1, 0, 0.0, running=1, counts=counts())
    record = OperationRecord(number, 1.0, {"echo": counts()})
    store = SampleStore(client, "code", ["pool.code"], Objective())
    store.write("a@host/1", its, record, {"echo": {Outcome.SUCCESS: 3}})


def put(client: redis.Redis, node: str, entry: bytes, record: bytes, age: float = 0.0) -> None:
    """Write what a node of another version does."""
    at = time.time() - age
    number = f"{int(at * 1000)}-0"
    client.xadd(keys.node_samples("code", node), {"sample": entry}, id=number)
    client.xadd(keys.node_operations("code", node), {"operations": record}, id=number)
    client.zadd(keys.pool_nodes("code"), {node: at})


@pytest.fixture
def mixed(client: redis.Redis) -> None:
    """A pool in the middle of an upgrade, with samples of an hour before it."""
    put(client, "before@host/4", OLDER, OLDER_RECORD, age=3000)
    write(client)
    put(client, "b@host/2", OLDER, OLDER_RECORD)
    put(client, "c@host/3", NEWER, NEWER)


def test_what_is_stored_changes_only_with_the_number_of_its_format() -> None:
    """If this fails: what nodes write has changed. Take the next number and the new sums."""
    its = Counts(
        outcomes=Counter(dict.fromkeys(Outcome, 1)),
        categories=Counter(dict.fromkeys(Category, 2)),
        recoveries=1,
        busy=1.25,
        process=4.0,
        wait=histogram(0.001, 3.0),
        run=histogram(0.1, 3.0),
        latency=histogram(0.1, 9.0),
        recovery=histogram(0.2),
        limited=histogram(3.0),
    )
    used = Resources(0.25, 1.5, 60, 200, 110)
    sample = Sample(7, 1.0, 4, 3, 2, 5, 0.5, 1, 2, 3, 10, 6, room=9, counts=its, resources=used)
    sample = replace(sample, draining=True)
    record = zlib.decompress(OperationRecord(7, 1.0, {"echo": its}).encode())
    sums = [hashlib.sha256(part).hexdigest()[:16] for part in (sample.encode(), record)]
    assert (FORMAT, sums) == (b"v5 ", ["bc7ca9d090e6d004", "a8dac6255f5f1820"])


@pytest.mark.usefixtures("mixed")
def test_the_metrics_are_those_of_the_nodes_that_can_be_read(pool: Pool) -> None:
    metrics = pool.metrics(3600)
    assert [(node.name, node.state) for node in metrics.nodes] == [("a@host/1", "live")]
    assert metrics.unreadable == ("b@host/2", "c@host/3")
    assert (metrics.load.size, metrics.load.running) == (2, 1)
    assert metrics.work.operations is not None
    assert metrics.work.operations[Outcome.SUCCESS] == 3
    assert metrics.by_operation is not None
    assert metrics.by_operation["echo"].operations == metrics.work.operations


@pytest.mark.parametrize("entry", [OLDER, NEWER])
def test_of_nodes_that_cannot_be_read_nothing_is_known_and_nothing_is_zero(
    pool: Pool, client: redis.Redis, entry: bytes
) -> None:
    put(client, "b@host/2", entry, OLDER_RECORD)
    metrics = pool.metrics()
    assert metrics.unreadable == ("b@host/2",)
    assert metrics.nodes == ()
    known = {name for name, value in vars(metrics.load).items() if value is not None}
    assert known == {"queue_depth"}
    assert metrics.work.throughput is metrics.health is metrics.by_operation is None


def test_a_node_that_cannot_be_read_and_falls_silent_is_shown_no_more(
    pool: Pool, client: redis.Redis, clock: Clock
) -> None:
    put(client, "b@host/2", NEWER, NEWER)
    clock.now += 14
    assert pool.metrics(3600).unreadable == ("b@host/2",)
    clock.now += 2
    assert pool.metrics(3600).unreadable == ()


@pytest.mark.usefixtures("mixed")
def test_the_history_is_that_of_the_nodes_that_can_be_read(pool: Pool) -> None:
    points = pool.history(3600)
    (known,) = [point for point in points if point.load.size is not None]
    assert known is points[-1]
    assert (known.load.size, known.work.throughput) == (2, 3.0)
    assert {point.work.throughput for point in points[:-1]} == {None}


@pytest.mark.usefixtures("mixed")
def test_a_scrape_counts_the_nodes_that_cannot_be_read(app: PoolApp, client: redis.Redis) -> None:
    standings = Standings(app, client)
    standing = standings.read()["code"]
    assert standing.nodes == {"live": 1, "unreadable": 2}
    assert standing.load.size == 2
    shown = {
        its.labels["state"]: its.value
        for family in families(standings.pools, {"code": standing}, up=True)
        if family.name == "pooltasks_nodes"
        for its in family.samples
    }
    assert shown == {"live": 1, "stale": 0, "lost": 0, "unreadable": 2}


def test_totals_of_several_versions_are_those_of_what_is_known(client: redis.Redis) -> None:
    totals, named = keys.pool_totals("code"), keys.pool_totals_by_name("code")
    write(client)
    for field in ("outcome:postponed", "category:weather", "heat:"):
        client.hincrby(totals, field, 5)
    client.hincrby(named, "count:postponed:echo", 5)
    client.hdel(totals, "late", "cpu")
    its = Totals.of(client.hgetall(totals))
    assert its is not None
    assert its.counts.outcomes == {Outcome.SUCCESS: 3}
    assert (its.late, its.cpu, sum(its.counts.categories.values())) == (0, 0.0, 0)
    assert by_name(client.hgetall(named)) == {"echo": {Outcome.SUCCESS: 3}}


class _Watch:
    def mute(self) -> set[str]:
        return set()

    def look(self, _: object) -> dict[str, Any]:
        return {}


@pytest.fixture
def reader(app: PoolApp, client: redis.Redis) -> Iterator[PoolReader]:
    with ThreadPoolExecutor(1) as beside:
        yield PoolReader(app, client, "code", _Watch(), beside)  # type: ignore[arg-type]


def test_the_dashboard_shows_a_pool_through_an_upgrade(
    reader: PoolReader, client: redis.Redis, clock: Clock
) -> None:
    put(client, "b@host/2", OLDER, OLDER_RECORD)
    text = "1 node of another version cannot be read."
    remedy = "Run the same version of pooltasks on all nodes."
    verdict = {"level": "fair", "text": text, "blamed": ["nodes"], "remedy": remedy, "more": []}
    assert reader.overview()["verdict"] == reader.page(300, None)["verdict"] == verdict
    for number in range(3):
        clock.now += 1
        write(client, number)
        put(client, "b@host/2", OLDER, OLDER_RECORD)
    line, page = reader.overview(), reader.page(300, None)
    none = {"drained": 0, "draining": 0, "lost": 0}
    assert line["nodes"] == {**none, "live": 1, "unreadable": 1}
    assert page["verdict"]["text"].startswith("1 node of another version cannot be read")
    assert page["load"]["size"] == 2
    assert [node["name"] for node in page["nodes"]] == ["a@host/1"]
    for number in range(3, 20):
        clock.now += 1
        write(client, number)
    assert reader.overview()["nodes"] == {**none, "live": 1, "unreadable": 0}


def test_the_optimizer_holds_and_learns_nothing_meanwhile(
    app: PoolApp, client: redis.Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(app.control, "broadcast", lambda *_, **its: told.append(its))
    controller = Controller(app, "code")
    clock.now += 1
    write(client, 0)
    assert controller.tick().acting
    told.clear()
    for number in range(1, 8):
        clock.now += 1
        write(client, number)
        client.lpush("pool.code", *["{}"] * 100)  # what nobody is seen to take
        put(client, "b@host/2", OLDER if number < 4 else NEWER, OLDER_RECORD)
        held = controller.tick()
        assert held.reason == (
            f"Hold {held.target} slots: a node writes samples in the format of another version."
        )
        assert not held.acting
    assert told == []
    client.delete("pool.code")
    decisions = []
    for number in range(8, 20):
        clock.now += 1
        write(client, number)
        decisions.append(controller.tick())
    # For as long as a node may be late, it may be there.
    assert [decision.acting for decision in decisions] == [False] * 8 + [True] * 4
    assert {decision.target for decision in decisions} == {held.target}


def test_an_optimizer_begins_anew_with_a_memory_that_it_cannot_read() -> None:
    state = {**Memory("objective", {"x": 1}, Watch(), size=4).snapshot(), "mood": "new"}
    assert Memory.restored(state, "objective") == Memory("objective", None, Watch())


def test_it_is_logged_once(
    pool: Pool, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for age in range(10):
        put(client, f"b@host/{age}", OLDER, OLDER_RECORD, age=age)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            pool.metrics()
            pool.history(60)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "pool code: some nodes write samples in the format v1 of another version"
    )
