"""A debugging node, ``-P solo``: operations run as live, in the node's own process."""

from __future__ import annotations

import os

import pytest
from celery.exceptions import TimeLimitExceeded
from deployment import DEADLINE, wait_until

from pooltasks import Pool
from pooltasks.errors import OperationTimeout

pytestmark = pytest.mark.long

POOL = """
[pools.code]
imports = ["sample_operations"]
pool_size = 2
warmup = { commands = [{ operation = "sample_operations.warm", timeout = 30 }] }
"""


def test_operations_run_as_live_in_one_process_that_a_debugger_may_stop(deployment, tmp_path):
    pool = Pool("code", app=deployment.configure(POOL))
    node = deployment.start_node("-Q", "pool.code", "-P", "solo")

    def run(name, *args):
        return pool.execute(f"sample_operations.{name}", args, timeout=DEADLINE)

    assert run("probe") == {"pid": node.pid, "warm": True}
    with pytest.raises(ValueError, match="as it was told"):
        run("fail")
    with pytest.raises(OperationTimeout):
        run("look_for_ever")

    # The warm-up on demand runs in that process, and what came before it has ended.
    warmed = deployment.run("celery", "-A", "pooltasks", "pool", "warm", "code")
    assert warmed.returncode == 0, warmed.stderr + warmed.stdout
    assert "1 of 1 workers warmed" in warmed.stdout
    assert "sample_operations.warm" in warmed.stdout

    # A debugger that waits for its user keeps the limits waiting, and the node alive.
    commands = tmp_path / "commands"
    os.mkfifo(commands)
    stopped = pool.submit("sample_operations.stop_in_a_debugger", [str(commands)])
    with commands.open("w") as terminal:
        wait_until(lambda: deployment.status().get("busy"), "it has stopped")
        shown = deployment.run("celery", "-A", "pooltasks", "pool", "status", "code").stdout
        assert "1 live, 1 debugging" in shown
        assert "a debugging node (-P solo)" in shown
        assert not stopped.ready()
        terminal.write("continue\n")
    assert stopped.get(timeout=DEADLINE) == "went on"

    # What ignores its limit has ended for its caller; nothing can end the thread.
    with pytest.raises(TimeLimitExceeded):
        run("ignore_the_soft_limit")
    node.terminate()
    assert node.wait(DEADLINE) == 0
