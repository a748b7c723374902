"""The scenarios of ``pool bench`` judge what they saw."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from pooltasks.cli.bench import latency, memory, scale, soak, targets
from pooltasks.cli.bench.footprint import Footprint, children_of, footprint
from pooltasks.cli.bench.load import Load
from pooltasks.cli.bench.loaded import Loaded, Subject
from pooltasks.cli.bench.picture import svg
from pooltasks.cli.bench.victims import Victims
from pooltasks.cli.bench.watch import Look, Server
from pooltasks.cli.calls import Call
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.view import Load as Standing
from pooltasks.metrics.view import PoolMetrics, PoolWork
from pooltasks.pool_settings import PoolSettings

if TYPE_CHECKING:
    from pooltasks.cli.bench.report import Report

MB = 1_000_000
RATE, SECONDS = 400.0, 50


class Pool:
    """A pool without a server, and what it says of itself."""

    name, queue = "code", "pool.code"
    settings = PoolSettings()

    def __init__(self, *, busy: float = 30.0, recovery: float = 0.02) -> None:
        self.counts = Counts(busy=busy * 6 / 50, process=6.0, recoveries=1)
        for seconds in (0.01, 0.01):
            self.counts.run.add(seconds)
            self.counts.wait.add(0.001)
            self.counts.latency.add(0.012)
        self.counts.recovery.add(recovery)

    def metrics(self, seconds: float) -> PoolMetrics:
        standing: dict[str, Any] = dict.fromkeys(Standing.__dataclass_fields__)
        load = Standing(**{**standing, "capacity": 6})
        return PoolMetrics(
            "code", 1.0, seconds, load, PoolWork.of(self.counts, seconds), None, (), None
        )

    def samples(self, _: float) -> Any:
        """Return a sample for each of the last seconds; the load ends now."""
        now = 1000.0
        sample = SimpleNamespace(
            interval=1.0, counts=self.counts, resources=None, warm=1, spares=0, warming=0
        )
        its = [SimpleNamespace(at=now - second, sample=sample) for second in range(SECONDS)]
        return SimpleNamespace(at=now), {"a": its}


def subject(pool: Pool, **changes: Any) -> Subject:
    values: dict[str, Any] = {
        "nodes": {"a": {"ceiling": 16, "floor": 1}},
        "call": Call("ping"),
        "rate": RATE,
        "seconds": SECONDS,
        "settle": 0,
        "tell": lambda _: None,
        **changes,
    }
    return Subject(pool=pool, **values)  # type: ignore[arg-type]


def loaded(
    pool: Pool, looks: Any = lambda _: {}, slow: Any = lambda _: 0.02, **changes: Any
) -> Loaded:
    """Return a load of which each second has 100 operations.

    Args:
        pool: The pool.
        looks: Second → changes of the look then.
        slow: Second → latency.
        **changes: Of what was found.
    """
    load = Load(pool, Call("ping"), RATE, SECONDS, 0.0)  # type: ignore[arg-type]
    load._start = time.monotonic() - SECONDS
    for second, span in enumerate(load.spans):
        span.sent = span.answered = 100
        span.latency.merge(Histogram())
        for _ in range(100):
            span.latency.add(slow(second))
        load.whole.add(span)
    seen = [
        Look(**{"at": load._start + second + 0.5, "size": 4, "warm": 4, **looks(second)})
        for second in range(SECONDS)
    ]
    values = {"node_deaths": (), "worker_deaths": (), "victims": Victims(dict), **changes}
    return Loaded(load=load, looks=seen, **values)


def judged(monkeypatch: pytest.MonkeyPatch, scenario: Any, found: Loaded, pool: Pool) -> Report:
    module = {"targets": targets, "recovery": targets, "latency": latency, "load": latency}
    owner = module.get(scenario.__name__) or {"scale": scale, "soak": soak}[scenario.__name__]
    monkeypatch.setattr(owner, "put", lambda *_, **__: found)
    report: Report = scenario(subject(pool))
    drawn = ET.fromstring(svg(report.charts, SECONDS))  # noqa: S314  our own
    assert len(drawn.findall("{*}g")) == len(report.charts) >= 3
    return report


def verdicts(report: Report) -> dict[str, str]:
    return {goal.what: goal.verdict for goal in report.goals}


def test_utilization_is_judged_by_the_document_and_by_the_objective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(busy=45.0)  # 90 %, more than 6 slots of 10 ms stand
    report = judged(monkeypatch, targets.targets, loaded(pool), pool)
    assert len(report.goals) == 9
    its = verdicts(report)
    assert its["utilization"] == "MISSED"
    (right,) = (goal for goal in report.goals if "objective" in goal.what)
    assert right.measured == pytest.approx(90)
    assert 50 < right.at_least < 60 < right.at_most < 95
    assert "99% < 50 ms up to" in report.notes[0]


def test_a_nodes_death_counts_for_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    report = judged(monkeypatch, targets.targets, loaded(pool, node_deaths=(0.3, 0.7)), pool)
    (goal,) = (goal for goal in report.goals if goal.what == "recovery, longest")
    assert (goal.measured, goal.verdict) == (700, "MISSED")
    report = judged(
        monkeypatch, targets.recovery, loaded(pool, worker_deaths=(0.1,), node_deaths=(0.6,)), pool
    )
    its = verdicts(report)
    assert its["death of a worker until replaced, longest"] == "holds"
    assert its["death of a worker until answered, longest"] == "holds"
    assert its["death of a node until answered, longest"] == "MISSED"
    assert report.is_missed


def test_load_finds_the_highest_rate_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    found = loaded(pool, slow=lambda second: 0.02 if second < 30 else 0.3)
    report = judged(monkeypatch, latency.load, found, pool)
    assert report.goals[-1].measured == RATE / 2
    assert verdicts(report)["at 400/s: latency, p99"] == "MISSED"


def test_latency_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    report = judged(monkeypatch, latency.latency, loaded(pool), pool)
    its = {goal.what: goal.measured for goal in report.goals}
    assert its["latency, p99"] == pytest.approx(20, rel=0.02)
    assert its["run, p50"] == pytest.approx(10, rel=0.02)
    assert its["wait for a worker, p99"] == pytest.approx(1, rel=0.02)
    assert verdicts(report)["run, p50"] == "shown"
    assert not report.is_missed


def test_scale_says_when_the_size_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    # 400 a second of 10 ms are 4 erlangs, the first step has a quarter of it.
    grown = {second: {"warm": 8, "size": 8} for second in (*range(12, 20), *range(34, 40))}
    found = loaded(pool, looks=lambda second: grown.get(second, {"warm": 2, "size": 2}))
    report = judged(monkeypatch, scale.scale, found, pool)
    its = {goal.what: (goal.measured, goal.verdict) for goal in report.goals}
    measured, verdict = its["step 2, to 400/s: size follows after"]
    assert (measured, verdict) == (pytest.approx(2.5), "holds")
    measured, verdict = its["step 4, to 400/s: size follows after"]
    assert (measured, verdict) == (pytest.approx(4.5), "MISSED")
    assert its["waits longer than 50 ms"] == (0, "holds")
    needed = [step["needed"] for step in report.figures["steps"]]
    assert needed[1] == needed[3] > needed[2] > needed[0]
    assert not [what for what in its if what.startswith("step 3")]  # a lower rate is only shown


def test_a_size_that_never_follows_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    found = loaded(pool, looks=lambda _: {"warm": 1, "size": 1})
    report = judged(monkeypatch, scale.scale, found, pool)
    assert verdicts(report)["step 2, to 400/s: size follows after"] == "MISSED"
    assert "not within the step" in report.notes[1]


def steady(second: int, **changes: Any) -> dict[str, Any]:
    node = Footprint(80 * MB, 40 * MB, 20 * MB, 60)
    worker = Footprint(70 * MB, 20 * MB, 10 * MB, 20)
    return {
        "nodes": (node,),
        "workers": (worker, worker),
        "server": Server(10 * MB, 100),
        "beside": {"dashboard": node},
        **{name: its for name, its in changes.items() if second >= SECONDS * 0.9},
    }


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"nodes": (Footprint(90 * MB, 0, 0, 60),)}, "growth of a node, resident"),
        ({"nodes": (Footprint(80 * MB, 0, 0, 70),)}, "more descriptors of a node"),
        ({"workers": (Footprint(80 * MB, 0, 0, 20),) * 2}, "growth of a worker, resident"),
        ({"workers": (Footprint(70 * MB, 0, 0, 30),) * 2}, "more descriptors of a worker"),
        ({"server": Server(30 * MB, 100)}, "growth of the server"),
        ({"server": Server(10 * MB, 1000)}, "more keys at the server"),
        ({"beside": {"dashboard": Footprint(90 * MB, 0, 0, 60)}}, "growth of dashboard, resident"),
        ({"strays": 3}, "processes of a node that are no workers"),
    ],
)
def test_soak_finds_what_grows(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], what: str
) -> None:
    pool = Pool()
    flat = judged(monkeypatch, soak.soak, loaded(pool, looks=steady), pool)
    assert not flat.is_missed
    smaller = loaded(pool, looks=lambda second: steady(second, server=Server(9 * MB, 90)))
    assert not judged(monkeypatch, soak.soak, smaller, pool).is_missed
    assert "unknown" not in verdicts(flat).values()
    # A node has six descriptors for each worker: more workers are no leak.
    three = steady(0)["workers"][:1] * 3
    node = (steady(0)["nodes"][0]._replace(files=66),)
    larger = loaded(pool, looks=lambda second: steady(second, workers=three, nodes=node))
    assert not judged(monkeypatch, soak.soak, larger, pool).is_missed
    found = loaded(pool, looks=lambda second: steady(second, **change))
    its = verdicts(judged(monkeypatch, soak.soak, found, pool))
    assert [name for name, verdict in its.items() if verdict == "MISSED"] == [
        name for name in its if name.startswith(what)
    ]


def test_soak_finds_a_latency_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    found = loaded(pool, looks=steady, slow=lambda second: 0.02 if second < 45 else 0.05)
    its = verdicts(judged(monkeypatch, soak.soak, found, pool))
    assert its["latency of the last tenth, p99"] == "MISSED"


def test_memory_tells_the_kinds_apart() -> None:
    nodes = (Footprint(90 * MB, 50 * MB, 30 * MB, 1),)
    workers = (Footprint(70 * MB, 20 * MB, 10 * MB, 1), Footprint(74 * MB, 30 * MB, 12 * MB, 1))
    its = memory.Memory.of(Look(0.0, 2, 2, nodes=nodes, workers=workers))
    assert its == memory.Memory(2, 74.0, 25.0, 11.0, 90.0, 50.0, 100.0)


def test_memory_is_measured_from_the_smallest_size_to_eight_more_than_there_are() -> None:
    node = {"floor": 1, "ceiling": 8, "size": 4}
    assert memory._sizes({"a": node, "b": node}) == [2, 7, 11, 16]
    assert memory._sizes({"a": {**node, "ceiling": 200}}) == [1, 5, 8, 12]
    assert memory._sizes({"a": {**node, "ceiling": 2}}) == [1, 2]


def test_a_footprint_is_the_kernels() -> None:
    its = footprint(os.getpid())
    assert its is not None
    assert its.rss >= its.pss >= its.uss > MB
    assert its.files > 2
    assert footprint(2**22 + 1) is None
    assert children_of(2**22 + 1) == set()
