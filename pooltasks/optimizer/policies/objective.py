"""The policy ``objective``: as many slots as the waiting-time objective needs, no more.

Each tick:

1. The arrival rate's upper bound (``demand.ArrivalRate``) × mean service time is
   the offered load; Erlang staffing with the tail factor gives the slots.
2. Slots are given back slowly: the size is the largest that any tick of the last
   ``release`` seconds wanted ("DelayedOff", Gandhi, Harchol-Balter, Raghunathan
   and Kozuch 2012), of the last ``drop`` seconds once the rate has dropped by more than
   chance. Once that is fewer, the size becomes the largest of the last ``landing`` seconds:
   one step down, not one for each tick that leaves the window.
3. A backlog adds the slots that drain it within ``drain`` seconds, beyond those of temporary
   workers; they are given back as soon as it has drained.

The tail factor starts at Allen–Cunneen's and is then learned: it moves until the
share of late operations that the formula predicts is the share that is observed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks.optimizer.demand import ArrivalRate, Rate, ServiceTime
from pooltasks.optimizer.hosts import lasting_slots
from pooltasks.optimizer.policies.observation import Decision, resized
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
    """The parameters of the policy; docs/tuning.md explains each.

    Attributes:
        confidence: Standard deviations from the estimated rate to its upper bound.
        sigmas: How far the fast horizon must leave the slow one.
        drain: Seconds within which a backlog is to be gone.
        release: Seconds that a smaller size must suffice before slots are given back.
        drop: The same once the fast horizon has left the slow one downwards, ≤ ``release``.
        landing: Seconds whose largest wanted size then remains.
        learning: Seconds in which the tail factor follows the observations.
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
    """Sizes the pool for ``goal``.

    Args:
        limits: Of the size, in slots.
        goal: The waiting-time objective.
        tuning: The policy's parameters.
        overflow: Slots of temporary workers that nodes add by themselves: a backlog that
            these drain needs no size.
    """

    def __init__(
        self, limits: Limits, goal: Goal, tuning: Tuning | None = None, *, overflow: int = 0
    ) -> None:
        self.limits = limits
        self.overflow = overflow
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
        self._pending_arrivals += observation.arrivals + observation.announced
        if not self._wanted:  # a first tick knows too little to give anything back
            self._wanted.append((observation.now, observation.size))
        if not self.service.known:
            return self._without_service_times(observation)
        if observation.lossy:
            # The rate would seem to drop with a node's death, and to leap after it.
            self._pending_seconds, self._pending_arrivals = 0.0, 0
        elif observation.complete:
            self.rate.add(observation.now, self._pending_seconds, self._pending_arrivals)
            self._pending_seconds, self._pending_arrivals = 0.0, 0
        return self._decide(observation, self.rate.estimate())

    def _without_service_times(self, observation: Observation) -> Decision:
        size = observation.size
        usable = math.ceil(observation.busy) + observation.waiting
        if observation.waiting and observation.warm >= size:
            target = self.limits.clamp(2 * size)
            reason = (
                f"{resized(size, target)}: {observation.waiting} wait and none has "
                "finished yet, so that their service time is not known."
            )
            return Decision(target, reason, lasting=max(1, min(target, usable)))
        target = self.limits.clamp(size)
        reason = f"{resized(target, target)}: no operation has finished yet."
        return Decision(target, reason, lasting=max(1, min(target, usable)))

    def _decide(self, observation: Observation, rate: Rate) -> Decision:
        now, mean = observation.now, self.service.mean
        self._learn(observation, rate)
        load = rate.upper * mean
        staffed = smallest_size(
            load, mean, self.goal, factor=self.factor, maximum=self.limits.maximum
        )
        if rate.change == "down" and now >= self._dropped + 2.0 * self.tuning.release:
            # A drop: give back once, when the new load is clear, not step by step.
            self._wanted = deque([(now, self._wanted[0][1])])
            self._dropped = now
        held = self._hold(now, staffed)
        # A leap is met before its end is seen: slots that it turns out not to need, unlike
        # slots that were needed, are given back after the pause.
        leaping = (rate.mean + rate.trend * self.tuning.lead) * mean
        backlog = max(0.0, observation.waiting * mean / self.tuning.drain - self.overflow)
        draining = math.ceil(max(load, leaping) + backlog)
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
            lasting_slots(staffed, load, observation.waiting, mean),
        )

    def _may_shrink(self, observation: Observation, by: int) -> bool:
        """Return whether slots may be given back now.

        A resize is not free, so several are given back at once, and a few, which save
        little, wait longest. And a node's missing sample may hide work.
        """
        small = by <= max(1.0, _SMALL_SHRINK * observation.size)
        pause = self.tuning.patience if small else self.tuning.pause
        return observation.complete and observation.now - self._resized >= pause

    def _spares(self, size: int, target: int, load: float) -> bool:
        """Return whether a growth can wait because it is not worth a resize.

        A small growth waits until, at the rate's upper bound, half more operations are late
        than may be: the estimate gains by chance in one tick and loses in another.
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
        """Return the largest size wanted after ``since``, and forget the sizes before."""
        while self._wanted[0][0] <= since:
            self._wanted.popleft()
        return self._wanted[0][1]

    def _learn(self, observation: Observation, rate: Rate) -> None:
        """Move the tail factor towards the observed share, in settled times only.

        Late operations after a sudden change or out of a backlog come from the delay,
        not from the tail.
        """
        now = observation.now
        backlog = observation.waiting > _BACKLOG * observation.warm
        if rate.change != "none" or observation.warm < observation.size or backlog:
            self._unsettled_until = now + _SETTLED
        if observation.announced:
            return  # the rate is not that of the observation
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
        demand = (
            f"{rate.mean:.4g} operations/s (at most {rate.upper:.4g}, over {rate.horizon:.0f} s) "
            f"of {time_in_words(self.service.mean)}"
        )
        if max(held, draining) < self.limits.minimum:
            why = f"{demand} need {max(held, draining)}, but there are never fewer than {target}"
        elif max(held, draining) > self.limits.maximum:
            why = f"{demand} need {max(held, draining)}, but there are never more than {target}"
        elif target < max(held, draining):
            why = f"{demand} need {max(held, draining)}; for so few more the pool is not resized"
        elif target > max(held, draining):
            why = f"{demand} need {max(held, draining)}, but it is too soon to shrink"
        elif draining > held:
            leap = f", {rate.trend:.4g} more each second" if rate.trend else ""
            why = (
                f"{observation.waiting} operations wait and are to start within "
                f"{self.tuning.drain:g} s, while {demand} arrive{leap}"
            )
        elif held > staffed:
            why = f"{demand} need {staffed} for {self.goal}, but {held} were needed lately"
        else:
            why = f"{demand} need {held} for {self.goal}"
            if round(self.factor, 1) != 1.0:
                why += f", as waits last {self.factor:.1f} times as long as Erlang's formula says"
        return f"{resized(observation.size, target)}: {why}."

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
