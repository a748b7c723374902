"""Beat: Celery's program, with the optimizer's tick in its schedule."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.apps.beat import Beat as StockBeat
from celery.schedules import schedule

from pooltasks.app import settings_of
from pooltasks.optimizer.tick import NAME, optimized

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery import Celery

    from pooltasks.pool_settings import PoolSettings

AFTER = 0.015
"""Seconds from a sample to the tick that is to see it."""
_EARLY = 0.012
"""Seconds; beat wakes 10 ms too early and would look in vain until it is time."""


class AfterSamples(schedule):
    """Once in each period, just after the nodes have written their samples.

    A plain interval begins anywhere in the period, and the samples would be up to a
    period old. They are so where the clocks of beat and server differ, and with
    schedulers that know only Celery's own schedules: they take this for a plain
    interval of one period.

    Args:
        *_: Celery's own, which an earlier version left in beat's file.
        period: Seconds from one tick to the next.
        phase: Seconds into each period of the clock: nodes sample in its middle.
        **options: Celery's.
    """

    def __init__(
        self, *_: Any, period: float = 1.0, phase: float = 0.5 + AFTER, **options: Any
    ) -> None:
        super().__init__(run_every=period, **{k: v for k, v in options.items() if k == "app"})
        self.period = period
        self.phase = phase

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call that makes it again: beat keeps its schedule in a file."""
        return partial(AfterSamples, period=self.period, phase=self.phase), ()

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Return whether it is time, and the seconds until beat is to look again."""
        now = time.time()
        last = self.maybe_make_aware(last_run_at).timestamp()
        next_after_last = self._after(last)
        if now < next_after_last <= now + self.period:
            return False, next_after_last - now + _EARLY
        return True, self._after(now) - now + _EARLY

    def _after(self, at: float) -> float:
        """Return the first tick after a moment of the clock."""
        return (math.floor((at - self.phase) / self.period) + 1) * self.period + self.phase


def schedule_ticks(celery_app: Celery) -> None:
    """Add the optimizer's tick to beat's schedule, if a pool wants to be optimized.

    To be called when the application's own modules are loaded: they may set the schedule.
    """
    settings = settings_of(celery_app)
    if names := optimized(settings):
        celery_app.conf.beat_schedule = {
            **celery_app.conf.beat_schedule,
            "pooltasks.optimizer": {
                "task": NAME,
                "schedule": _for([settings.pool_settings(name) for name in names]),
            },
        }


def _for(pools: Sequence[PoolSettings]) -> AfterSamples:
    """Return the schedule of the pool that is decided on most often, at least once a second.

    A pool that decides less often has nothing to do at most ticks.
    """
    quickest = min(pools, key=_period)
    period = min(1.0, _period(quickest))
    return AfterSamples(period=period, phase=min(1.0, quickest.metrics_interval) / 2 + AFTER)


def _period(pool: PoolSettings) -> float:
    """Return the seconds between two decisions on a pool: none is made without new samples."""
    return max(pool.optimization_interval, pool.metrics_interval)


class Beat(StockBeat):
    """``celery beat``: the application's schedule, and the optimizer's tick.

    ``celery worker --beat`` does not use this class. A worker that embeds a beat calls
    :func:`schedule_ticks` itself.
    """

    def init_loader(self) -> None:
        """Load the application's tasks, then add the tick."""
        super().init_loader()
        schedule_ticks(self.app)
