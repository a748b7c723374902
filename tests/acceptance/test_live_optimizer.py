"""A pool sizes itself, and goes on at its size when whoever sizes it is gone."""

from __future__ import annotations

import json
import math
import signal
import time
from typing import TYPE_CHECKING

import pytest
import redis
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks.embedded import EmbeddedServer
    from pooltasks.metrics.decisions import PoolDecision

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

CONFIGURATION = """
[pools.code]
imports = ["sample_operations"]
pool_size = 2
min_pool_size = 2
max_pool_size = 12
"""
SIZED = 5
"""Beat, control node and pool together answer within so many seconds, on a busy machine too."""


@pytest.fixture(scope="module")
def sized(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A node, the control node and beat, shared by the tests of this module, in their order."""
    url = valkey.url.removesuffix("/0") + "/6"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    deployment = Deployment(tmp_path_factory.mktemp("sized"), url)
    deployment.app = deployment.configure(CONFIGURATION)
    deployment.pool = Pool("code", app=deployment.app)
    try:
        deployment.start_node("-Q", "pool.code")
        deployment.control = deployment.start_node("-Q", "pool.control")
        deployment.beat = deployment.start_beat()
        wait_until(deployment.pool.decisions().current, "the first decision")
        yield deployment
    finally:
        deployment.stop()


def decisions(deployment: Deployment) -> list[PoolDecision]:
    return deployment.pool.decisions().history()


def another(deployment: Deployment, after: float) -> PoolDecision:
    """Return the first decision that is made after now, while the pool does something."""

    def made() -> PoolDecision | None:
        # Nodes at rest sample seldom, and nothing is decided without new samples.
        deployment.pool.execute("ping", timeout=DEADLINE)
        last = deployment.pool.decisions().current()
        return last if last and last.at > after else None

    return wait_until(made, f"a decision after {after}; the log:\n{deployment.log(1)[-3000:]}")


def size(deployment: Deployment) -> int | None:
    return deployment.pool.metrics().load.size


def test_a_step_of_the_load_makes_the_pool_grow(sized: Deployment) -> None:
    results = []
    began = time.monotonic()
    step = None
    for number in range(220):
        calm = number < 20
        at = number / 10 if calm else 2 + (number - 20) / 40
        time.sleep(max(0.0, began + at - time.monotonic()))  # the rate of arrivals
        step = step or (None if calm else time.time())
        results.append(sized.pool.submit("sample_operations.occupy", (0.1,)))
    assert [result.get(timeout=DEADLINE) for result in results]

    wait_until(lambda: size(sized) >= 5, "the node has grown")
    grown = next(d for d in decisions(sized) if d.at > step and d.told and d.target >= 5)
    assert grown.at - step < SIZED
    assert f"From {grown.before} to {grown.wanted} slots: " in grown.reason
    assert grown.inputs["rate"] > 5
    assert grown.told == list(grown.nodes)
    assert all(2 <= d.target <= 12 for d in decisions(sized) if d.acting)


def test_status_and_a_dry_run_say_what_is_wanted_and_why(sized: Deployment) -> None:
    for arguments in (("status", "code"), ("optimize", "code", "--dry-run")):
        completed = sized.run("pooltasks", *arguments)
        # While it is loaded the pool may be bad, which status says with 1.
        assert completed.returncode in (0, 1), completed.stderr
        assert " slots: " in completed.stdout
    completed = sized.run("pooltasks", "status", "--json")
    wanted = json.loads(completed.stdout)["optimizer"]["code"]
    assert wanted["hosts"] == 1
    assert sum(wanted["nodes"].values()) == wanted["target"]
    assert wanted["reason"].endswith(".")


def test_while_it_is_paused_the_operator_s_size_stays(sized: Deployment) -> None:
    paused = sized.run("pooltasks", "optimize", "code", "--pause", "60")
    assert paused.returncode == 0, paused.stderr
    assert sized.run("pooltasks", "resize", "code", "11").returncode == 0
    wait_until(lambda: size(sized) == 11, "the operator's size")
    watched = another(sized, time.time() + 1.5)
    assert not watched.acting
    assert watched.before == 11 == size(sized)
    assert sized.run("pooltasks", "optimize", "code", "--resume").returncode == 0
    assert another(sized, time.time() + 1).acting


def test_two_optimizers_decide_once_a_second(sized: Deployment) -> None:
    second = sized.start_node("-Q", "pool.control", "-n", "second@%h")
    beat = sized.start_beat()
    wait_until(lambda: "second@" in sized.log(3) and " ready." in sized.log(3), "a second one")
    began = time.time()
    last = another(sized, began + 4)
    made = [decision for decision in decisions(sized) if decision.at > began]
    # Of each second one; with the first and the last it is one more.
    assert len(made) <= math.ceil(last.at - began) + 1
    assert len(made) >= 3
    for process in (second, beat):
        process.send_signal(signal.SIGTERM)
    for process in (second, beat):
        process.wait(DEADLINE)


@pytest.mark.parametrize("victim", ["beat", "control"])
def test_without_beat_or_control_node_the_pool_keeps_its_size_and_serves(
    sized: Deployment, victim: str
) -> None:
    process = getattr(sized, victim)
    process.kill()
    process.wait()
    silence = time.time() + 3

    def settled() -> PoolDecision | None:
        sized.pool.execute("ping", timeout=DEADLINE)
        last = sized.pool.decisions().current()
        return last if time.time() > last.at + 1.5 and size(sized) == last.target else None

    last = wait_until(settled, "what was under way has arrived")
    while time.time() < silence:
        assert sized.pool.execute("ping", timeout=DEADLINE)["status"] == "ok"
        assert size(sized) == last.target
        time.sleep(0.1)  # between looks
    assert sized.pool.optimized_config().decision == last

    number = len(sized.nodes)
    if victim == "beat":
        sized.beat = sized.start_beat()
    else:
        sized.control = sized.start_node("-Q", "pool.control")
    said = "Starting..." if victim == "beat" else " ready."
    wait_until(lambda: said in sized.log(number), "it is back")
    back = time.time()
    resumed = another(sized, last.at)
    assert resumed.acting
    assert resumed.at - back < SIZED
