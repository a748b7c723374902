"""Where one operation is, and what becomes of those that wait."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import flow_operations
import pytest
from deployment import DEADLINE, wait_until

from pooltasks import Pool, keys

if TYPE_CHECKING:
    from deployment import Deployment

pytestmark = pytest.mark.long

ONE_WORKER = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 1
    max_pool_size = 1
    enable_optimizer = false
"""

FLOW = ONE_WORKER.replace("sample_operations", "flow_operations").replace("= 1\n", "= 3\n")


def places(deployment: Deployment, identifier: str) -> list[dict[str, Any]]:
    answer = deployment.run("pooltasks", "inspect", identifier, "--json").stdout
    found: list[dict[str, Any]] = json.loads(answer)
    return found


def test_an_operation_is_followed_from_the_queue_to_its_result(deployment: Deployment) -> None:
    pool = Pool("code", app=deployment.configure(ONE_WORKER))
    results = [pool.submit("sample_operations.echo", [number]) for number in range(2)]
    (place,) = places(deployment, results[1].id)
    assert (place["state"], place["pool"], place["place"]) == ("waiting", "code", 2)
    completed = deployment.run("pooltasks", "inspect", results[0].id)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith(
        "sample_operations.echo waits in the queue of the pool code, at place 1 of 2. It has waited"
    )

    deployment.start_node("-Q", "pool.code")
    assert results[1].get(timeout=DEADLINE) == 1
    (place,) = places(deployment, results[1].id)
    assert (place["state"], place["result"]) == ("result", "SUCCESS")

    busy = pool.submit("sample_operations.occupy", [DEADLINE / 2])
    wait_until(
        lambda: "running" in [its["state"] for its in places(deployment, busy.id)],
        "it is seen running",
    )


def test_an_operation_that_is_found_nowhere_is_one_message(deployment: Deployment) -> None:
    deployment.configure(ONE_WORKER)
    completed = deployment.run("pooltasks", "inspect", "no-such-id")
    assert completed.returncode == 1
    assert "The operation no-such-id is found nowhere" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_what_waits_is_purged_when_that_is_confirmed(deployment: Deployment) -> None:
    pool = Pool("code", app=deployment.configure(ONE_WORKER))
    for number in range(3):
        pool.submit("sample_operations.echo", [number])
    refused = deployment.run("pooltasks", "purge", "code", input="n\n")
    assert refused.returncode == 1
    assert deployment.redis.llen("pool.code") == 3
    completed = deployment.run("pooltasks", "purge", "code", "--yes")
    assert completed.stdout == "3 operations deleted from the queue of the pool code\n"
    assert deployment.redis.llen("pool.code") == 0


def test_the_purge_of_celery_deletes_lists_and_keeps_nobody_from_their_turn(
    deployment: Deployment,
) -> None:
    app = deployment.configure(FLOW)
    deployment.start_node("-Q", "pool.code")
    wait_until(lambda: deployment.living() == 1, "the node")
    limited = app.tasks[flow_operations.limited.name]
    held = [limited.delay("a", 0.5) for _ in range(8)]
    wait_until(lambda: deployment.redis.zcard(keys.flow("pool.code", "held")) >= 4, "some are held")
    completed = deployment.run("celery", "-A", "pooltasks", "purge", "-f", "-Q", "pool.code")
    assert completed.returncode == 0, completed.stderr
    assert "Purged" in completed.stdout or "No messages purged" in completed.stdout
    # An operation that has had its turn may have lain in the list. Nothing else is lost, or in
    # the way.
    later = limited.delay("a")
    later.get(timeout=DEADLINE)
    wait_until(lambda: sum(result.ready() for result in held) >= 6, "what was held has run")
    deployment.redis.hset(keys.flow("pool.code", "limits"), f"key {limited.name}/b", "0 - -")
    for _ in range(3):
        limited.delay("b")
    wait_until(lambda: deployment.redis.zcard(keys.flow("pool.code", "held")) == 3, "all are held")
    completed = deployment.run("pooltasks", "purge", "code", "--yes")
    assert "3 operations deleted" in completed.stdout
    assert "3 that limits held back" in completed.stdout


def test_a_quiet_pool_takes_nothing_until_it_is_resumed(serving: Deployment) -> None:
    completed = serving.run("pooltasks", "quiet", "code", "--wait")
    assert completed.returncode == 0, completed.stderr
    assert "drained: it takes no operations and has none" in completed.stdout
    waiting = serving.pool.submit("sample_operations.echo", ["later"])
    assert places(serving, waiting.id)[0]["state"] == "waiting"
    assert serving.run("pooltasks", "resume", "code").returncode == 0
    assert waiting.get(timeout=DEADLINE) == "later"
