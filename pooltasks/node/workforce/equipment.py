"""The equipment of a worker process: the memory that it shares with its node."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pooltasks.node.worker.child import WorkerProcess
from pooltasks.node.worker.pulse import Pulse

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.node.scoreboard.scoreboard import Scoreboard
    from pooltasks.node.worker.warmup import Plan


class Equipment:
    """Equips the workers of a node.

    Args:
        plan: How they warm up, with the settings of the pool.
        scoreboard: Where they tell what they do.
        stores: Whether the workers store results themselves.
    """

    def __init__(self, plan: Plan, scoreboard: Scoreboard, *, stores: bool) -> None:
        self._plan, self._scoreboard, self._stores = plan, scoreboard, stores
        self._pulses: dict[int, Pulse] = {}

    def of(self, index: int) -> Callable[..., WorkerProcess]:
        """Return what makes the worker of a place; it has the rows and the pulse of that place.

        Args:
            index: The place, from 0. A worker has that of one that is gone.
        """
        slots = range(self._plan.settings.slots)
        return partial(
            WorkerProcess,
            plan=self._plan,
            index=index,
            rows=[self._scoreboard.row(index, slot) for slot in slots],
            pulse=self._pulses.setdefault(index, Pulse()),
            stores=self._stores,
        )
