"""`celery worker -B`: beat within a node calls the optimizer too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
from deployment import DEADLINE, has_ended, wait_until

from pooltasks import Pool

if TYPE_CHECKING:
    from pathlib import Path

    from deployment import Deployment

POOLS = """
[pools.code]
imports = ["sample_operations"]
pool_size = 1
"""


@pytest.mark.parametrize("pool", ["control", "code"])
def test_beat_in_a_node_calls_the_optimizer(
    deployment: Deployment, pool: str, tmp_path: Path
) -> None:
    app = deployment.configure(POOLS)
    deployment.start_node("-Q", f"pool.{pool}", "-B", "-s", str(tmp_path / "schedule"))
    deployment.start_node("-Q", "pool.code" if pool == "control" else "pool.control")
    wait_until(
        lambda: Pool("code", app=app).optimized_config(),
        f"the optimizer decides; the log:\n{deployment.log()}",
    )


def test_beat_in_a_node_ends_with_a_node_that_is_killed(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.configure(POOLS)
    node = deployment.start_node("-Q", "pool.control", "-B", "-s", str(tmp_path / "schedule"))
    wait_until(lambda: "beat: Starting" in deployment.log(), "beat starts")
    deployment.wait_for_warm(1)
    family = psutil.Process(node.pid).children()
    assert len(family) == 2

    node.kill()

    node.wait(DEADLINE)
    wait_until(lambda: all(has_ended(process.pid) for process in family), "no process is left")
