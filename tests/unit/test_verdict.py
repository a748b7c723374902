"""Whether a pool is well, and if not, what is wrong: the same on the pages and in commands."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pooltasks.broker.dead_letters import DeadLetter
from pooltasks.dashboard.circumstances import unseen
from pooltasks.dashboard.verdict import (
    Evidence,
    draining_nodes,
    finished_of,
    lost_nodes,
    verdict,
    warm_up_failure,
)
from pooltasks.dashboard.watch import silent_nodes
from pooltasks.metrics.collector import health_of
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import QueueState, StoredSample
from pooltasks.metrics.view import Load, NodeMetrics, PoolMetrics, PoolWork
from pooltasks.pool_settings import Objective, PoolSettings
from pooltasks.telemetry import Outcome

NODE = "shop@host"
LOST = {"at": 1.0, "error": "WorkerLostError('signal 9')"}
FAILURE = "shop.load: FileNotFoundError: model.bin (/srv/shop.py, line 23)"
LOAD: dict[str, Any] = {
    **dict.fromkeys(Load.__dataclass_fields__, 0),
    "size": 2,
    "warm": 2,
    "oldest_age": 0.0,
}


def histogram(*seconds: float) -> Histogram:
    its = Histogram()
    for one in seconds:
        its.add(one)
    return its


def evidence(
    *,
    waits: tuple[float, ...] = (0.01,) * 100,
    failures: int = 0,
    quantile: float = 0.99,
    pool: str = "shop",
    busy: float = 0.8,
    nodes: tuple[str, ...] = (NODE,),
    load: dict[str, Any] | None = None,
    **changes: Any,
) -> Evidence:
    settings = PoolSettings(objective=Objective(wait_ms=50, quantile=quantile))
    outcomes = Counter({Outcome.SUCCESS: 100 - failures, Outcome.FAILURE: failures})
    counts = Counts(outcomes=outcomes, wait=histogram(*waits), process=1.0, busy=busy)
    stands = Load(**{**LOAD, **(load or {})})
    node: dict[str, Any] = dict.fromkeys(NodeMetrics.__dataclass_fields__, 0)
    metrics = PoolMetrics(
        pool=pool,
        at=1000.0,
        window=60.0,
        load=stands,
        work=PoolWork.of(counts, 60.0),
        by_operation=None,
        nodes=tuple(NodeMetrics(**{**node, "name": f"{its}/1", "state": "live"}) for its in nodes),
        health=health_of(settings.objective, counts, stands, 2),
    )
    return Evidence(pool, settings, metrics, waits=counts.wait, **changes)


@pytest.mark.parametrize(
    ("its", "level", "text", "blamed"),
    [
        (evidence(), "good", "1 node, 2 warm workers.", set()),
        (
            evidence(load={"warm": 0}),
            "bad",
            (
                "No worker is warm: the warm-up fails, or the workers die in it. For the error: "
                "pooltasks check shop, or the node's log."
            ),
            {"warm"},
        ),
        (
            evidence(load={"warm": 0, "warming": 2}),
            "fair",
            "0 of 2 workers warm, 2 warming up.",
            {"warm"},
        ),
        (
            evidence(load={"warm": 0, "warming": 2}, warm_up_failure=FAILURE),
            "bad",
            f"No worker is warm: the warm-up fails in {FAILURE}.",
            {"warm"},
        ),
        (
            evidence(load={"warm": 1, "warming": 1}, warm_up_failure=FAILURE),
            "fair",
            f"1 of 2 workers warm, 1 warming up; the warm-up fails in {FAILURE}.",
            {"warm"},
        ),
        (
            evidence(lost={"shop@other": 20.0}),
            "fair",
            "shop@other has not answered for 20.0 s.",
            {"nodes"},
        ),
        (
            evidence(nodes=(), lost={NODE: 200.0}, load={"queue_depth": 3}),
            "bad",
            "shop@host has not answered for 200 s; 3 operations in the queue.",
            {"nodes"},
        ),
        (
            evidence(draining={NODE: True}),
            "fair",
            "shop@host is drained: no node takes operations.",
            {"nodes"},
        ),
        (
            evidence(draining={NODE: False}, load={"backlog": 4}),
            "bad",
            "shop@host is draining: no node takes operations.",
            {"nodes"},
        ),
        (
            evidence(nodes=(NODE, "shop@other"), draining={NODE: True}),
            "good",
            "shop@host is drained.",
            set(),
        ),
        (evidence(failures=100), "fair", "100 % of the operations failed.", {"errors"}),
        (evidence(failures=2), "fair", "2 % of the operations failed.", {"errors"}),
        (
            evidence(set_aside=1, unseen_failures=1),
            "fair",
            "1 operation became a dead letter; 0.99 % of the operations failed.",
            {"dead"},
        ),
    ],
)
def test_the_verdict_names_what_is_wrong(
    its: Evidence, level: str, text: str, blamed: set[str]
) -> None:
    found = verdict(its)
    assert (found.level, found.text, found.blamed) == (level, text, blamed)


def test_the_wait_is_judged_at_the_quantile_of_the_objective() -> None:
    waits = (0.01,) * 97 + (1.0,) * 3
    assert verdict(evidence(waits=waits, quantile=0.95)).level == "good"
    late = verdict(evidence(waits=waits, quantile=0.99))
    assert late.blamed == {"wait"}
    assert late.text.startswith("The wait at 99 % is 1")


def test_one_late_operation_alone_is_no_verdict() -> None:
    assert verdict(evidence(waits=(1.0,), quantile=0.99)).level == "good"
    assert verdict(evidence(waits=(1.0, 1.0), quantile=0.99)).blamed == {"wait"}


def test_nobody_waits_for_the_control_pool() -> None:
    assert verdict(evidence(waits=(1.0,) * 9, pool="control")).blamed == set()


def test_what_is_good_blames_no_number() -> None:
    for failures in range(6):
        for age in (0.0, 0.06, 0.4, 2.0):
            its = evidence(failures=failures, load={"oldest_age": age})
            found = verdict(its)
            assert (found.level == "good") == (not found.blamed)


def test_an_operation_that_kills_its_workers_has_failed() -> None:
    letters = [
        DeadLetter("a", "unreadable", 1.0, None, 0),
        DeadLetter("c", "killed its worker", 1.0, "shop.kill", 3, [LOST]),
        DeadLetter("d", "failed", 1.0, "shop.bad", 2, [LOST, {"at": 1.0, "error": "KeyError()"}]),
        DeadLetter("b", "failed", 1.0, "shop.bad", 2, [{"at": 1.0, "error": "ValueError()"}]),
    ]
    assert unseen(letters) == 2
    its = evidence(failures=2, set_aside=4, unseen_failures=unseen(letters))
    assert its.failed == 4
    assert its.error_rate == pytest.approx(4 / 102)


def test_errors_of_the_caller_are_finished_and_no_failures() -> None:
    counts = Counts(outcomes=Counter({Outcome.SUCCESS: 95, Outcome.CLIENT_ERROR: 5}))
    its = evidence()
    its = replace(its, metrics=replace(its.metrics, work=PoolWork.of(counts, 60.0)))
    assert (its.failed, its.error_rate, finished_of(its.metrics)) == (0, 0.0, 100)
    assert "errors" not in verdict(its).blamed


def test_a_node_that_is_about_to_end_drains_though_it_was_not_told_to() -> None:
    (node,) = evidence().metrics.nodes
    ending = replace(node, state="draining", running=1)
    said = {NODE: {"draining": False, "empty": False}}
    assert draining_nodes([node], said) == {}
    assert draining_nodes([ending], said) == {NODE: False}
    assert draining_nodes([replace(ending, running=0)], {}) == {NODE: True}
    told = {NODE: {"draining": True, "empty": True}}
    assert draining_nodes([ending], told) == draining_nodes([node], told) == {NODE: True}


def test_the_warm_up_that_fails_is_that_of_any_node() -> None:
    older, well, ill = ({}, {"last_failure": None}, {"last_failure": FAILURE})
    assert warm_up_failure([{"warm_up": older}, {"warm_up": well}]) is None
    assert warm_up_failure([{"warm_up": well}, {"warm_up": ill}]) == FAILURE


def stored(at: float, *, stopped: bool = False) -> StoredSample:
    sample = Sample(
        number=0,
        interval=1.0,
        size=2,
        warm=2,
        busy=0,
        reserved=0,
        reserved_age=0.0,
        counts=Counts(),
    )
    return StoredSample(replace(sample, stopped=stopped), QueueState(at, 0, None))


def test_a_node_at_rest_that_does_not_answer_either_is_silent() -> None:
    (node,) = evidence().metrics.nodes
    rests, slept = replace(node, silent=2.9), replace(node, silent=5.0)
    assert silent_nodes([slept], {NODE}) == {NODE: 5.0}
    assert silent_nodes([slept], set()) == {}  # it answers, and has nothing to write
    assert silent_nodes([rests], {NODE}) == {}  # one answer may get lost
    assert silent_nodes([replace(slept, state="draining")], {NODE}) == {NODE: 5.0}


def test_a_node_that_was_killed_is_lost_until_it_is_started_again() -> None:
    killed = {"shop@a/1": [stored(100.0)], "shop@b/2": [stored(100.0, stopped=True)]}
    assert lost_nodes(killed, 130.0) == {"shop@a": 30.0}
    assert lost_nodes(killed | {"shop@a/3": [stored(129.5)]}, 130.0) == {}


@pytest.mark.parametrize(
    ("its", "remedy"),
    [
        (evidence(), None),
        (evidence(failures=5, cause="shop.charge: ValueError: no stock"), "pooltasks errors shop"),
        (evidence(set_aside=2), "pooltasks dead retry shop"),
        (evidence(load={"warm": 0, "warming": 2}, warm_up_failure=FAILURE), "pooltasks check shop"),
        (evidence(load={"warm": 1}, warm_up_failure=FAILURE), "pooltasks check shop"),
        (evidence(draining={NODE: True}), "pooltasks resume shop"),
        (evidence(lost={"shop@b": 20.0}), "-A pooltasks worker -Q pool.shop -n shop@b"),
        (evidence(nodes=(), load={"backlog": 5, "queue_depth": 5}), "worker -Q pool.shop"),
        (evidence(waits=(1.0,) * 100), "The optimizer adds workers"),
        (evidence(waits=(1.0,) * 100, busy=0.06), "Its workers are busy 6 % of the time."),
        (evidence(waits=(1.0,) * 100, load={"size": 16, "warm": 16}), "start another node"),
    ],
)
def test_what_is_wrong_comes_with_what_to_do_about_it(its: Evidence, remedy: str | None) -> None:
    found = verdict(its)
    if remedy is None:
        assert found.remedy is None
    else:
        assert remedy in (found.remedy or "")


def test_what_fails_is_named_with_its_cause() -> None:
    found = verdict(
        evidence(failures=5, cause="shop.charge: ValueError: no stock (shop.py, line 5)")
    )
    assert found.text == (
        "5 % of the operations failed, most of them now with shop.charge: ValueError: no stock "
        "(shop.py, line 5)."
    )


def test_the_wait_of_the_control_pool_makes_no_colour() -> None:
    its = evidence(waits=(1.0,) * 100, pool="control")
    assert verdict(its).level == "good"
