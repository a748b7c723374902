"""The health score: 100 is a pool that could not do better, idle or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pooltasks.metrics.histogram import Histogram

_WORKERS, _ERRORS, _WAITING, _RECOVERIES = 40.0, 25.0, 25.0, 10.0

_WORST_ERROR_RATE = 0.05
_LEAST_VOLUME = 20
"""Operations below which one failure does not make a rate."""
_WORST_VIOLATION = 10.0
"""Times the share of late operations that the objective allows."""
_FEWEST_LATE = 2
"""Late operations that are a finding: one alone is the first of a new pool, or chance."""
_WORST_AGE = 10.0
"""Times the objective's wait."""


@dataclass(frozen=True)
class Health:
    """A score from 0 to 100 and what each component took from 100.

    ``workers`` (at most 40): the share of wanted workers that are not warm, those
    of stale nodes included. ``errors`` (25): failures ÷ finished operations, all
    of it at 5 %; fewer than 20 operations count as 20. ``waiting`` (25): the share
    of operations that waited longer than the objective allows, from what it
    permits to ten times that (a single late one counts as none), or an oldest
    waiting operation ten times older than its wait, whichever is worse.
    ``recoveries`` (10): workers that died ÷ workers wanted.
    """

    score: float
    costs: dict[str, float]


def health(
    *,
    wanted: int,
    warm: int,
    failed: int,
    finished: int,
    late: float | None,
    allowed_late: float,
    oldest_age: float | None,
    allowed_wait: float,
    recoveries: int,
) -> Health:
    """Return the health of a pool over some window.

    Args:
        wanted: Workers that there should be.
        warm: Workers that take operations.
        failed: Failed operations.
        finished: All operations that finished.
        late: Share (0–1) of operations that waited too long; None if none started.
        allowed_late: Share that the objective allows.
        oldest_age: Seconds for which the oldest waiting operation has waited;
            None if that is not known, which costs nothing.
        allowed_wait: Seconds that the objective allows.
        recoveries: Workers that died and were replaced.
    """
    violation = ((late or 0.0) / allowed_late - 1) / (_WORST_VIOLATION - 1)
    age = ((oldest_age or 0.0) / allowed_wait - 1) / (_WORST_AGE - 1)
    costs = {
        "workers": _WORKERS * _ratio(1 - warm / wanted if wanted else 1.0),
        "errors": _ERRORS * _ratio(failed / max(finished, _LEAST_VOLUME) / _WORST_ERROR_RATE),
        "waiting": _WAITING * _ratio(max(violation, age)),
        "recoveries": _RECOVERIES * _ratio(recoveries / max(1, wanted)),
    }
    costs = {component: round(cost, 1) for component, cost in costs.items()}
    return Health(round(100 - sum(costs.values()), 1), costs)


def late_share(waits: Histogram, allowed: float) -> float | None:
    """Return the share (0–1) of operations that waited too long, as it is judged.

    A single late operation counts as none.

    Args:
        waits: The waits of operations that started.
        allowed: Seconds that an operation may wait.

    Returns:
        None if no operation started.
    """
    share = waits.share_above(allowed)
    if share is not None and round(share * waits.count) < _FEWEST_LATE:
        return 0.0
    return share


def _ratio(value: float) -> float:
    return min(1.0, max(0.0, value))
