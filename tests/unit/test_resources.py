"""CPU and memory of a node's processes are what the kernel says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pooltasks.node.scoreboard.resources import Meter

MEGABYTE = 1 << 20

BUSY = """
import os, time
memory = bytearray(os.urandom(1)) * (30 << 20)
while time.process_time() < 0.3:
    pass
print(memory[-1], flush=True)
input()
"""
IDLE = "print('ready', flush=True); input()"


def worker(source: str) -> subprocess.Popen[bytes]:
    """Start a process, ready when it has written a line; it ends with its input."""
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_a_node_and_its_workers_are_metered_and_the_dead_are_not_forgotten() -> None:
    before = Meter().read(())
    busy = worker(BUSY)
    try:
        meter = Meter()
        usage = meter.read([busy.pid])
        spent = usage.workers_cpu - before.workers_cpu
        assert spent >= 0.28  # the kernel counts in hundredths
        assert usage.workers_rss > 30 * MEGABYTE
        assert usage.node_rss > 10 * MEGABYTE
        # Each was looked at once; what they share is counted once.
        assert usage.pss is not None
        assert 30 * MEGABYTE < usage.pss <= usage.node_rss + usage.workers_rss
    finally:
        end(busy)
    after = meter.read([busy.pid])
    assert after.workers_cpu - before.workers_cpu == pytest.approx(spent, abs=0.2)
    assert after.workers_rss == 0


def test_a_process_that_nobody_looked_at_makes_the_whole_unknown() -> None:
    workers = [worker(IDLE) for _ in range(4)]
    pids = [process.pid for process in workers]
    meter = Meter()
    try:
        assert meter.read(pids).pss is None  # it looks at four at a time
        assert meter.read(pids).pss is not None
    finally:
        for process in workers:
            end(process)
