"""What the pages of the pools say, from samples."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from pooltasks import keys
from pooltasks.broker.dead_letters import DeadLetter, DeadLetters
from pooltasks.dashboard import view
from pooltasks.dashboard.events import EventLog
from pooltasks.dashboard.reader import PoolReader
from pooltasks.dashboard.recent import RecentSamples, RecentThroughput, RunningCounts
from pooltasks.dashboard.verdict import GOOD
from pooltasks.dashboard.watch import Answer, NodeWatch
from pooltasks.metrics.collector import Collector
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.decisions import DecisionStore, PoolDecision
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import FORMAT, Sample
from pooltasks.metrics.samples import QueueState, SampleStore, StoredSample
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import redis

    from pooltasks.app import PoolApp

NODE = "code@host/1"


@pytest.fixture
def client() -> redis.Redis:
    return pytest.importorskip("fakeredis").FakeRedis()


@pytest.fixture
def store(client: redis.Redis) -> SampleStore:
    return SampleStore(client, "code", ["pool.code"], Objective())


def worked(seconds: float = 0.01, successes: int = 10, failures: int = 0) -> Counts:
    run, wait = Histogram(), Histogram()
    for _ in range(successes + failures):
        run.add(seconds)
        wait.add(seconds / 10)
    return Counts(
        outcomes=Counter({Outcome.SUCCESS: successes, Outcome.FAILURE: failures}),
        busy=0.5,
        process=2.0,
        wait=wait,
        run=run,
    )


def sample(number: int, **changes: Any) -> Sample:
    its: dict[str, Any] = {
        "number": number,
        "interval": 1.0,
        "size": 2,
        "warm": 2,
        "busy": 1,
        "reserved": 0,
        "reserved_age": 0.0,
        "counts": worked(),
        **changes,
    }
    return Sample(**its)


def now_of(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def put(client: redis.Redis, its: Sample, age: float, node: str = NODE) -> None:
    """Write a sample as of ``age`` seconds ago."""
    now = now_of(client)
    fields = {"sample": FORMAT + b"0  " + its.encode()}
    client.xadd(keys.node_samples("code", node), fields, id=f"{int((now - age) * 1000)}-{0}")
    client.zadd(keys.pool_nodes("code"), {node: now - age})


def kinds(client: redis.Redis) -> list[str]:
    queue, samples, _ = SampleStore(client, "code", ["pool.code"], Objective()).read(3600)
    return [event["kind"] for event in EventLog().update(samples, queue.at)]


def test_recent_samples_are_those_of_the_store(client: redis.Redis, store: SampleStore) -> None:
    recent = RecentSamples(client, "code", ["pool.code"], Objective())
    for number in range(5):
        put(client, sample(number), age=2 - number / 4)
        expected = store.read(300).samples
        recent.fetch(300)
        found = recent.read(300).samples
        assert found == expected


def test_recent_samples_fetch_more_when_more_is_asked_for(client: redis.Redis) -> None:
    recent = RecentSamples(client, "code", ["pool.code"], Objective())
    put(client, sample(0), age=200)
    put(client, sample(1), age=10)
    assert [one.sample.number for one in recent.read(60).samples[NODE]] == [1]
    assert [one.sample.number for one in recent.read(300).samples[NODE]] == [0, 1]
    assert [one.sample.number for one in recent.read(60).samples[NODE]] == [1]


def test_a_sample_that_was_sent_twice_replaces_its_first_version(client: redis.Redis) -> None:
    recent = RecentSamples(client, "code", ["pool.code"], Objective())
    put(client, sample(0), age=30)
    put(client, sample(1, busy=0), age=29)
    assert len(recent.read(60).samples[NODE]) == 2
    put(client, sample(1, busy=2), age=1)  # after half a minute without an answer
    recent.fetch(60)
    its = recent.read(60).samples[NODE]
    assert [(one.sample.number, one.sample.busy) for one in its] == [(0, 1), (1, 2)]


def stored(number: int, at: float, **changes: Any) -> StoredSample:
    return StoredSample(sample(number, **changes), QueueState(at, 0, None))


ITS = [stored(n, n, counts=worked(0.01 * (n + 1), n, n % 2)) for n in range(12)]
OTHERS = [stored(0, 8, size=3), stored(1, 9, size=4)]
HISTORIES: list[dict[str, list[StoredSample]]] = [
    {},
    {"a": ITS[:8]},
    # One more, one less; another node.
    {"a": ITS[1:9], "b": OTHERS[:1]},
    # The last one came again, under its number, with more in it.
    {"a": [*ITS[3:8], stored(8, 12, counts=Counts(recoveries=2))], "b": OTHERS},
    # Longer than before, as after a longer window was asked for.
    {"a": ITS},
    {"a": [stored(30, 40)]},
]


def test_running_counts_are_those_of_the_window() -> None:
    running = RunningCounts()
    for history in HISTORIES:
        counts = running.update(history)
        expected = Counts.merged(one.sample.counts for its in history.values() for one in its)
        assert counts.outcomes == expected.outcomes
        assert counts.recoveries == expected.recoveries
        assert (counts.wait, counts.run) == (expected.wait, expected.run)
        assert counts.busy == pytest.approx(expected.busy)


def test_the_line_of_the_list_is_the_history(client: redis.Redis, store: SampleStore) -> None:
    for number in range(6):
        put(client, sample(number, counts=worked(successes=number)), age=200 - 31 * number)
        put(client, sample(number), age=190 - 31 * number, node="code@other/2")
    while True:
        queue, samples, _ = store.read(300)
        points = Collector(store, Objective()).history(300, 5)
        later, *_ = store.read(300)
        if queue.at // 5 == later.at // 5:  # no step has begun between the two
            break
    expected = [point.work.throughput for point in points if point.complete]
    found = RecentThroughput(300, 5).update(samples, queue.at)
    assert found[-len(expected) :] == expected


def test_the_line_does_not_depend_on_how_often_somebody_looked() -> None:
    its = [stored(n, 1.3 * n + 40 * (n > 50), counts=worked(successes=n)) for n in range(100)]
    throughput = RecentThroughput(60, 5)
    for now in [*range(100), *range(200, 210), 400]:
        samples = {"a": [one for one in its if now - 60 < one.at <= now]}
        samples = {name: one for name, one in samples.items() if one}
        found = throughput.update(samples, now)
        # Of its first step, the window may have only a part.
        assert found[1:] == RecentThroughput(60, 5).update(samples, now)[1:]
        assert len(found) == 12


def test_events_do_not_depend_on_how_often_somebody_looked() -> None:
    log = EventLog()
    for history in HISTORIES:
        now = max((its[-1].at for its in history.values()), default=0) + 1
        anew = EventLog().update(history, now)
        # One that looked before also knows what led to the first sample of the window.
        first = {node: its[0].at for node, its in history.items()}
        found = log.update(history, now)
        assert [event for event in found if event["at"] > first[event["node"]]] == [
            event for event in anew if event["at"] > first[event["node"]]
        ]


def test_events_tell_of_sizes_deaths_and_silence(client: redis.Redis) -> None:
    put(client, sample(0), age=30)
    put(client, sample(1, size=4), age=29)
    lost = Counts(outcomes=Counter({Outcome.LOST: 2}), recoveries=1)
    put(client, sample(2, size=4, counts=lost), age=28)
    assert kinds(client) == [
        "node-silent",
        "operations-lost",
        "workers-replaced",
        "resized",
        "node-started",
    ]
    put(client, sample(3, size=4), age=2)
    put(client, sample(4, size=0, stopped=True), age=1)
    assert kinds(client)[:3] == ["node-stopped", "node-back", "node-silent"]


class Watch(NodeWatch):
    """Nodes that answer what a test wants."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.silent: set[str] = set()

    def mute(self) -> set[str]:
        return self.silent

    def look(self, nodes: Iterable[str]) -> Mapping[str, Answer]:
        return {name: self.answers[name] for name in nodes if name in self.answers}


