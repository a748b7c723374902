"""KEDA's arithmetic: the number of replicas that it makes of a list's length."""

from __future__ import annotations

import math
from collections import deque


class Keda:
    """KEDA with its Redis scaler and the autoscaler that it configures.

    The scaler's value is the list's length. The autoscaler looks every 15 s and wants
    ``ceil(value ÷ target)`` replicas: downwards the largest wish of the stabilization window,
    upwards at most twice as many, or four more.

    Args:
        replicas: How many there are.
        target: Elements of the list for each replica.
        window: Seconds of the stabilization window.
        most: The most replicas; None: any number.
        share: The share of the replicas that may end within ``period``.
        period: Seconds.
    """

    def __init__(
        self,
        replicas: int,
        *,
        target: int = 1,
        window: float = 300.0,
        most: int | None = None,
        share: float = 1.0,
        period: float = 60.0,
    ) -> None:
        self.replicas = replicas
        self._target = target
        self._window = window
        self._most = math.inf if most is None else most
        self._share = share
        self._period = period
        self._wishes: deque[tuple[float, int]] = deque()
        self._ended: deque[tuple[float, int]] = deque()

    def look(self, now: float, length: int) -> int:
        """Return how many replicas there are to be.

        Args:
            now: Seconds, rising.
            length: Of the list.
        """
        wish = int(min(self._most, max(1, math.ceil(length / self._target))))
        self._wishes.append((now, wish))
        while self._wishes[0][0] <= now - self._window:
            self._wishes.popleft()
        stable = max(wish for _, wish in self._wishes)
        if wish > self.replicas:
            self.replicas = min(wish, max(2 * self.replicas, self.replicas + 4))
        elif stable < self.replicas:
            self._end(now, stable)
        return self.replicas

    def _end(self, now: float, stable: int) -> None:
        while self._ended and self._ended[0][0] <= now - self._period:
            self._ended.popleft()
        before = self.replicas + sum(number for _, number in self._ended)
        fewer = max(stable, math.floor(before * (1.0 - self._share)))
        if fewer < self.replicas:
            self._ended.append((now, self.replicas - fewer))
            self.replicas = fewer
