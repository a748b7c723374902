"""A pool with a fair operation is not rolled out by share, and loses nothing if that is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from deployment import wait_until

from pooltasks import Pool
from pooltasks.metrics.rollout_store import RolloutStore

if TYPE_CHECKING:
    from deployment import Deployment

pytestmark = pytest.mark.long

CONFIGURATION = """
[pools.turns]
imports = ["turn_operations"]
pool_size = 1
min_pool_size = 1
max_pool_size = 1
"""
SAID = "This node takes nothing while version 2 is rolled out"


def test_a_fair_pool_is_refused_and_rests_during_a_rollout(deployment: Deployment) -> None:
    app = deployment.configure(CONFIGURATION)
    deployment.start_node("-Q", "pool.turns", "-n", "turns@%h")
    deployment.wait_for_warm(1)
    refused = deployment.run("pooltasks", "rollout", "start", "2", "turns")
    assert refused.returncode == 1
    assert "its operation turn_operations.take_turns is fair" in refused.stderr
    assert "restart its nodes one after the other" in refused.stderr

    with deployment.bytes_client() as client:
        store = RolloutStore(client, "turns")
        assert store.start("", "2")  # whatever the command says
        wait_until(lambda: SAID in deployment.log(), "that the node says why it rests")
        calls = [(f"tenant-{number % 3}", number) for number in range(12)]
        results = Pool("turns", app).submit_many("turn_operations.take_turns", calls)
        assert not client.exists("starts")
        aborted = deployment.run("pooltasks", "rollout", "abort", "turns")
        assert aborted.returncode == 0, aborted.stderr
        assert [each.get(timeout=30) for each in results] == list(range(12))
        assert client.llen("starts") == 12
    assert deployment.log().count(SAID) == 1
