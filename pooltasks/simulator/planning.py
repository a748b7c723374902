"""The number of workers that a rate needs, their utilization, and the cost of shorter waits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pooltasks.errors import ConfigurationError
from pooltasks.optimizer.staffing import Goal, erlang_c, late_share, smallest_size

MOST_WORKERS = 1_000_000

_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(rf"{_NUMBER}\s*(us|ms|s|m|min|h)")
_RATE = re.compile(rf"{_NUMBER}\s*/\s*(s|min|m|h)")
_GOAL = re.compile(rf"{_NUMBER}\s*%\s*<\s*(.+)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Plan:
    """A size and its figures.

    Attributes:
        goal: The objective it was made for.
        workers: The fewest that meet it, with one slot each.
        load: Busy workers on average (erlangs).
        utilization: ``load ÷ workers``, 0–1.
        late: Share of operations that wait longer than the objective, 0–1.
        mean_wait: Seconds.
    """

    goal: Goal
    workers: int
    load: float
    utilization: float
    late: float
    mean_wait: float


def plan(rate: float, run: float, goal: Goal, *, service_scv: float = 1.0) -> Plan:
    """Return the fewest workers that meet ``goal``.

    Args:
        rate: Poisson arrivals, operations a second, > 0.
        run: Mean service time, seconds, > 0.
        goal: The objective.
        service_scv: Squared coefficient of variation of the service time. One is
            exponential and the answer exact; otherwise it is Allen–Cunneen's
            approximation, which over-staffs for heavy tails.

    Raises:
        ConfigurationError: It would take more than a million workers.
    """
    load, factor = rate * run, (1.0 + service_scv) / 2.0
    if load >= MOST_WORKERS:
        raise ConfigurationError(
            f"{rate:g} operations/s of {run:g} s keep {load:.0f} workers busy; "
            f"the plan ends at {MOST_WORKERS}. Check the units of --rate and --run."
        )
    workers = smallest_size(load, run, goal, factor=factor, maximum=MOST_WORKERS)
    return Plan(
        goal=goal,
        workers=workers,
        load=load,
        utilization=load / workers,
        late=late_share(load, workers, run, goal.wait, factor),
        mean_wait=erlang_c(load, workers) * run * factor / (workers - load),
    )


def parse_rate(text: str) -> float:
    """Return operations a second from ``500/s``, ``30/min`` or ``100/h``.

    Raises:
        ConfigurationError: It is written differently, or 0.
    """
    match = _RATE.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise ConfigurationError(f"{text!r} is not a rate; write 500/s, 30/min or 100/h.")
    return float(match[1]) / _SECONDS[match[2]]


def parse_time(text: str) -> float:
    """Return seconds from ``40ms``, ``1.5s`` or ``2min``.

    Raises:
        ConfigurationError: It is written differently, or 0.
    """
    match = _TIME.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise ConfigurationError(f"{text!r} is not a time; write 40ms, 1.5s or 2min.")
    return float(match[1]) * _SECONDS[match[2]]


def parse_goal(text: str) -> Goal:
    """Return the objective from ``99% < 50ms``.

    Raises:
        ConfigurationError: It is written differently, or its share is not between
            0 and 100 %.
    """
    match = _GOAL.fullmatch(text.strip())
    if not match or not 0.0 < float(match[1]) < 100.0:  # noqa: PLR2004  per cent
        raise ConfigurationError(f"{text!r} is not an objective; write it as '99% < 50ms'.")
    return Goal(wait=parse_time(match[2]), quantile=float(match[1]) / 100.0)
