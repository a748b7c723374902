"""The summary of several rounds: medians, ratios, and the targets that hold."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.measure import Round

OURS = "pooltasks"
STOCK = "celery"
HUEY = "huey"

_HEADING = """\
                     drain            CPU ms  enqueue    batch   round trip, ms  commands
                     ops/s  ÷ stock    an op    ops/s    ops/s     p50      p99     an op"""

Rounds = dict[str, "Round"]
"""One round: the measurements of each system."""


class Target(NamedTuple):
    """A ratio that is to be reached, and the measured one."""

    what: str
    at_least: float | None
    at_most: float | None
    ratio: float
    """Median of the ratios of each round: a slow machine slows both sides of a ratio."""

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        verdict = "holds" if self.holds else "MISSED"
        return f"{verdict:<6}  {self.what:<46} {self.ratio:6.2f}  ({bound})"


class Aim(NamedTuple):
    """A target before it is measured: a quotient of ours and another system's measure."""

    what: str
    ours: str
    other: str
    theirs: str
    at_least: float | None = None
    at_most: float | None = None


AIMS = (
    Aim("drain ÷ stock", "drain", STOCK, "drain", at_least=4.5),
    Aim(".delay() ÷ stock", "enqueue", STOCK, "enqueue", at_least=3.5),
    Aim(".delay() ÷ huey", "enqueue", HUEY, "enqueue", at_least=1.0),
    Aim("submit_many ÷ stock .delay()", "batch", STOCK, "enqueue", at_least=15.0),
    Aim("round trip p50 ÷ stock", "round_trip_p50", STOCK, "round_trip_p50", at_most=0.5),
    Aim("round trip p99 ÷ stock", "round_trip_p99", STOCK, "round_trip_p99", at_most=0.5),
    Aim("round trip p50 ÷ huey", "round_trip_p50", HUEY, "round_trip_p50", at_most=1.0),
    Aim("commands an operation ÷ stock", "commands", STOCK, "commands", at_most=0.5),
)


def typical(rounds: Sequence[Rounds], name: str, measure: str) -> float | None:
    """Return the median of a measure of one system; None when it was not measured."""
    values = _values(rounds, name, measure)
    return median(values) if values else None


def fastest_peer(rounds: Sequence[Rounds]) -> str | None:
    """Return the fastest drainer besides Celery and ours; None if no other was measured."""
    peers = {name for each in rounds for name in each if not name.startswith((OURS, STOCK))}
    return max(peers, key=lambda name: typical(rounds, name, "drain") or 0.0, default=None)


def ratio(rounds: Sequence[Rounds], ours: tuple[str, str], theirs: tuple[str, str]) -> float | None:
    """Return the median of the quotients of two measures (system, measure), each of one round."""
    quotients = []
    for each in rounds:
        above, below = _value(each, *ours), _value(each, *theirs)
        if above is not None and below is not None:
            quotients.append(above / below)
    return median(quotients) if quotients else None


def targets(rounds: Sequence[Rounds]) -> list[Target]:
    """Return the targets for which both sides were measured."""
    aims = list(AIMS)
    if peer := fastest_peer(rounds):
        what = f"drain ÷ fastest peer ({peer})"
        aims.insert(1, Aim(what, "drain", peer, "drain", at_least=1.0))
    reached = ((aim, ratio(rounds, (OURS, aim.ours), (aim.other, aim.theirs))) for aim in aims)
    return [
        Target(aim.what, aim.at_least, aim.at_most, value)
        for aim, value in reached
        if value is not None
    ]


def table(rounds: Sequence[Rounds], names: Sequence[str], failures: Mapping[str, str]) -> str:
    """Return the figures for people: medians of the rounds, a system a line."""
    lines = [_HEADING]
    for name in names:
        if name in failures:
            lines.append(f"{name:<18}failed: {failures[name]}")
            continue

        def figure(measure: str, scale: float = 1.0, form: str = ",.0f", of: str = name) -> str:
            value = typical(rounds, of, measure)
            return "–" if value is None else format(value * scale, form)

        relative = ratio(rounds, (name, "drain"), (STOCK, "drain"))
        lines.append(
            f"{name:<18}{figure('drain'):>8}"
            f"{'–' if relative is None else format(relative, '.2f'):>9}"
            f"{figure('cpu', 1000, '.2f'):>9}{figure('enqueue'):>9}{figure('batch'):>9}"
            f"{figure('round_trip_p50', 1000, '.2f'):>8} {figure('round_trip_p99', 1000, '.2f'):>8}"
            f"{figure('commands', 1, '.1f'):>10}"
        )
    return "\n".join(lines)


def _values(rounds: Sequence[Rounds], name: str, measure: str) -> list[float]:
    values = (_value(each, name, measure) for each in rounds)
    return [value for value in values if value is not None]


def _value(of: Rounds, name: str, measure: str) -> float | None:
    value: float | None = getattr(of[name], measure) if name in of else None
    return value
