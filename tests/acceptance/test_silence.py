"""The server, or what lies between, falls silent: no connection ends, and nothing comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from deployment import DEADLINE, Deployment, wait_until
from tcp_proxy import Proxy

from pooltasks import Pool

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

CONFIGURATION = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 2
    max_deliveries = 1
"""
SLACK = 4.0
"""Seconds beyond the promise: for a busy machine."""


@pytest.fixture
def proxy(deployment: Deployment) -> Iterator[Proxy]:
    """What the nodes reach the server through; the test itself reaches it directly."""
    address, _, database = deployment.url.rpartition("/")
    with Proxy(int(address.rpartition(":")[2])) as proxy:
        deployment.environment["POOLTASKS_REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/{database}"
        yield proxy


@pytest.fixture
def pool(deployment: Deployment, proxy: Proxy) -> Pool:  # noqa: ARG001  it is between
    return Pool("code", app=deployment.configure(CONFIGURATION))


@pytest.fixture
def node(deployment: Deployment, pool: Pool) -> subprocess.Popen[bytes]:
    node = deployment.start_node("-Q", "pool.code")
    assert pool.execute("sample_operations.echo", [1], timeout=DEADLINE) == 1
    return node


def answers(pool: Pool) -> bool:
    return bool(pool.app.control.ping(timeout=0.3))


@pytest.mark.timing
def test_a_node_leaves_silent_connections_within_five_seconds_and_goes_on(
    deployment: Deployment, pool: Pool, node: subprocess.Popen[bytes], proxy: Proxy
) -> None:
    running = pool.submit("sample_operations.mark_and_occupy", ["marks", 3])
    wait_until(lambda: deployment.redis.llen("marks") == 1, "it runs")
    wait_until(lambda: answers(pool), "the node hears")
    accepted = proxy.accepted
    silent_at = time.monotonic()
    proxy.silence()

    waiting = pool.submit("sample_operations.echo", [2])
    assert waiting.get(timeout=5 + SLACK) == 2
    running.get(timeout=5 + SLACK)
    wait_until(lambda: answers(pool), "the node hears again", 5 + SLACK)
    assert time.monotonic() - silent_at < 5 + SLACK
    assert proxy.accepted > accepted
    assert deployment.redis.llen("marks") == 1, "what ran on was run twice"
    assert "taken for dead" not in deployment.log()
    assert node.poll() is None


@pytest.mark.timing
def test_sigterm_ends_a_node_whose_server_is_silent(
    node: subprocess.Popen[bytes], proxy: Proxy
) -> None:
    proxy.silence(new_too=True)
    node.terminate()
    silent_at = time.monotonic()
    node.wait(DEADLINE)
    assert time.monotonic() - silent_at < 5 + SLACK