def test_questions_without_an_answer_make_a_node_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {"code@b": {"workers": []}}
    monkeypatch.setattr("pooltasks.dashboard.watch.remote.ask", lambda *_, **__: answers)
    watch = NodeWatch(object())  # type: ignore[arg-type]  nobody is asked
    mute = []
    for _ in range(3):
        watch._ask(["code@a", "code@b"])
        mute.append(watch.mute())
    assert mute == [set(), set(), {"code@a"}]
    answers["code@a"] = {"workers": []}
    watch._ask(["code@a", "code@b"])
    assert watch.mute() == set()


def test_a_node_at_rest_that_is_mute_is_named(
    client: redis.Redis, reader: PoolReader, watch: Watch
) -> None:
    put(client, sample(1, interval=6.0, busy=0, reserved=0, reserved_age=0.0), age=5)
    assert "not answered" not in reader.overview()["verdict"]["text"]
    watch.silent = {"code@host"}
    assert "code@host has not answered for 5" in reader.overview()["verdict"]["text"]


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def reader(
    make_app: Callable[..., PoolApp], client: redis.Redis, watch: Watch
) -> Iterator[PoolReader]:
    app = make_app(pools={"code": {"objective": {"wait_ms": 50}}})
    with ThreadPoolExecutor(1) as beside:
        yield PoolReader(app, client, "code", watch, beside)


