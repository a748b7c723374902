"""The policy ``objective``: as many slots as the waiting-time objective needs, no more.

Each tick:

1. The arrival rate's upper bound (``demand.ArrivalRate``) × mean service time is
   the offered load; Erlang staffing with the tail factor gives the slots.
2. Slots are given back slowly: the size is the largest that any tick of the last
   ``release`` seconds wanted ("DelayedOff", Gandhi, Harchol-Balter, Raghunathan
   and Kozuch 2012), of the last ``drop`` seconds once the rate has dropped by more than
   chance. Once that is fewer, it becomes what the last ``landing`` seconds wanted: one
   step down, not one for each tick that leaves the window.
3. A backlog adds what drains it within ``drain`` seconds, and that is given back
   as soon as it has drained.

The tail factor starts at Allen–Cunneen's and is then learned: it moves until the
share of late operations that the formula predicts is the share that is observed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks.optimizer.demand import ArrivalRate, Rate, ServiceTime
from pooltasks.optimizer.policies.observation import Decision
from pooltasks.optimizer.staffing import (
    Goal,
    late_share,
    smallest_size,
    tail_factor,
    time_in_words,
)

if TYPE_CHECKING:
    from pooltasks.optimizer.policies.observation import Limits, Observation

_FACTOR_RANGE = (0.25, 8.0)
_SMALL_SHRINK = 0.15  # of the size
_SMALL_GROWTH = 0.10  # of the size: not worth a resize while the objective is nearly met
_NEARLY = 1.5  # times the share that may be late
_NEW = 20.0  # seconds of history after a change with which a rate is known too little for that
_LONG_AGO = -1e18  # seconds; JSON has no infinity
_MOST_SURPRISE = 50.0  # late operations come in clusters: one must not teach everything
_BACKLOG = 4.0  # waiting operations a slot: more than chance piles up in a staffed pool
_SETTLED = 5.0  # seconds after a change or a growth before waits teach anything


@dataclass(frozen=True)
class Tuning:
    """The parameters of the policy; docs/tuning.md has what each does.

    Attributes:
        confidence: Standard deviations from the estimated rate to its upper bound.
        sigmas: How far the fast horizon must leave the slow one.
        drain: Seconds within which a backlog is to be gone.
        release: Seconds that a smaller size must suffice before slots are given back.
        drop: The same once the fast horizon has left the slow one downwards, ≤ ``release``.
        landing: Seconds of which the largest wanted size is what then remains.
        learning: Seconds in which the tail factor follows what is observed.
        lead: Seconds for which a leap of the rate is taken to go on; given back at once.
        pause: Seconds from a resize to the next shrink.
        patience: The same for a shrink of at most 15 % (or one slot), which saves little.
    """

    confidence: float = 1.5
    sigmas: float = 4.0
    drain: float = 0.3
    release: float = 20.0
    drop: float = 5.0
    landing: float = 4.0
    learning: float = 300.0
    lead: float = 3.0
    pause: float = 10.0
    patience: float = 72.0


class Objective:
    """Sizes the pool for ``goal``."""

    def __init__(self, limits: Limits, goal: Goal, tuning: Tuning | None = None) -> None:
        self.limits = limits
        self.goal = goal
        self.tuning = tuning or Tuning()
        self.rate = ArrivalRate(sigmas=self.tuning.sigmas, confidence=self.tuning.confidence)
        self.service = ServiceTime()
        self._correction = 0.0  # natural logarithm of learned ÷ Allen–Cunneen's factor
        self._wanted: deque[tuple[float, int]] = deque()  # falling sizes: a sliding maximum
        self._unsettled_until = _LONG_AGO
        self._resized = _LONG_AGO
        self._dropped = _LONG_AGO
        self._pending_seconds = 0.0
        self._pending_arrivals = 0

    @property
    def factor(self) -> float:
        """The tail factor in use."""
        low, high = _FACTOR_RANGE
        return min(high, max(low, tail_factor(self.service.scv) * math.exp(self._correction)))

    def observe(self, observation: Observation) -> Decision:
        """Return the size that meets the objective."""
        self.service.add(
            observation.seconds,
            observation.completed,
            observation.service_sum,
            observation.service_squares,
        )
        self._pending_seconds += observation.seconds
        self._pending_arrivals += observation.arrivals
        if not self._wanted:  # a first tick knows too little to give anything back
            self._wanted.append((observation.now, observation.size))
        if not self.service.known:
            return self._without_service_times(observation)
        if observation.complete:
            self.rate.add(observation.now, self._pending_seconds, self._pending_arrivals)
            self._pending_seconds, self._pending_arrivals = 0.0, 0
        return self._decide(observation, self.rate.estimate())

    def _without_service_times(self, observation: Observation) -> Decision:
        size = observation.size
        if observation.waiting and observation.warm >= size:
            target = self.limits.clamp(2 * size)
            reason = (
                f"From {size} to {target} slots: {observation.waiting} wait and none has "
                "finished yet, so that their service time is not known."
            )
            return Decision(target, reason)
        target = self.limits.clamp(size)
        return Decision(target, f"Keep {target} slots: no operation has finished yet.")

    def _decide(self, observation: Observation, rate: Rate) -> Decision:
        now, mean = observation.now, self.service.mean
        self._learn(observation, rate)
        load = rate.upper * mean
        staffed = smallest_size(
            load, mean, self.goal, factor=self.factor, maximum=self.limits.maximum
        )
        if rate.change == "down" and now >= self._dropped + 2.0 * self.tuning.release:
            # A drop: give back once, when what it left behind is clear, not step by step.
            self._wanted = deque([(now, self._wanted[0][1])])
            self._dropped = now
        held = self._hold(now, staffed)
        # A leap is met before its end is seen: what it turns out not to need, unlike
        # what was needed, is given back after the pause.
        leaping = (rate.mean + rate.trend * self.tuning.lead) * mean
        draining = math.ceil(max(load, leaping) + observation.waiting * mean / self.tuning.drain)
        size, target = self.limits.clamp(observation.size), self.limits.clamp(max(held, draining))
        urgent = draining > held or rate.horizon < _NEW
        if target < size and self._may_shrink(observation, size - target):
            held = self._land(now)
            target = self.limits.clamp(max(held, draining))
        elif target < size or (not urgent and self._spares(size, target, load)):
            target = size
        if target != observation.size:
            self._resized = now
        return Decision(
            target,
            self._reason(observation, rate, (staffed, held, draining, target)),
            {
                "rate": rate.mean,
                "rate_upper": rate.upper,
                "horizon": rate.horizon,
                "service": mean,
                "load": load,
                "factor": self.factor,
                "staffed": staffed,
                "held": held,
                "draining": draining,
                "waiting": observation.waiting,
            },
        )

    def _may_shrink(self, observation: Observation, by: int) -> bool:
        """Return whether slots may be given back now.

        A resize is not free, so they are given back a few at once, and a few that
        save little wait longest. And what a node's missing sample hides may be work.
        """
        small = by <= max(1.0, _SMALL_SHRINK * observation.size)
        pause = self.tuning.patience if small else self.tuning.pause
        return observation.complete and observation.now - self._resized >= pause

    def _spares(self, size: int, target: int, load: float) -> bool:
        """Return whether a growth that is not urgent is not worth a resize.

        A small one waits until the bound of the rate makes half more late than may be:
        what the rate's estimate gains by chance in one tick it loses in another.
        """
        if not size < target <= size + max(1.0, _SMALL_GROWTH * size):
            return False
        late = late_share(load, size, self.service.mean, self.goal.wait, self.factor)
        return late <= _NEARLY * self.goal.allowance

    def _hold(self, now: float, staffed: int) -> int:
        while self._wanted and self._wanted[-1][1] <= staffed:
            self._wanted.pop()
        self._wanted.append((now, staffed))
        since = now - self.tuning.release
        if now >= self._dropped + self.tuning.drop:
            since = max(since, self._dropped)
        return self._largest_wanted(since)

    def _land(self, now: float) -> int:
        return self._largest_wanted(now - self.tuning.landing)

    def _largest_wanted(self, since: float) -> int:
        """Return the largest size wanted after ``since``, and forget what was before."""
        while self._wanted[0][0] <= since:
            self._wanted.popleft()
        return self._wanted[0][1]

    def _learn(self, observation: Observation, rate: Rate) -> None:
        """Move the tail factor towards what was observed, in settled times only.

        Late operations after a sudden change or out of a backlog are the delay's
        doing, not the tail's.
        """
        now = observation.now
        backlog = observation.waiting > _BACKLOG * observation.warm
        if rate.change != "none" or observation.warm < observation.size or backlog:
            self._unsettled_until = now + _SETTLED
        if now < self._unsettled_until or not observation.complete or not observation.started:
            return
        load = rate.mean * self.service.mean
        expected = observation.started * late_share(
            load, observation.warm, self.service.mean, self.goal.wait, self.factor
        )
        allowed = observation.started * self.goal.allowance
        surprise = min(_MOST_SURPRISE, (observation.late - expected) / (allowed + 1.0))
        self._correction += surprise * observation.seconds / self.tuning.learning
        low, high = (math.log(bound / tail_factor(self.service.scv)) for bound in _FACTOR_RANGE)
        self._correction = min(high, max(low, self._correction))

    def _reason(
        self, observation: Observation, rate: Rate, sizes: tuple[int, int, int, int]
    ) -> str:
        staffed, held, draining, target = sizes
        verb = "Keep" if target == observation.size else f"From {observation.size} to"
        demand = (
            f"{rate.mean:.4g} operations/s (at most {rate.upper:.4g}, over {rate.horizon:.0f} s) "
            f"of {time_in_words(self.service.mean)}"
        )
        if max(held, draining) < self.limits.minimum:
            why = f"{demand} need {max(held, draining)}, but there are never fewer than {target}"
        elif max(held, draining) > self.limits.maximum:
            why = f"{demand} need {max(held, draining)}, but there are never more than {target}"
        elif target < max(held, draining):
            why = f"{demand} need {max(held, draining)}, a growth not worth a resize"
        elif target > max(held, draining):
            why = f"{demand} need {max(held, draining)}, but it is too soon to shrink"
        elif draining > held:
            leap = f", {rate.trend:.4g} more each second" if rate.trend else ""
            why = (
                f"{observation.waiting} wait, to be gone in {self.tuning.drain:g} s, "
                f"and {demand} arrive{leap}"
            )
        elif held > staffed:
            why = f"{demand} need {staffed} for {self.goal}, but {held} were needed lately"
        else:
            why = f"{demand} need them for {self.goal} (tail factor {self.factor:.2f})"
        return f"{verb} {target} slots: {why}."

    def snapshot(self) -> dict[str, Any]:
        """Return everything learned."""
        return {
            "rate": self.rate.snapshot(),
            "service": self.service.snapshot(),
            "correction": self._correction,
            "wanted": [list(item) for item in self._wanted],
            "resized": self._resized,
            "dropped": self._dropped,
            "unsettled_until": self._unsettled_until,
            "pending": [self._pending_seconds, self._pending_arrivals],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`snapshot` returned."""
        self.rate.restore(state["rate"])
        self.service.restore(state["service"])
        self._correction = float(state["correction"])
        self._wanted = deque((float(at), int(size)) for at, size in state["wanted"])
        self._resized = float(state["resized"])
        self._dropped = float(state["dropped"])
        self._unsettled_until = float(state["unsettled_until"])
        self._pending_seconds = float(state["pending"][0])
        self._pending_arrivals = int(state["pending"][1])
