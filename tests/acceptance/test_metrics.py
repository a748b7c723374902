"""What a pool says of itself is what happened, exactly."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import WorkerLostError
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool, keys
from pooltasks.metrics.collector import LEASE, STALE
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.samples import SampleStore
from pooltasks.metrics.totals import by_name
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks.metrics.view import PoolMetrics, Work

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

FOUR_WORKERS = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 4
    spares = 1
    checkout_timeout = 30
"""


@pytest.fixture
def pool(deployment: Deployment) -> Iterator[Pool]:
    """A pool of one node with four warm workers that note every event."""
    (deployment.folder / "events").mkdir()
    pool = Pool("code", app=deployment.configure(FOUR_WORKERS))
    deployment.start_node("-Q", "pool.code")
    wait_until(lambda: pool.metrics().load.warm == 4, "four warm workers")
    yield pool
    pool.app.pooltasks.client.close()


def events_of(deployment: Deployment, *names: str) -> list[dict[str, Any]]:
    events = (
        json.loads(line)
        for path in (deployment.folder / "events").iterdir()
        for line in path.read_text().splitlines()
    )
    return [event for event in events if event["event"] in names]


def operations(pool: Pool) -> dict[str, int]:
    counted = pool.metrics(600).work.operations or {}
    return {str(outcome): count for outcome, count in counted.items() if count}


def exact_quantile(values: list[float], q: float) -> float:
    return sorted(values)[math.ceil(q * len(values)) - 1]


def agrees_with_every_observation(work: Work, finished: list[dict[str, Any]]) -> None:
    outcomes = Counter(event["outcome"] for event in finished)
    assert {outcome: count for outcome, count in work.operations.items() if count} == outcomes
    for what, quantiles in (("wait", work.wait), ("run", work.run), ("latency", work.latency)):
        # What is run again has no latency yet.
        values = [event[what] for event in finished if event[what] is not None]
        assert quantiles.count == len(values)
        for q, value in (
            (0.5, quantiles.p50),
            (0.9, quantiles.p90),
            (0.99, quantiles.p99),
            (0.999, quantiles.p999),
        ):
            assert value == pytest.approx(exact_quantile(values, q), rel=0.02)
        assert quantiles.mean == pytest.approx(sum(values) / len(values), rel=1e-4)


def told_of_all_operations(pool: Pool, number: int) -> PoolMetrics | None:
    its = pool.metrics(600)
    told = sum(sum(work.operations.values()) for work in its.by_operation.values())
    return its if told == number else None


def test_under_load_everything_is_counted_exactly(deployment: Deployment, pool: Pool) -> None:
    source = random.Random(1)
    calls: list[tuple[str, list[Any]]] = [
        *[("echo", [number]) for number in range(300)],
        *[("occupy", [source.expovariate(1 / 0.02)]) for _ in range(150)],
        *[("fail", ["as it was told"]) for _ in range(40)],
        *[("fail_until", [f"attempts-{number}", 2]) for number in range(15)],
        *[("ignore", []) for _ in range(10)],
    ]
    source.shuffle(calls)
    # First something that lasts, so that a sample sees every worker busy and the rest waiting.
    calls = [*[("occupy", [2.5])] * 4, *calls]
    results = [pool.submit(f"sample_operations.{name}", args) for name, args in calls]
    for (name, _), result in zip(calls, results, strict=True):
        if name == "ignore":
            result.forget()  # there will be none
        else:
            result.get(timeout=DEADLINE, propagate=False)

    expected = {"success": 469, "failure": 40, "retry": 15, "ignored": 10}
    wait_until(lambda: operations(pool) == expected, f"{expected}, not {operations(pool)}")
    its = pool.metrics(600)
    assert its.work.errors == {"python": 40, "connection": 15}
    assert its.work.error_rate == pytest.approx(40 / 519)
    assert its.load.backlog == its.load.busy == 0
    assert its.load.idle == 4
    assert its.load.spares == 1

    finished = events_of(deployment, "operation.stop", "operation.exception")
    assert len(finished) == 534
    agrees_with_every_observation(its.work, finished)
    # Which operations did it may be told some seconds later.
    its = wait_until(lambda: told_of_all_operations(pool, 534), "each operation is told")
    for name in ("echo", "occupy", "fail", "fail_until", "ignore"):
        operation = f"sample_operations.{name}"
        agrees_with_every_observation(
            its.by_operation[operation],
            [event for event in finished if event["operation"] == operation],
        )
    assert its.by_operation["sample_operations.fail_until"].errors == {"connection": 15}
    named = by_name(
        {
            k.encode(): v
            for k, v in deployment.redis.hgetall(keys.pool_totals_by_name("code")).items()
        }
    )
    assert named == {
        operation: {outcome: count for outcome, count in work.operations.items() if count}
        for operation, work in its.by_operation.items()
    }
    assert sum(one.throughput for one in its.by_operation.values()) > 0

    points = pool.history(600)
    assert sum(point.work.operations[Outcome.SUCCESS] for point in points if point.work.operations)
    assert max(point.load.busy or 0 for point in points) == 4
    assert max(point.load.backlog or 0 for point in points) > 100

    kinds = ("nodes", "totals", "by_name", "samples:", "operations:", "counted:")
    found = deployment.redis.keys("pooltasks:{*}:*")
    ours = {key for key in found if key.partition("}:")[2].startswith(kinds)}
    assert len(ours) == 6
    totals = {keys.pool_totals("code"), keys.pool_totals_by_name("code")}
    assert all(0 < deployment.redis.ttl(key) <= 86_400 for key in totals)
    assert all(0 < deployment.redis.ttl(key) <= 3660 for key in ours - totals)