def test_a_page_is_what_pool_metrics_gives_and_json(
    reader: PoolReader, client: redis.Redis
) -> None:
    put(client, sample(0), age=3)
    put(client, sample(1, counts=worked(failures=1)), age=2)
    page = reader.page(60, None)
    assert page["work"]["operations"]["success"] == 20
    assert page["work"]["error_rate"] == pytest.approx(1 / 21)
    assert page["load"]["warm"] == 2
    assert page["series"]["whole"]
    assert len(page["series"]["columns"]["at"]) == 60
    assert sum(filter(None, page["series"]["columns"]["throughput"])) == pytest.approx(21)
    json.dumps(page, allow_nan=False)


def test_what_is_not_known_is_none_never_zero(reader: PoolReader) -> None:
    page = reader.page(60, None)
    assert page["work"]["throughput"] is None
    assert page["load"]["warm"] is None
    assert page["health"] is None
    assert set(page["series"]["columns"]["throughput"]) == {None}
    verdict = {
        "level": "off",
        "text": "No node serves this pool.",
        "blamed": [],
        "remedy": None,
        "more": [],
    }
    assert page["verdict"] == verdict


def test_after_the_first_answer_only_new_points_are_sent(
    reader: PoolReader, client: redis.Redis
) -> None:
    put(client, sample(0), age=3)
    first = reader.page(300, None)
    then = reader.page(300, first["cursor"])
    assert not then["series"]["whole"]
    assert len(then["series"]["columns"]["at"]) <= 4
    assert then["series"]["columns"]["at"][0] == first["cursor"]
    older = reader.page(300, first["cursor"] - 1000)
    assert older["series"]["whole"]


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({}, "good", "1 node, 2 warm workers."),
        ({"warm": 1}, "fair", "1 of 2 workers warm."),
        ({"counts": worked(successes=199, failures=1)}, "good", "0.5 % of the operations failed."),
        (
            {"counts": worked(seconds=5)},
            "fair",
            "The wait at 99 % is 498 ms, above the objective of 50 ms.",
        ),
        # One operation of many may be late: the objective allows it. It is a second older by now.
        ({"reserved": 1, "reserved_age": -0.8}, "good", "1 node, 2 warm workers."),
        ({"reserved": 1, "reserved_age": -0.3}, "fair", "The oldest operation has waited 7"),
        ({"reserved": 1, "reserved_age": 2}, "fair", "The oldest operation has waited 3."),
        (
            {"counts": worked(failures=10), "warm": 0},
            "bad",
            "No worker is warm: the warm-up fails",
        ),
    ],
)
def test_the_verdict_says_what_is_wrong(
    reader: PoolReader, client: redis.Redis, changes: dict[str, Any], level: str, text: str
) -> None:
    put(client, sample(0, **changes), age=1)
    verdict = reader.page(60, None)["verdict"]
    assert verdict["level"] == level
    assert verdict["text"].startswith(text)


def test_an_old_operation_does_not_make_the_others_late(
    reader: PoolReader, client: redis.Redis
) -> None:
    put(client, sample(0, reserved=1, reserved_age=30.0), age=2)
    page = reader.page(60, None)
    assert page["health"]["costs"]["waiting"] == 25
    assert page["verdict"]["blamed"] == ["oldest"]
    put(client, sample(1, reserved=1, reserved_age=31.0, counts=worked(seconds=5)), age=1)
    assert reader.page(60, None)["verdict"]["blamed"] == ["oldest", "wait"]
    assert reader.overview()["verdict"]["blamed"] == ["oldest", "wait"]


def test_the_level_of_a_score_is_never_better_than_the_sentence_beside_it(
    reader: PoolReader, client: redis.Redis
) -> None:
    put(client, sample(0, counts=worked(successes=98, failures=2)), age=1)
    line = reader.overview()
    assert line["health"]["score"] >= GOOD
    assert line["health"]["level"] == line["verdict"]["level"] == "fair"


def test_an_operation_that_became_a_dead_letter_has_failed(
    reader: PoolReader, client: redis.Redis
) -> None:
    put(client, sample(0), age=1)
    message = {"headers": {"id": "1", "task": "code.kill"}, "body": ""}
    DeadLetters(client, "pool.code").add(json.dumps(message).encode(), "it killed its worker")
    page = reader.page(60, None)
    assert (page["failed"], page["finished"], page["set_aside"]) == (1, 11, 1)
    assert page["error_rate"] == pytest.approx(1 / 11)
    assert page["verdict"]["blamed"] == ["dead", "errors"]
    (its,) = [one for one in view.operations({}, letters_of(client)) if one["name"] == "code.kill"]
    assert (its["count"], its["failed"], its["dead"], its["error_rate"]) == (1, 1, 1, 1.0)


