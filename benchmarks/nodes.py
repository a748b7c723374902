"""Nodes that a benchmark starts for pools of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from benchmarks.measure import ROOT, running
from benchmarks.system import program

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path


def configure(pools: str, url: str, folder: Path) -> None:
    """Have this process, and the nodes that it starts, use a server and pools.

    Args:
        pools: The settings of the pools, TOML.
        url: Of the server.
        folder: For the file with the settings.
    """
    configuration = folder / "pools.toml"
    configuration.write_text(pools, "utf-8")
    os.environ |= {
        "POOLTASKS_REDIS_URL": url,
        "POOLTASKS_CONFIG": str(configuration),
        "PYTHONPATH": str(ROOT),
    }


def serving(*pools: str, folder: Path) -> AbstractContextManager[list[int]]:
    """Run a node for each of some pools; yield the sessions that they lead.

    Args:
        *pools: Their names.
        folder: For the log.

    Raises:
        BrokenRoundError: One of them ended by itself.
    """
    command = [program("celery"), "-A", "pooltasks", "worker", "-l", "warning"]
    nodes = [[*command, "-Q", f"pool.{pool}", "-n", f"{pool}@%h"] for pool in pools]
    return running(nodes, dict(os.environ), folder)
