"""Flow control with real nodes, some of which are killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flow_operations
import pytest
import turn_operations
from celery.exceptions import TaskRevokedError
from deployment import DEADLINE, wait_until

from pooltasks import Pool, keys
from pooltasks.errors import PoolSaturated

if TYPE_CHECKING:
    from deployment import Deployment

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

POOLS = """
    [pools.code]
    imports = ["flow_operations"]
    pool_size = 2
    max_queue = 40

    [pools.turns]
    imports = ["turn_operations"]
    pool_size = 2
    max_queue = 40
"""


@pytest.fixture
def pool(deployment: Deployment) -> Pool:
    app = deployment.configure(POOLS)
    deployment.start_node("-Q", "pool.code", "-n", "first@%h")
    deployment.start_node("-Q", "pool.code", "-n", "second@%h")
    return Pool("code", app=app)


def test_one_key_runs_once_at_a_time_while_nodes_die(deployment: Deployment, pool: Pool) -> None:
    once = pool.app.tasks[flow_operations.once.name]
    wait_until(lambda: deployment.living() == 2, "two nodes")
    with pytest.raises(PoolSaturated) as caught:
        pool.submit_many(once, [(f"key-{number}",) for number in range(80)])
    assert 0.05 <= caught.value.retry_after <= 60
    accepted = {result.id: result for result in caught.value.accepted}
    duplicates = 0
    for number in range(80):
        if number == 40:
            deployment.nodes[0].kill()
        wait_until(lambda: deployment.redis.llen("pool.code") < 40, "room")
        result = once.delay(f"key-{number // 2 % 40}")
        duplicates += result.is_duplicate
        accepted[result.id] = result
    assert all(result.get(timeout=DEADLINE) == id_ for id_, result in accepted.items())
    assert deployment.redis.get("together") is None
    assert duplicates
    ended = [
        id_ for number in range(80) for id_ in deployment.redis.lrange(f"ended:key-{number}", 0, -1)
    ]
    assert set(ended) == accepted.keys()
    wait_until(lambda: not deployment.redis.keys("pooltasks:*:unique:*"), "free keys")
    deployment.nodes.pop(0).wait()


def test_limits_hold_while_a_node_dies(deployment: Deployment, pool: Pool) -> None:
    limited = pool.app.tasks[flow_operations.limited.name]
    wait_until(lambda: deployment.living() == 2, "two nodes")
    calls = [(f"tenant-{number % 3}",) for number in range(36)]
    results = list(pool.submit_many(limited, calls))
    # A client without a key: Celery's own way.
    results += [pool.app.send_task(limited.name, call, queue="pool.code") for call in calls[:9]]
    results[3].get(timeout=DEADLINE)
    deployment.nodes[0].kill()
    deployment.nodes.pop(0).wait()
    assert {result.get(timeout=DEADLINE) for result in results}
    assert deployment.redis.get("too many") is None
    flow = keys.flow("pool.code", "*")
    wait_until(lambda: set(deployment.redis.keys(flow)) <= kept(), "nothing counted any more")
    assert deployment.redis.hkeys(keys.flow("pool.code", "running")) in ([], ["#"])


def kept() -> set[str]:
    return {keys.flow("pool.code", name) for name in ("limits", "nodes", "running", "resume")}


def test_a_rate_holds_for_all_nodes_together(deployment: Deployment, pool: Pool) -> None:
    slow_down = pool.app.tasks[flow_operations.slow_down.name]
    wait_until(lambda: deployment.living() == 2, "two nodes")
    results = pool.submit_many(slow_down, [()] * 40)
    starts = sorted(result.get(timeout=DEADLINE) for result in results)
    # 5 at once, the other 35 at 50 a second; 0.1 s for what the nodes are late.
    for at, moment in enumerate(starts):
        assert sum(moment - 0.2 < other <= moment for other in starts[:at]) <= 5 + 10 + 5
    assert 0.6 < starts[-1] - starts[0] < 3


def test_retries_and_starts(deployment: Deployment, pool: Pool) -> None:
    tasks = pool.app.tasks
    assert tasks["flow_operations.fail_at_first"].delay("a").get(timeout=DEADLINE) == 2
    assert deployment.redis.lrange("seen:a", 0, -1) == ["1", "1", "1"]
    following = tasks["flow_operations.follow"].delay("a").get(timeout=DEADLINE)
    assert following != "duplicate"
    assert pool.app.AsyncResult(following).get(timeout=DEADLINE) == "last"
    assert pool.execute("flow_operations.once", ["b"]) is not None
    expired = tasks["flow_operations.once"].apply_async(("c",), expires=0.001)
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=DEADLINE)
    wait_until(lambda: not deployment.redis.keys(keys.unique("pool.code", "*")), "free keys")


def test_a_flood_keeps_nobody_from_their_turn_while_a_node_dies(
    deployment: Deployment,
) -> None:
    app = deployment.configure(POOLS)
    for name in ("first", "second"):
        deployment.start_node("-Q", "pool.turns", "-n", f"{name}@%h")
    name, queue = turn_operations.take_turns.name, "pool.turns"
    wait_until(lambda: deployment.living(queue) == 2, "two nodes")
    # All of it as stock clients send it, without keys and past max_queue.
    results = [app.send_task(name, ("flood", number), queue=queue) for number in range(300)]
    wait_until(lambda: deployment.redis.llen("starts") > 4, "the flood")
    deployment.nodes[0].kill()
    deployment.nodes.pop(0).wait()
    late = [app.send_task(name, ("late", number), queue=queue) for number in range(3)]
    late.append(app.send_task(name, ("clumsy", 3), queue=queue))
    waits = turn_operations.take_turns_waiting.name
    late.append(app.send_task(waits, ("async",), queue=queue))
    assert [result.get(timeout=DEADLINE) for result in late] == [0, 1, 2, 3, "async"]
    lasting = deployment.redis.llen("starts")
    assert lasting < 150, "the others wait for the end of the flood"
    results[-1].revoke()
    done = [result.get(timeout=DEADLINE) for result in results[:-1]]
    assert done == [*range(299)]
    with pytest.raises(TaskRevokedError):
        results[-1].get(timeout=DEADLINE)
    left = {keys.flow(queue, name) for name in keys.OF_TURNS}
    wait_until(lambda: not left & set(deployment.redis.keys(keys.flow(queue, "*"))), "no lines")
