"""Erlang staffing: the number of slots that keeps the share of long waits below a goal.

Offered load ``a`` is arrival rate × mean service time, in erlangs (busy slots);
``c`` is the number of slots; ``t`` a wait in seconds.

- Erlang B by its recursion, ``B(0) = 1``, ``B(k) = aB(k−1) / (k + aB(k−1))``
  (Jagerman 1974; stable for any ``c`` because it never forms a factorial).
- Erlang C from it, ``C = B / (1 − ρ + ρB)`` with ``ρ = a/c`` (Cooper 1981).
- ``P(W > t) = C · exp(−(c − a)t / (E[S]·f))``: exact for M/M/c with ``f = 1``.
  For other arrivals and services ``f = (ca² + cs²)/2`` scales the mean of the
  conditional wait (Allen 1978, Cunneen; the two-moment approximation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """At most ``1 - quantile`` of the operations wait longer than ``wait`` seconds."""

    wait: float = 0.05
    quantile: float = 0.99

    @property
    def allowance(self) -> float:
        """The share of operations that may wait longer, 0–1."""
        return 1.0 - self.quantile

    def __str__(self) -> str:
        return f"{self.quantile * 100:g}% < {time_in_words(self.wait).replace(' ', '')}"


def time_in_words(seconds: float, digits: int = 4) -> str:
    """Return a time with a unit that suits it: ``40 ms``, ``1.5 s``, ``30 min``, ``3 h``."""
    sizes = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    # A time of less than two of a unit is told in the smaller one; a second is 1 s, though.
    fits = [unit for unit, size in sizes.items() if seconds >= size * (2 if size > 1.0 else 1)]
    unit = fits[-1] if fits else "ms"
    return f"{seconds / sizes[unit]:.{digits}g} {unit}"


def erlang_b(load: float, slots: int) -> float:
    """Return the probability that an arrival finds ``slots`` busy in a loss system.

    Args:
        load: Offered load in erlangs, ≥ 0.
        slots: ≥ 0.
    """
    blocking = 1.0
    for k in range(1, slots + 1):
        blocking = load * blocking / (k + load * blocking)
    return blocking


def erlang_c(load: float, slots: int) -> float:
    """Return the probability that an arrival has to wait; 1 if the slots cannot keep up."""
    if load >= slots:
        return 1.0
    return _waits(load, slots, erlang_b(load, slots))


def late_share(load: float, slots: int, service: float, wait: float, factor: float = 1.0) -> float:
    """Return P(W > ``wait``), 0–1; 1 if ``slots`` cannot keep up with ``load``.

    Args:
        load: Offered load in erlangs.
        slots: Slots that serve one first-in-first-out queue.
        service: Mean service time in seconds, > 0.
        wait: Seconds.
        factor: The tail factor ``f``, > 0; 1 is exact for Poisson arrivals and
            exponential service.
    """
    if load >= slots:
        return 1.0
    return erlang_c(load, slots) * math.exp(-(slots - load) * wait / (service * factor))


def smallest_size(
    load: float, service: float, goal: Goal, *, factor: float = 1.0, maximum: int
) -> int:
    """Return the fewest slots that meet ``goal``, 1 to ``maximum``.

    One pass of the recursion: O(result). ``maximum`` is also the answer when
    even that many do not suffice.
    """
    blocking = 1.0
    for slots in range(1, maximum):
        blocking = load * blocking / (slots + load * blocking)
        if slots > load:
            waits = _waits(load, slots, blocking)
            exponent = -(slots - load) * goal.wait / (service * factor)
            if waits * math.exp(exponent) <= goal.allowance:
                return slots
    return maximum


def tail_factor(service_scv: float, arrival_scv: float = 1.0) -> float:
    """Return Allen–Cunneen's ``f`` from squared coefficients of variation (variance ÷ mean²)."""
    return (arrival_scv + service_scv) / 2.0


def _waits(load: float, slots: int, blocking: float) -> float:
    utilization = load / slots
    return blocking / (1.0 - utilization + utilization * blocking)