def test_a_worker_killed_in_the_middle_is_one_lost_operation_and_one_recovery(
    deployment: Deployment, pool: Pool
) -> None:
    result = pool.submit("sample_operations.occupy", [1.0])

    def worker() -> int | None:
        started = events_of(deployment, "operation.start")
        return next((event["worker"] for event in started if event["id"] == result.id), None)

    os.kill(wait_until(worker, "it has started"), signal.SIGKILL)
    result.get(timeout=DEADLINE)
    wait_until(lambda: operations(pool) == {"success": 1, "lost": 1}, "counted once each")
    its = pool.metrics(600)
    assert its.work.recoveries == 1
    assert its.work.errors == {"communication": 1}
    assert its.work.error_rate == 0
    assert its.work.run.count == 1
    (recovery,) = events_of(deployment, "recovery")
    assert recovery["exitcode"] == -signal.SIGKILL
    assert 0 < recovery["duration"] < 5
    # Nothing of it goes on: the busy seconds end with the worker.
    assert its.load.busy == 0

    with pytest.raises(WorkerLostError):
        pool.submit("sample_operations.die_once_not_idempotent", ["key"]).get(timeout=DEADLINE)
    wait_until(lambda: pool.metrics(600).work.recoveries == 2, "another recovery")


def test_an_operation_killed_at_its_limit_is_a_failure_and_no_recovery(pool: Pool) -> None:
    pool.submit("sample_operations.ignore_the_soft_limit").get(timeout=DEADLINE, propagate=False)
    wait_until(lambda: operations(pool) == {"failure": 1}, "it is counted as a failure")
    wait_until(lambda: pool.metrics().load.warm == 4, "the worker is replaced")
    its = pool.metrics(600)
    assert its.work.errors == {"timeout": 1}
    assert its.work.recoveries == 0


def counted(pool: Pool) -> tuple[float, Counts]:
    """Return when the node last sampled, and all that it has counted until then."""
    store = SampleStore(pool.app.pooltasks.client, "code", [pool.queue], pool.settings.objective)
    samples = store.read(600).samples
    (its,) = samples.values()
    return its[-1].at, Counts.merged(one.sample.counts for one in its)


@pytest.mark.timing
def test_utilization_is_that_of_the_schedule(deployment: Deployment, pool: Pool) -> None:
    def occupy(*schedule: float) -> None:
        results = [pool.submit("sample_operations.occupy", [seconds]) for seconds in schedule]
        for result in results:
            result.get(timeout=DEADLINE)

    def all_are_counted(number: int) -> None:
        wait_until(lambda: operations(pool) == {"success": number}, f"{number} are counted")

    occupy(0.3, 0.3, 0.3, 0.3)  # every worker has connected to the server
    all_are_counted(4)
    began, before = counted(pool)
    occupy(1.5, 1.5, 1.5, 1.5)
    occupy(2.0, 2.0)
    all_are_counted(10)
    ended, after = counted(pool)
    busy, process = after.busy - before.busy, after.process - before.process
    assert process == pytest.approx(4 * (ended - began), rel=0.01)
    # A sleep may last longer than it was told to.
    slept = sorted(event["run"] for event in events_of(deployment, "operation.stop"))[4:]
    assert sum(slept) >= 10.0
    truth = sum(slept) / (4 * (ended - began))
    assert busy / process == pytest.approx(truth, rel=0.01)


@pytest.mark.timing
def test_a_silent_node_is_stale_then_dropped_and_may_come_back(
    deployment: Deployment, pool: Pool
) -> None:
    node = deployment.nodes[0]
    node.send_signal(signal.SIGSTOP)
    try:
        wait_until(
            lambda: [its.state for its in pool.metrics().nodes] == ["stale"], "stale", deadline=3.5
        )
        assert pool.metrics().load.size is None
        wait_until(lambda: pool.metrics().nodes == (), "dropped", deadline=LEASE - STALE + 0.5)
    finally:
        node.send_signal(signal.SIGCONT)
    wait_until(lambda: [its.state for its in pool.metrics().nodes] == ["live"], "live")


def test_the_last_operations_of_a_node_that_stops_are_counted(
    deployment: Deployment, pool: Pool
) -> None:
    result = pool.submit("sample_operations.occupy", [1.2])
    wait_until(lambda: pool.metrics().load.busy == 1, "it runs")
    deployment.nodes[0].terminate()
    result.get(timeout=DEADLINE)
    deployment.nodes[0].wait(DEADLINE)
    its = pool.metrics(600)
    assert its.nodes == ()
    assert its.load.size is its.work.throughput is None
    points = pool.history(600)
    assert (
        sum(p.work.operations[Outcome.SUCCESS] for p in points if p.work.operations is not None)
        == 1
    )


def test_samples_that_could_not_be_written_are_made_up_for(
    deployment: Deployment, pool: Pool
) -> None:
    server = deployment.redis
    # Samples are refused, operations go on.
    server.execute_command("ACL SETUSER", "default", "-xadd")
    try:
        for number in range(20):
            assert pool.submit("sample_operations.echo", [number]).get(timeout=DEADLINE) == number
        wait_until(lambda: "samples cannot be written" in deployment.log(), "a warning")
    finally:
        server.execute_command("ACL SETUSER", "default", "+@all")
    wait_until(lambda: operations(pool) == {"success": 20}, "all are counted")
    assert deployment.log().count("samples cannot be written") == 1
