"""pooltasks without telemetry: no events of operations, no samples; all else as in ``ours``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.systems.ours import Ours
from pooltasks.node.worker.events import OperationEvents

_CONFIG = Path(__file__).with_name("unobserved.toml")


def _nothing(*_: Any) -> None:
    """Tell nobody."""


class Unobserved(Ours):
    """The same producer; its nodes import this module, and so emit nothing."""

    workers = (["env", f"POOLTASKS_CONFIG={_CONFIG}", *Ours.workers[0]],)


OperationEvents.start = OperationEvents.finish = _nothing  # type: ignore[assignment, method-assign]

SYSTEM = Unobserved
