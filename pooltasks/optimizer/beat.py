"""Beat: Celery's program, with the optimizer's tick in its schedule."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from celery.apps.beat import Beat as StockBeat
from celery.schedules import schedule

from pooltasks.app import settings_of
from pooltasks.optimizer.tick import NAME, optimized

if TYPE_CHECKING:
    from datetime import datetime

PHASE = 0.515
"""Seconds into each second of the clock: nodes sample at 0.5."""
_EARLY = 0.012
"""Seconds; beat wakes 10 ms too early and would look in vain until it is time."""


class AfterSamples(schedule):
    """Once a second, just after the nodes have written their samples.

    A plain interval begins anywhere in the second, and what the samples say would
    be up to a second old. So it is where the clocks of beat and server differ, and
    with schedulers that know only Celery's own schedules: they take this for one
    of a second.
    """

    def __init__(self, *_: Any, **options: Any) -> None:
        super().__init__(run_every=1.0, **{k: v for k, v in options.items() if k == "app"})

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Return whether it is time, and the seconds until beat is to look again."""
        now = time.time()
        last = self.maybe_make_aware(last_run_at).timestamp()
        next_after_last = math.floor(last - PHASE) + 1.0 + PHASE
        if now < next_after_last <= now + 1.0:
            return False, next_after_last - now + _EARLY
        next_after_now = math.floor(now - PHASE) + 1.0 + PHASE
        return True, next_after_now - now + _EARLY


class Beat(StockBeat):
    """``celery beat``: what the application schedules, and the optimizer's tick."""

    def init_loader(self) -> None:
        """Load the application's tasks, then add the tick if a pool wants to be optimized."""
        super().init_loader()
        if optimized(settings_of(self.app)):
            self.app.conf.beat_schedule = {
                **self.app.conf.beat_schedule,
                "pooltasks.optimizer": {"task": NAME, "schedule": AfterSamples()},
            }
