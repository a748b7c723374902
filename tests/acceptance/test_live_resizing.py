"""A pool changes its size while it works."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from functools import partial

import pytest
from deployment import DEADLINE, Deployment, Node, wait_until

from pooltasks import Pool, keys

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]


def test_random_resizes_under_load_lose_nothing_and_run_nothing_twice(
    deployment: Deployment,
) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 2
        max_pool_size = 6
    """)
    deployment.start_node("-Q", "pool.code")
    node = Node(deployment, app)
    pool = Pool("code", app=app)
    seeded = random.Random(5)
    results = []
    for _ in range(100):
        results += [
            pool.submit("sample_operations.mark_and_occupy", ["marks", seeded.random() / 50])
            for _ in range(8)
        ]
        size, spares = seeded.randint(0, 7), seeded.randint(0, 2)
        reply = node.ask("pool_resize", size=size, spares=spares)
        assert reply["refused"] is None
        assert reply["size"] == reply["prefetch"] == min(max(size, 1), 6)
        assert reply["warm"] + reply["warming"] + reply["spares"] >= reply["size"]
    for result in results:
        result.get(timeout=DEADLINE)
    assert deployment.redis.llen("marks") == len(results)
    size = node.ask("pool_resize", size=3, spares=1)["size"]
    node.wait_for(warm=size, spares=1, warming=0, busy=0, prefetch=size)
    assert "Traceback" not in deployment.log()


def test_a_pool_that_shrinks_interrupts_no_operation(deployment: Deployment) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 3
    """)
    deployment.start_node("-Q", "pool.code")
    node = Node(deployment, app)
    pool = Pool("code", app=app)
    node.wait_for(warm=3)
    running = [pool.submit("sample_operations.occupy", [1]) for _ in range(3)]
    busy = {worker["pid"] for worker in node.wait_for(busy=3)["workers"] if worker["busy"]}
    reply = node.ask("pool_resize", size=1)
    assert (reply["size"], reply["warm"], reply["prefetch"]) == (1, 3, 1)
    assert {result.get(timeout=DEADLINE) for result in running} == busy
    (worker,) = node.wait_for(warm=1, busy=0)["workers"]
    assert worker["pid"] in busy


@pytest.mark.timing
def test_a_spare_takes_over_from_a_dead_worker_and_for_growth(deployment: Deployment) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        spares = 1
        warmup = { commands = [{ operation = "sample_operations.warm", kwargs = { seconds = 3 } }] }
    """)
    deployment.start_node("-Q", "pool.code")
    node = Node(deployment, app)
    pool = Pool("code", app=app)
    states = {w["state"]: w["pid"] for w in node.wait_for(warm=1, spares=1, warming=0)["workers"]}
    assert pool.execute("sample_operations.probe", timeout=DEADLINE)["pid"] == states["warm"]

    killed_at = time.monotonic()
    os.kill(states["warm"], signal.SIGKILL)
    answer = pool.execute("sample_operations.probe", timeout=DEADLINE)
    # 30 ms until it serves is measured elsewhere; a warm-up would take 3 s.
    assert time.monotonic() - killed_at < 2
    assert answer == {"pid": states["spare"], "warm": True}

    status = node.wait_for(warm=1, spares=1, warming=0)
    (spare,) = (worker["pid"] for worker in status["workers"] if worker["state"] == "spare")
    busy = pool.submit("sample_operations.occupy", [4])
    node.wait_for(busy=1)
    asked_at = time.monotonic()
    assert node.ask("pool_resize", size=2)["warm"] == 2
    assert pool.execute("sample_operations.probe", timeout=DEADLINE)["pid"] == spare
    assert time.monotonic() - asked_at < 2
    assert busy.get(timeout=DEADLINE) == states["spare"]


def test_a_resize_that_is_wrong_or_of_an_optimizer_that_lost_its_lock_is_refused(
    serving: Deployment,
) -> None:
    node = Node(serving, serving.app)
    for wrong in ({"size": "3"}, {"size": True}, {"size": -1}, {"size": 3, "spares": 0.5}):
        assert "allowed: a whole number" in node.ask("pool_resize", **wrong)["refused"]
    assert node.ask("pool_resize", size=2, token=7)["refused"] is None
    reply = node.ask("pool_resize", size=3, token=6)
    assert "token 6 is refused" in reply["refused"]
    assert (reply["size"], reply["token"]) == (2, 7)
    assert node.ask("pool_resize", size=2)["refused"] is None


def test_celery_s_own_grow_and_shrink_keep_the_prefetch_count_right(serving: Deployment) -> None:
    node = Node(serving, serving.app)
    control = partial(serving.app.control.broadcast, destination=[node.name], reply=True, limit=1)
    control("pool_grow", arguments={"n": 2})
    assert node.wait_for(size=4, warm=4, prefetch=4)
    control("pool_shrink", arguments={"n": 3})
    node.wait_for(size=1, warm=1, prefetch=1)
    control("pool_shrink", arguments={"n": 1})
    node.wait_for(size=1, warm=1, prefetch=1)
    control("pool_grow", arguments={"n": 1})
    node.wait_for(size=2, warm=2, prefetch=2)


def test_what_waits_for_its_time_costs_the_node_no_prefetch(serving: Deployment) -> None:
    node = Node(serving, serving.app)
    # As a client without pooltasks sends it: the node has it wait at the server.
    later = serving.app.send_task(
        "sample_operations.echo", ["later"], queue="pool.code", countdown=1.5
    )
    delayed = keys.delayed("pool.code")
    wait_until(lambda: serving.redis.zcard(delayed) == 1, "the operation waits at the server")
    assert node.status()["prefetch"] == 2
    assert node.ask("pool_resize", size=3)["prefetch"] == 3
    assert later.get(timeout=DEADLINE) == "later"
    assert serving.redis.zcard(delayed) == 0
    assert node.ask("pool_resize", size=2)["prefetch"] == 2


def test_resize_and_drain_as_commands(serving: Deployment) -> None:
    node = Node(serving, serving.app)
    completed = serving.run("celery", "-A", "pooltasks", "pool", "resize", "code", "3", "--json")
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)[node.name]["size"] == 3
    completed = serving.run("pooltasks", "resize", "code", "400")
    assert completed.returncode == 2
    assert "The node allows 1 to 16 workers" in completed.stderr
    assert node.status()["size"] == 3  # nothing was changed
    assert serving.run("pooltasks", "resize", "code", "2").returncode == 0

    running = serving.pool.submit("sample_operations.occupy", [0.5])
    node.wait_for(busy=1)
    completed = serving.run("pooltasks", "drain", "code", "--json")
    assert completed.returncode == 0, completed.stderr
    assert running.ready()
    assert json.loads(completed.stdout)[node.name] == {
        "draining": True,
        "reserved": 0,
        "empty": True,
    }
    waiting = serving.pool.submit("sample_operations.echo", ["after"])
    completed = serving.run("pooltasks", "drain", node.name, "--undo")
    assert completed.stdout.splitlines() == [f"{node.name}: takes operations again"]
    assert waiting.get(timeout=DEADLINE) == "after"
