"""A node that is told to stop, in every way there is, harms no operation and nobody who waits."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool

if TYPE_CHECKING:
    import subprocess

    from celery.result import AsyncResult

pytestmark = pytest.mark.long

# One death would be one too many: a stop counts no delivery.
CONFIGURATION = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 2
    max_deliveries = 1
    operation_timeout = 300
"""


@pytest.fixture
def pool(deployment: Deployment) -> Pool:
    return Pool("code", app=deployment.configure(CONFIGURATION))


def start(deployment: Deployment, name: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a node and return it when it takes operations."""
    living = deployment.living()
    node = deployment.start_node("-Q", "pool.code", "-n", f"{name}@%h", *options)
    number = deployment.nodes.index(node)
    wait_until(lambda: " ready." in deployment.log(number), f"{name} is ready")
    wait_until(lambda: deployment.living() == living + 1, f"{name} has its lease")
    return node


def begun(deployment: Deployment, result: AsyncResult) -> int:
    """Return how often an operation ``hold`` has begun."""
    return int(deployment.redis.get(f"begun:{result.id}") or 0)


def hold(deployment: Deployment, pool: Pool) -> AsyncResult:
    """Have an operation run that goes on until the key ``go`` is there."""
    result = pool.submit("sample_operations.hold", ["go"])
    wait_until(lambda: begun(deployment, result) == 1, "it has begun")
    return result


def test_an_idle_node_ends_soon_and_well(deployment: Deployment, pool: Pool) -> None:
    node = start(deployment, "first")
    assert pool.execute("sample_operations.echo", [1], timeout=DEADLINE) == 1
    node.terminate()
    assert node.wait(DEADLINE) == 0
    assert deployment.living() == 0
    assert deployment.reserved() == 0


@pytest.mark.timing
def test_nobody_waits_for_a_node_that_drains_while_another_one_is_free(
    deployment: Deployment, pool: Pool
) -> None:
    first = start(deployment, "first")
    held = hold(deployment, pool)
    finishing = pool.submit("sample_operations.occupy", [1.0])
    wait_until(lambda: deployment.reserved() == 2, "both run")
    start(deployment, "second")

    first.terminate()
    waits = []
    for number in range(40):
        begun_at = time.monotonic()
        answer = pool.execute("sample_operations.echo", [number], timeout=DEADLINE)
        waits.append(time.monotonic() - begun_at)
        assert answer == number

    # 0.5 s is the promise on a quiet machine; the rest is for a busy one.
    assert max(waits) < 1.5
    finishing.get(timeout=DEADLINE)
    wait_until(lambda: deployment.reserved() == 1, "what has finished is acknowledged meanwhile")
    assert first.poll() is None
    deployment.redis.set("go", 1)
    assert held.get(timeout=DEADLINE) == 1
    assert first.wait(DEADLINE) == 0


def test_a_warm_stop_is_one_however_often_it_is_repeated(
    deployment: Deployment, pool: Pool
) -> None:
    first = start(deployment, "first")
    held = [hold(deployment, pool) for _ in range(2)]
    waiting = [pool.submit("sample_operations.echo", [number]) for number in range(20)]
    for _ in range(3):
        first.terminate()
        at = time.monotonic()
        wait_until(lambda at=at: time.monotonic() - at > 0.1, "the next signal")
    start(deployment, "second")
    assert [each.get(timeout=DEADLINE) for each in waiting] == list(range(20))
    assert first.poll() is None
    deployment.redis.set("go", 1)
    assert [each.get(timeout=DEADLINE) for each in held] == [1, 1]
    assert first.wait(DEADLINE) == 0


class Stop(NamedTuple):
    """A stop that does not wait for what runs."""

    signals: tuple[tuple[float, int], ...]
    """Seconds after the one before, and the signal."""
    options: tuple[str, ...] = ()
    environment: tuple[str, str] | None = None


TERM, QUIT, INT, KILL = signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGKILL
COLD = {
    "SIGQUIT": Stop(((0, QUIT),)),
    "Ctrl-C twice": Stop(((0, INT), (0.3, INT))),
    "SIGTERM, then SIGKILL": Stop(((0, TERM), (2, KILL))),
    "SIGTERM, then SIGQUIT": Stop(((0, TERM), (0.3, QUIT))),
    "REMAP_SIGTERM": Stop(((0, TERM),), environment=("REMAP_SIGTERM", "SIGQUIT")),
    "soft": Stop(((0, QUIT),), ("--", ".soft_shutdown_timeout=1")),
}


def carry_out(stop: Stop, node: subprocess.Popen[bytes]) -> None:
    for seconds, number in stop.signals:
        at = time.monotonic()
        wait_until(lambda at=at, seconds=seconds: time.monotonic() - at >= seconds, "its time")
        node.send_signal(number)
    node.wait(DEADLINE)


@pytest.mark.parametrize("name", list(COLD))
def test_what_a_stop_interrupts_runs_again_elsewhere_and_counts_no_delivery(
    deployment: Deployment, pool: Pool, name: str
) -> None:
    stop = COLD[name]
    if stop.environment:
        deployment.environment.update([stop.environment])
    first = start(deployment, "first", *stop.options)
    finished = [pool.submit("sample_operations.mark_and_occupy", ["marks", 0]) for _ in range(5)]
    for each in finished:
        each.get(timeout=DEADLINE)
    held = hold(deployment, pool)
    start(deployment, "second", *stop.options)

    carry_out(stop, first)

    wait_until(lambda: begun(deployment, held) == 2, "it runs again")
    deployment.redis.set("go", 1)
    assert held.get(timeout=DEADLINE) == 2
    assert deployment.redis.llen("marks") == 5, "what had finished ran again"
    listed = deployment.run("pooltasks", "dead", "list", "code", "--json")
    assert json.loads(listed.stdout) == []


def test_a_soft_stop_lets_what_ends_in_time_end(deployment: Deployment, pool: Pool) -> None:
    first = start(deployment, "first", "--", ".soft_shutdown_timeout=10")
    short = pool.submit("sample_operations.mark_and_occupy", ["marks", 1])
    wait_until(lambda: deployment.redis.llen("marks") == 1, "it runs")
    first.send_signal(QUIT)
    short.get(timeout=DEADLINE)
    first.wait(DEADLINE)
    assert deployment.redis.llen("marks") == 1
    assert deployment.reserved() == 0


def test_what_three_deployments_interrupt_is_finished_by_the_fourth_node(
    deployment: Deployment, pool: Pool
) -> None:
    held = pool.submit("sample_operations.hold", ["go"])
    for number in range(3):
        node = start(deployment, f"node-{number}")
        wait_until(lambda number=number: begun(deployment, held) == number + 1, "it runs")
        carry_out(COLD["SIGTERM, then SIGKILL"], node)
        wait_until(lambda: deployment.living() == 0 or deployment.reserved(), "it is gone")
    start(deployment, "the-last")
    wait_until(lambda: begun(deployment, held) == 4, "it runs a fourth time")
    deployment.redis.set("go", 1)
    assert held.get(timeout=DEADLINE) == 4


def test_remote_control_stops_a_node_as_sigterm_does(deployment: Deployment, pool: Pool) -> None:
    node = start(deployment, "first")
    held = hold(deployment, pool)
    asked: Any = deployment.run("celery", "-A", "pooltasks", "control", "shutdown")
    assert "Traceback" not in asked.stderr
    deployment.redis.set("go", 1)
    assert held.get(timeout=DEADLINE) == 1
    assert node.wait(DEADLINE) == 0
