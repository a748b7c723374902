from __future__ import annotations

import os
import subprocess
import sys


def exit_code(node_pid: int) -> int:
    code = f"from pooltasks.node.worker.descendants import die_with; die_with({node_pid})"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_a_worker_whose_node_is_gone_already_ends() -> None:
    assert exit_code(node_pid=1 if os.getpid() != 1 else 2) == os.EX_UNAVAILABLE


def test_a_worker_whose_node_lives_goes_on() -> None:
    assert exit_code(node_pid=os.getpid()) == 0
