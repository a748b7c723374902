"""Other autoscalers, rebuilt from their documentation, to compare with.

Each is a policy like ours and sees the same observations; defaults are its own.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from pooltasks.optimizer.policies.observation import Decision
from pooltasks.optimizer.staffing import smallest_size

if TYPE_CHECKING:
    from pooltasks.optimizer.policies.observation import Limits, Observation
    from pooltasks.optimizer.staffing import Goal
    from pooltasks.simulator.conditions import Conditions
    from pooltasks.simulator.workloads import Arrivals


class Rival:
    """A policy that needs no memory across restarts: it only ever runs in simulations.

    Attributes:
        interval: Seconds between its decisions; between them it keeps the size.
    """

    interval = 1.0

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._due = -math.inf

    def observe(self, observation: Observation) -> Decision:
        """Measure at each tick, decide when due."""
        self.measure(observation)
        if observation.now < self._due - 1e-9:
            return Decision(observation.size, "Not due.")
        self._due = observation.now + self.interval
        target = self.limits.clamp(self.decide(observation))
        return Decision(target, f"{type(self).__name__} wants {target} slots.")

    def measure(self, observation: Observation) -> None:
        """Take the tick's numbers into windows; nothing unless the rival has some."""

    def decide(self, observation: Observation) -> int:
        """Return the wanted slots."""
        raise NotImplementedError

    def snapshot(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class Window:
    """The mean of the values that were added in the last ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._values: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> None:
        """Record one value."""
        self._values.append((now, value))
        while self._values[0][0] <= now - self.seconds:
            self._values.popleft()

    def mean(self) -> float:
        """Return the mean, at least one value given."""
        return sum(value for _, value in self._values) / len(self._values)

    def maximum(self) -> float:
        """Return the largest, at least one value given."""
        return max(value for _, value in self._values)


class HorizontalPodAutoscaler(Rival):
    """Kubernetes HPA v2 on utilization.

    ``ceil(size × utilization ÷ target)`` every 15 s, 10 % tolerance, at most
    doubling or +4 in 15 s, downwards the largest wish of 300 s.
    """

    interval = 15.0
    tolerance = 0.1

    def __init__(self, limits: Limits, target: float = 0.7, stabilization: float = 300.0) -> None:
        super().__init__(limits)
        self.target = target
        self._utilization = Window(15.0)
        self._wishes = Window(stabilization)

    def measure(self, observation: Observation) -> None:
        """Record utilization."""
        warm = observation.warm or 1
        self._utilization.add(observation.now, min(1.0, observation.busy / warm))

    def wish(self, observation: Observation) -> int:
        """Return the slots that the metric asks for, before stabilization."""
        ratio = self._utilization.mean() / self.target
        if abs(ratio - 1.0) <= self.tolerance:
            return observation.size
        return math.ceil(observation.size * ratio)

    def decide(self, observation: Observation) -> int:
        """Return the stabilized wish."""
        size = observation.size
        wish = self.wish(observation)
        self._wishes.add(observation.now, wish)
        if wish > size:
            return min(wish, max(2 * size, size + 4))
        return min(size, int(self._wishes.maximum()))


class Keda(HorizontalPodAutoscaler):
    """KEDA's list scaler: an HPA whose wish is ``ceil(list length ÷ target)``."""

    def __init__(self, limits: Limits, target: float = 5.0) -> None:
        super().__init__(limits, target)

    def wish(self, observation: Observation) -> int:
        """Return the wish from the queue's length."""
        return math.ceil(observation.waiting / self.target)


class KnativePodAutoscaler(Rival):
    """Knative KPA: concurrency over 60 s; in panic (twice too much) over 6 s, never down."""

    interval = 2.0
    panic_threshold = 2.0

    def __init__(self, limits: Limits, target: float = 0.7) -> None:
        super().__init__(limits)
        self.target = target
        self._stable = Window(60.0)
        self._panic = Window(6.0)
        self._panic_until = -math.inf
        self._panic_size = 0

    def measure(self, observation: Observation) -> None:
        """Record concurrency: busy slots and waiting operations."""
        concurrency = observation.busy + observation.waiting
        self._stable.add(observation.now, concurrency)
        self._panic.add(observation.now, concurrency)

    def decide(self, observation: Observation) -> int:
        """Return the stable wish, or in panic the largest of the panic."""
        stable = math.ceil(self._stable.mean() / self.target)
        panic = math.ceil(self._panic.mean() / self.target)
        if panic >= self.panic_threshold * max(1, observation.warm):
            self._panic_until = observation.now + self._stable.seconds
        if observation.now >= self._panic_until:
            self._panic_size = 0
            return stable
        self._panic_size = max(self._panic_size, panic, observation.size)
        return self._panic_size


class TargetTracking(Rival):
    """AWS target tracking on one-minute utilization.

    Out after 3 minutes above the target, in after 15 minutes more than 10 % below.
    """

    interval = 60.0

    def __init__(self, limits: Limits, target: float = 0.7) -> None:
        super().__init__(limits)
        self.target = target
        self._minute = Window(60.0)
        self._above = 0
        self._below = 0

    def measure(self, observation: Observation) -> None:
        """Record utilization."""
        warm = observation.warm or 1
        self._minute.add(observation.now, min(1.0, observation.busy / warm))

    def decide(self, observation: Observation) -> int:
        """Return the size in proportion once an alarm has lasted long enough."""
        utilization = self._minute.mean()
        self._above = self._above + 1 if utilization > self.target else 0
        self._below = self._below + 1 if utilization < 0.9 * self.target else 0
        if self._above >= 3 or self._below >= 15:  # noqa: PLR2004  AWS's datapoints to alarm
            return math.ceil(observation.size * utilization / self.target)
        return observation.size


class CeleryAutoscale(Rival):
    """``celery worker --autoscale``: as many workers as reserved operations, down after 30 s.

    It sees only reserved operations: at most ``multiplier`` × size.
    """

    def __init__(self, limits: Limits, multiplier: int = 4, keepalive: float = 30.0) -> None:
        super().__init__(limits)
        self.multiplier = multiplier
        self.keepalive = keepalive
        self._grown = -math.inf

    def decide(self, observation: Observation) -> int:
        """Return the number of reserved operations, growing at once."""
        size = observation.size
        present = observation.waiting + math.ceil(observation.busy)
        reserved = min(present, self.multiplier * size)
        if reserved > size:
            self._grown = observation.now
            return reserved
        return reserved if observation.now - self._grown > self.keepalive else size


class LatencyStep(Rival):
    """One up when the mean wait is too long, one down when it is short (as Judoscale does)."""

    interval = 10.0

    def __init__(self, limits: Limits, threshold: float = 0.05, calm: float = 60.0) -> None:
        super().__init__(limits)
        self.threshold = threshold
        self.calm = calm
        self._started = 0
        self._wait = 0.0
        self._quiet_since = -math.inf

    def measure(self, observation: Observation) -> None:
        """Sum the waits until the next decision."""
        self._started += observation.started
        self._wait += observation.wait_sum

    def decide(self, observation: Observation) -> int:
        """Return one more, one less or the same."""
        wait = self._wait / self._started if self._started else 0.0
        self._started, self._wait = 0, 0.0
        if wait > self.threshold:
            self._quiet_since = observation.now
            return observation.size + 1
        if observation.now - self._quiet_since >= self.calm:
            self._quiet_since = observation.now
            return observation.size - 1
        return observation.size


class Oracle(Rival):
    """Knows the true rate of the future: exact staffing, ordered before it is needed.

    Args:
        limits: Of its target.
        goal: The objective.
        arrivals: The operations that will come.
        conditions: For the delays it has to be ahead of.
        factor: Tail factor; the smallest that meets the goal at a steady rate.
    """

    def __init__(
        self,
        limits: Limits,
        goal: Goal,
        arrivals: Arrivals,
        conditions: Conditions,
        factor: float = 1.0,
    ) -> None:
        super().__init__(limits)
        self.goal = goal
        self.arrivals = arrivals
        self.factor = factor
        self._ahead = conditions.actuation + conditions.warm_up + conditions.tick

    def size_at(self, start: float, end: float) -> int:
        """Return the slots that the highest true rate between two times needs."""
        return self.size_for(self.arrivals.highest_rate(start, end))

    def size_for(self, rate: float) -> int:
        """Return the slots that a steady ``rate`` (operations a second) needs."""
        service, most = self.arrivals.service.mean, self.limits.maximum
        return self.limits.clamp(
            smallest_size(rate * service, service, self.goal, factor=self.factor, maximum=most)
        )

    def decide(self, observation: Observation) -> int:
        """Return the slots that are needed until the next decision can take effect."""
        return self.size_at(observation.now, observation.now + self._ahead)
