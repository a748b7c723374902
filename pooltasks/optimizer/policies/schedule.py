"""The policy ``schedule``: the objective's, with a memory of the season that may only raise.

The season (a day, say) is cut into buckets; each remembers the largest arrival
rate of the seasons before, the older ones fading. A rise that comes at the same
time every day is met before it begins. Where memory and present disagree, the
larger wins: a holiday costs slots, never waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks.optimizer.policies.objective import Objective, Tuning
from pooltasks.optimizer.policies.observation import Decision, resized
from pooltasks.optimizer.staffing import smallest_size

if TYPE_CHECKING:
    from pooltasks.optimizer.policies.observation import Limits, Observation
    from pooltasks.optimizer.staffing import Goal

DAY = 86400.0
_NEWEST = 0.5  # weight of the newest season against all before it


class Schedule:
    """Raises the objective's size to the slots that this time of the season needed before.

    Args:
        limits: Of the target, in slots.
        goal: The waiting-time objective.
        tuning: Of the objective policy inside.
        season: Seconds until the pattern repeats.
        bucket: Seconds of resolution; also how far ahead the memory looks.
        overflow: As the objective policy has it.
    """

    def __init__(
        self,
        limits: Limits,
        goal: Goal,
        tuning: Tuning | None = None,
        *,
        season: float = DAY,
        bucket: float = 60.0,
        overflow: int = 0,
    ) -> None:
        self.limits = limits
        self.goal = goal
        self.season = season
        self.bucket = bucket
        self.objective = Objective(limits, goal, tuning, overflow=overflow)
        self._remembered: dict[int, float] = {}
        self._index: int | None = None
        self._seconds = 0.0
        self._arrivals = 0

    def observe(self, observation: Observation) -> Decision:
        """Return the larger of the objective's size and the season's."""
        decision = self.objective.observe(observation)
        self._remember(observation)
        ahead = max(
            self._remembered.get(self._bucket_of(observation.now + lead), 0.0)
            for lead in (0.0, self.bucket)
        )
        if not ahead or not self.objective.service.known:
            return decision
        mean = self.objective.service.mean
        needed = smallest_size(
            ahead * mean,
            mean,
            self.goal,
            factor=self.objective.factor,
            maximum=self.limits.maximum,
        )
        seasonal = self.limits.clamp(needed)
        lasting = max(needed, decision.lasting or 1)
        inputs = {**decision.inputs, "season_rate": ahead, "seasonal": seasonal}
        if seasonal <= decision.target:
            return Decision(decision.target, decision.reason, inputs, lasting)
        reason = (
            f"{resized(observation.size, seasonal)}: at this time of the season "
            f"{ahead:.4g} operations/s arrived before; the present alone needs {decision.target}."
        )
        return Decision(seasonal, reason, inputs, lasting)

    def _bucket_of(self, time: float) -> int:
        return int(time % self.season // self.bucket)

    def _remember(self, observation: Observation) -> None:
        index = self._bucket_of(observation.now)
        if self._index is not None and index != self._index and self._seconds:
            # Less than half of a bucket says nothing of the whole.
            if self._seconds >= self.bucket / 2:
                rate = self._arrivals / self._seconds
                before = self._remembered.get(self._index, rate)
                self._remembered[self._index] = _NEWEST * rate + (1 - _NEWEST) * before
            self._seconds, self._arrivals = 0.0, 0
        self._index = index
        self._seconds += observation.seconds
        self._arrivals += observation.arrivals

    def snapshot(self) -> dict[str, Any]:
        """Return the season's memory and the objective's state."""
        return {
            "objective": self.objective.snapshot(),
            "remembered": {str(index): rate for index, rate in self._remembered.items()},
            "bucket": [self._index, self._seconds, self._arrivals],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`snapshot` returned."""
        self.objective.restore(state["objective"])
        self._remembered = {int(index): rate for index, rate in state["remembered"].items()}
        self._index, self._seconds, self._arrivals = state["bucket"]