def letters_of(client: redis.Redis) -> list[DeadLetter]:
    return DeadLetters(client, "pool.code").list()


def test_a_node_that_was_killed_is_named_until_it_is_started_again(
    reader: PoolReader, client: redis.Redis
) -> None:
    put(client, sample(0), age=100, node="code@gone/1")
    put(client, sample(0), age=1)
    page = reader.page(60, None)
    assert page["verdict"]["text"].startswith("code@gone has not answered for 10")
    assert [(node["celery_name"], node["state"]) for node in page["nodes"]] == [
        ("code@host", "live"),
        ("code@gone", "lost"),
    ]
    assert reader.overview()["nodes"] == {
        "live": 1,
        "drained": 0,
        "draining": 0,
        "lost": 1,
        "unreadable": 0,
    }
    put(client, sample(0), age=0, node="code@gone/2")
    assert "code@gone has not" not in reader.page(60, None)["verdict"]["text"]


def test_a_pool_whose_nodes_are_gone_is_the_worst(reader: PoolReader, client: redis.Redis) -> None:
    put(client, sample(0), age=5)
    line = reader.overview()
    assert line["verdict"]["level"] == "bad"
    assert line["verdict"]["text"].startswith("code@host has not answered for 5.")
    assert line["verdict"]["text"].endswith("; 0 operations in the queue.")
    assert view.concern(line) > 10


def test_operations_that_nobody_serves_are_the_worst(
    reader: PoolReader, client: redis.Redis
) -> None:
    client.lpush("pool.code", "{}")
    line = reader.overview()
    assert line["verdict"]["text"] == "No node serves this pool; 1 operation in the queue."
    assert view.concern(line) > 10


def test_a_node_says_what_its_workers_do_until_it_is_silent(
    reader: PoolReader, client: redis.Redis, watch: Watch
) -> None:
    put(client, sample(0), age=1)
    (node,) = reader.page(60, None)["nodes"]
    assert (node["celery_name"], node["state"], node["workers"]) == ("code@host", "live", None)

    workers = [{"pid": 7, "state": "warm", "busy": True, "operation": "shop.charge"}]
    its = {"workers": workers, "warm_up": {"last_failure": None}}
    watch.answers["code@host"] = Answer({"draining": False, **its})
    (node,) = reader.page(60, None)["nodes"]
    assert (node["state"], node["workers"]) == ("live", workers)

    watch.answers["code@host"] = Answer({"draining": True, "empty": False, **its})
    assert reader.page(60, None)["nodes"][0]["state"] == "draining"

    watch.answers["code@host"] = Answer({"draining": True, "empty": True, **its})
    page = reader.page(60, None)
    assert page["nodes"][0]["state"] == "drained"
    assert page["verdict"]["text"].startswith("code@host is drained: no node takes operations")

    watch.answers["code@host"] = Answer({"draining": True, "empty": False, **its}, missed=1)
    (node,) = reader.page(60, None)["nodes"]
    assert (node["state"], node["workers"]) == ("mute", None)


def decide(client: redis.Redis, age: float, **changes: Any) -> None:
    now = now_of(client)
    decision = PoolDecision(
        **{
            "at": now - age,
            "policy": "objective",
            "target": 3,
            "before": 2,
            "wanted": 3,
            "hosts": 1,
            "nodes": {"code@host": 3},
            "told": ["code@host"],
            "reason": "3 slots for 20 operations a second",
            **changes,
        }
    )
    entry = {"decision": json.dumps(decision.as_json())}
    client.xadd(keys.decisions("code"), entry, id=f"{int((now - age) * 1000)}-0")


def test_decisions_are_shown_with_their_reasons(reader: PoolReader, client: redis.Redis) -> None:
    page = reader.page(60, None)
    assert page["optimizer"]["target"] is None
    assert page["optimizer"]["paused"] is None
    assert page["decisions"] == []
    assert reader.overview()["target"] is None

    decide(client, age=4)
    decide(client, age=3, told=[], before=3)
    DecisionStore(client, "code").pause(60)
    page = reader.page(60, None)
    assert page["optimizer"]["target"] == 3
    assert 59 < page["optimizer"]["paused"] <= 60
    (change,) = page["decisions"]
    assert (change["from"], change["to"]) == (2, 3)
    assert change["reason"] == "3 slots for 20 operations a second"
    assert [target for target in page["series"]["columns"]["target"] if target] == [3, 3]
    assert reader.overview()["target"] == 3
