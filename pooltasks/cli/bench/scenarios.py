"""The scenarios of ``pool bench``, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks.cli.bench.latency import latency, load
from pooltasks.cli.bench.memory import memory
from pooltasks.cli.bench.scale import scale
from pooltasks.cli.bench.soak import soak
from pooltasks.cli.bench.targets import recovery, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pooltasks.cli.bench.loaded import Subject
    from pooltasks.cli.bench.report import Report

SCENARIOS: Mapping[str, Callable[[Subject], Report]] = {
    its.__name__: its for its in (latency, load, memory, recovery, scale, soak, targets)
}
"""Each puts a load on a pool and returns what it found."""
