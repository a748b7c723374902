"""Workers that run several operations at once."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import TimeLimitExceeded
from deployment import DEADLINE, Deployment, Node, wait_until

from pooltasks import Pool
from pooltasks.errors import OperationTimeout, PoisonedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery.result import AsyncResult

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]


def start(deployment: Deployment, **settings: Any) -> Pool:
    """Start a node with workers of several slots; return its pool."""
    lines = [f"{key} = {value}" for key, value in settings.items()]
    app = deployment.configure(
        "\n".join(["[pools.code]", 'imports = ["sample_operations"]', *lines, ""])
    )
    deployment.start_node("-Q", "pool.code")
    pool = Pool("code", app=app)
    deployment.wait_for_warm(settings["pool_size"])
    return pool


def submit(pool: Pool, name: str, *args: Any) -> AsyncResult:
    return pool.submit(f"sample_operations.{name}", list(args))


def outcomes(results: Sequence[AsyncResult]) -> list[Any]:
    found = []
    for result in results:
        try:
            found.append(result.get(timeout=DEADLINE))
        except Exception as error:  # noqa: BLE001  what it is, is what is asked
            found.append(type(error))
    return found


def workers_of(deployment: Deployment, pool: Pool) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = Node(deployment, pool.app).status()["workers"]
    return workers


@pytest.mark.timing
@pytest.mark.parametrize(("operation", "number", "slots"), [("occupy", 20, 10), ("wait", 200, 100)])
def test_what_waits_waits_together(
    deployment: Deployment, operation: str, number: int, slots: int
) -> None:
    pool = start(deployment, pool_size=2, slots=slots)
    begun = time.monotonic()
    results = [submit(pool, operation, 1.0) for _ in range(number)]
    found = outcomes(results)
    assert time.monotonic() - begun < 2.5
    if operation == "occupy":
        assert sorted(map(found.count, set(found))) == [10, 10]
    else:
        # Each knew who it was, before it waited and after.
        assert found == [[result.id] * 4 for result in results]


def test_what_is_counted_is_exact(deployment: Deployment) -> None:
    pool = start(deployment, pool_size=2, slots=10)
    # Longer than from one sample to the next, on a loaded machine too.
    results = [submit(pool, name, 3.0) for name in ("occupy", "wait") for _ in range(10)]
    busy = wait_until(
        lambda: (load := pool.metrics().load).running == 20 and load, "all slots are busy"
    )
    assert (busy.busy, busy.capacity) == (2, 20)
    outcomes(results)
    work = wait_until(
        lambda: (its := pool.metrics().work).operations["success"] == 20 and its, "the last sample"
    )
    assert work.run.count == work.wait.count == 20
    assert work.run.mean * 20 <= work.busy < work.run.mean * 20 + 2
    time.sleep(2)  # so long nothing happens
    work = pool.metrics().work
    process = work.busy / work.utilization
    status = deployment.status()
    seconds = sum(worker["age"] for worker in status["workers"]) * status["slots"]
    assert 0.5 * seconds < process <= seconds


def test_what_a_killed_worker_ran_runs_again_and_nothing_is_lost(
    deployment: Deployment,
) -> None:
    pool = start(deployment, pool_size=2, slots=10)
    results = [submit(pool, "mark_and_occupy", "marks", 4.0) for _ in range(20)]
    wait_until(lambda: deployment.redis.llen("marks") == 20, "all run")
    victim = workers_of(deployment, pool)[0]
    assert victim["running"] == 10
    os.kill(victim["pid"], signal.SIGKILL)
    assert outcomes(results) == [None] * 20
    assert deployment.redis.llen("marks") == 30
    counted = wait_until(
        lambda: (its := pool.metrics().work.operations)["success"] == 20 and its, "the last sample"
    )
    assert counted["lost"] == 10
    assert pool.metrics().load.busy == 0


def test_a_soft_limit_strikes_the_one_whose_limit_it_is(deployment: Deployment) -> None:
    pool = start(deployment, pool_size=1, slots=6)
    neighbours = [submit(pool, name, 1.0) for name in ("occupy", "wait", "occupy", "wait")]
    late = [submit(pool, "compute_too_long"), submit(pool, "wait_too_long", 0.1)]
    assert outcomes(late) == [OperationTimeout] * 2
    assert all(not isinstance(found, type) for found in outcomes(neighbours))
    assert len(workers_of(deployment, pool)) == 1
    counted = wait_until(
        lambda: (its := pool.metrics().work.operations)["success"] == 4 and its, "the last sample"
    )
    assert (counted["failure"], counted["lost"]) == (2, 0)


def test_a_hard_limit_and_a_revocation_harm_no_neighbour(deployment: Deployment) -> None:
    pool = start(deployment, pool_size=1, slots=4, max_deliveries=1)
    neighbour = submit(pool, "mark_and_occupy", "marks", 6.0)
    wait_until(lambda: deployment.redis.llen("marks") == 1, "it runs")
    assert outcomes([submit(pool, "ignore_the_soft_limit")]) == [TimeLimitExceeded]
    wait_until(lambda: deployment.redis.llen("marks") == 2, "it runs again")
    revoked = submit(pool, "occupy", 60)
    wait_until(lambda: workers_of(deployment, pool)[0]["running"] == 2, "both run")
    pool.app.control.revoke(revoked.id, terminate=True, signal="SIGKILL")
    assert outcomes([neighbour]) == [None]
    assert deployment.redis.llen("marks") == 3
    assert wait_until(lambda: revoked.state == "REVOKED", "it is revoked")
    assert not deployment.redis.hlen("pooltasks:{pool.code}:dead")


def test_what_kills_its_worker_is_buried_and_its_neighbours_are_not(
    deployment: Deployment,
) -> None:
    pool = start(deployment, pool_size=2, slots=5, max_deliveries=2)
    innocent = [submit(pool, "mark_and_occupy", "marks", 0.7) for _ in range(8)]
    wait_until(lambda: deployment.redis.llen("marks") == 8, "the innocent run")
    guilty = [submit(pool, "die_always", f"deaths-{number}") for number in range(4)]
    assert outcomes(guilty) == [PoisonedError] * 4
    assert outcomes(innocent) == [None] * 8
    # Once beside others, then alone as often as is allowed. One that another kills before
    # it has noted its start notes one start fewer.
    assert {int(deployment.redis.get(f"deaths-{number}")) for number in range(4)} <= {1, 2, 3}


def test_a_shrinking_node_interrupts_no_slot_and_its_prefetch_count_is_exact(
    deployment: Deployment,
) -> None:
    pool = start(deployment, pool_size=3, max_pool_size=4, slots=5)
    node = Node(deployment, pool.app)
    before = node.status()["prefetch"]
    results = [submit(pool, "mark_and_occupy", "marks", 1.0) for _ in range(15)]
    wait_until(lambda: deployment.redis.llen("marks") == 15, "all run")
    assert node.ask("pool_resize", size=1)["prefetch"] * 3 == before
    assert outcomes(results) == [None] * 15
    assert deployment.redis.llen("marks") == 15
    node.wait_for(warm=1, busy=0)
    pool.app.control.pool_grow(3, reply=True)
    assert node.wait_for(warm=4)["prefetch"] * 3 == before * 4


def test_a_node_that_is_stopped_lets_every_slot_finish(deployment: Deployment) -> None:
    pool = start(deployment, pool_size=1, slots=8)
    results = [submit(pool, name, 4.0) for name in ("occupy", "wait") for _ in range(4)]
    wait_until(lambda: workers_of(deployment, pool)[0]["running"] == 8, "all run")
    deployment.nodes[0].terminate()
    deployment.nodes[0].wait(DEADLINE)
    assert all(not isinstance(found, type) for found in outcomes(results))


def test_a_lazy_worker_warms_up_once_before_its_first_operations(deployment: Deployment) -> None:
    warm_up = '{ commands = [{ operation = "sample_operations.warm", args = [1.0] }] }'
    pool = start(deployment, pool_size=2, slots=5, lazy="true", warmup=warm_up)
    assert deployment.redis.get("warm-ups") is None
    results = [submit(pool, "probe") for _ in range(30)]
    found = outcomes(results)
    assert all(its["warm"] for its in found)
    # The one that is warm first may have run all of them meanwhile; both have room for five.
    both = outcomes([submit(pool, "occupy", 1.0) for _ in range(10)])
    assert set(both) == {worker["pid"] for worker in workers_of(deployment, pool)}
    assert deployment.redis.get("warm-ups") == "2"


def test_a_lazy_worker_whose_warm_up_fails_loses_nothing(deployment: Deployment) -> None:
    warm_up = '{ commands = [{ operation = "sample_operations.warm", args = [0.0, "there"] }] }'
    pool = start(deployment, pool_size=2, slots=5, lazy="true", warmup=warm_up, max_deliveries=1)
    results = [submit(pool, "probe") for _ in range(30)]
    wait_until(lambda: int(deployment.redis.get("warm-ups") or 0) >= 3, "warm-ups have failed")
    deployment.redis.set("there", 1)
    assert all(its["warm"] for its in outcomes(results))
    assert not deployment.redis.hlen("pooltasks:{pool.code}:dead")


def test_a_warm_up_on_demand_disturbs_no_slot(deployment: Deployment) -> None:
    warm_up = '{ commands = [{ operation = "sample_operations.warm", args = [0.5] }] }'
    pool = start(deployment, pool_size=2, slots=6, warmup=warm_up)
    before = {worker["pid"] for worker in workers_of(deployment, pool)}
    results = [submit(pool, name, "go") for name in ("hold", "hold_waiting") for _ in range(4)]
    wait_until(lambda: sum(it["running"] for it in workers_of(deployment, pool)) == 8, "all run")
    node = Node(deployment, pool.app)
    number = node.ask("pool_warm")["round"]
    report = wait_until(
        lambda: (its := node.ask("pool_warm_report", number=number))["finished"] and its,
        "the warm-up has ended",
    )
    assert report["workers"] == report["succeeded"] == 2
    # It did not wait for them, nor end them.
    assert sum(it["running"] for it in node.status()["workers"]) == 8
    # What comes meanwhile finds a free slot.
    assert outcomes([submit(pool, "probe") for _ in range(8)])
    deployment.redis.set("go", "1")
    assert outcomes(results) == [1] * 8
    assert deployment.redis.get("warm-ups") == "4"
    assert {worker["pid"] for worker in workers_of(deployment, pool)} == before


def test_a_worker_is_recycled_when_its_slots_are_done_and_nothing_runs_twice(
    deployment: Deployment,
) -> None:
    pool = start(deployment, pool_size=2, slots=4, recycle_operations=10, health_check_interval=0.2)
    before = {worker["pid"] for worker in workers_of(deployment, pool)}
    results = [submit(pool, "mark_and_occupy", "marks", 0.1) for _ in range(100)]
    assert outcomes(results) == [None] * 100
    assert deployment.redis.llen("marks") == 100
    wait_until(
        lambda: not before & {it["pid"] for it in workers_of(deployment, pool)}, "all are new"
    )
    assert wait_until(lambda: pool.metrics().work.operations["success"] == 100, "the last sample")
    assert pool.metrics().work.operations["lost"] == 0


def test_operations_of_one_worker_wait_for_others_at_one_backend(deployment: Deployment) -> None:
    pool = start(deployment, pool_size=2, slots=12)
    results = [submit(pool, "ask", number) for number in range(20)]
    found = outcomes(results)
    assert [answer for answer, _, _ in found] == list(range(20))
    workers = {process for _, process, _ in found}
    assert len({(process, backend) for _, process, backend in found}) == len(workers)
