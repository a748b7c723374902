"""A node that ``celery`` starts begins again without what a node does not use."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.long

MOST = 50e6
"""Bytes of a worker, of the requirements document; as a child of Celery's whole program it has
75 million."""
POOLS = """
[pools.code]
pool_size = 2
"""


def arguments_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")[:-1]


def is_lean(node: subprocess.Popen[bytes]) -> bool:
    return "pooltasks.node.celery" in arguments_of(node.pid)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_worker_of_a_node_that_celery_starts_is_lean(deployment: Deployment) -> None:
    deployment.configure(POOLS)
    node = deployment.start_node("-Q", "pool.code")
    status = deployment.wait_for_warm(2)
    assert is_lean(node)
    assert arguments_of(node.pid)[-4:] == ["-l", "info", "-Q", "pool.code"]
    assert status["pid"] == node.pid, "the process is the same"
    pool = Pool("code", app=deployment.app)
    for _ in range(50):
        pool.submit("pooltasks.operations.ping").get(timeout=DEADLINE)
    assert max(resident(worker["pid"]) for worker in status["workers"]) < MOST


def test_a_node_restarts_itself_when_its_terminal_is_gone(deployment: Deployment) -> None:
    deployment.configure(POOLS)
    node = deployment.start_node("-Q", "pool.code")
    before = deployment.wait_for_warm(2)
    node.send_signal(signal.SIGHUP)

    def restarted() -> bool:
        status = deployment.status()
        workers = {worker["pid"] for worker in status.get("workers", ())}
        return status.get("warm") == 2 and not workers & {its["pid"] for its in before["workers"]}

    wait_until(restarted, "the node runs again, with other workers")
    assert node.poll() is None
    assert is_lean(node)
