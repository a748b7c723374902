"""Workloads: rates over time, service times, and both as one reproducible sequence.

A sequence depends on its workload and its seed alone, so that every policy is
tried on the same operations (common random numbers).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Literal, Protocol

STEP = 0.1
"""Seconds for which a rate stays the same."""

Distribution = Literal["deterministic", "exponential", "lognormal", "pareto"]
Rates = Callable[[float, Random], list[float]]
"""Seconds and randomness to operations a second, one value per ``STEP``."""

LOGNORMAL_SCV = 4.0
PARETO_SHAPE = 2.2  # squared coefficient of variation 2.27


class ServiceTimes(Protocol):
    """A source of service times."""

    @property
    def mean(self) -> float:
        """Seconds."""
        ...

    @property
    def steady_factor(self) -> float:
        """The tail factor that an oracle staffs with at a steady rate."""
        ...


@dataclass(frozen=True)
class Service:
    """Service times: a mean in seconds, and a distribution."""

    mean: float = 0.1
    distribution: Distribution = "exponential"

    @property
    def steady_factor(self) -> float:
        """The smallest tail factor that meets 99 % < 50 ms of 100 ms at a steady rate.

        Found by simulation (docs/tuning.md). One is exact for exponential service.
        """
        factors = {"deterministic": 0.5, "exponential": 1.0, "lognormal": 1.6, "pareto": 1.0}
        return factors[self.distribution]

    def draw(self, random: Random) -> float:
        """Return one service time in seconds."""
        match self.distribution:
            case "deterministic":
                return self.mean
            case "exponential":
                return random.expovariate(1.0) * self.mean
            case "lognormal":
                variance = math.log(1.0 + LOGNORMAL_SCV)
                return self.mean * random.lognormvariate(-variance / 2.0, math.sqrt(variance))
            case "pareto":
                scale = self.mean * (PARETO_SHAPE - 1.0) / PARETO_SHAPE
                return scale * random.paretovariate(PARETO_SHAPE)


@dataclass(frozen=True)
class Arrivals:
    """A sequence of operations.

    Attributes:
        times: When each is published, seconds, rising.
        services: How long each runs, seconds.
        rates: The true rate, operations a second, one value per ``STEP``.
        seconds: Length.
        service: The source of the service times.
    """

    times: array[float]
    services: array[float]
    rates: list[float]
    seconds: float
    service: ServiceTimes

    @cached_property
    def mean_service(self) -> float:
        """How long an operation runs, seconds."""
        return sum(self.services) / max(1, len(self.services))

    def highest_rate(self, start: float, end: float) -> float:
        """Return the highest true rate between two times, inside the sequence."""
        last = len(self.rates) - 1
        first = min(last, max(0, int(start / STEP)))
        return max(self.rates[first : min(last, max(first, int(end / STEP))) + 1])

    def steps_up(self, ratio: float = 2.0) -> list[float]:
        """Return when the rate rose at least ``ratio``-fold within one ``STEP``."""
        pairs = zip(self.rates, self.rates[1:], strict=False)
        return [
            (index + 1) * STEP
            for index, (before, after) in enumerate(pairs)
            if after >= ratio * before > 0
        ]


class Source(Protocol):
    """A source of the operations of a run."""

    @property
    def name(self) -> str:
        """Return the name in tables."""
        ...

    def sequence(self, seed: int, seconds: float) -> Arrivals:
        """Return the operations of one run of ``seconds``."""
        ...


@dataclass(frozen=True)
class Workload:
    """A named shape of arrivals with its service times.

    Attributes:
        name: Its name in tables; sequences of other names differ.
        shape: Its rates.
        service: Its service times.
        mean_rate: Operations a second that each sequence is scaled to; None: as the shape is.
    """

    name: str
    shape: Rates
    service: Service = Service()
    mean_rate: float | None = None

    def changed(
        self,
        mean_rate: float | None = None,
        mean_run: float | None = None,
        distribution: Distribution | None = None,
    ) -> Workload:
        """Return the workload with the given values, the others as they are.

        Args:
            mean_rate: Operations a second.
            mean_run: Mean service time, seconds.
            distribution: Of service times.
        """
        return replace(
            self,
            mean_rate=mean_rate or self.mean_rate,
            service=Service(
                mean_run or self.service.mean, distribution or self.service.distribution
            ),
        )

    def sequence(self, seed: int, seconds: float) -> Arrivals:
        """Return the operations of one run.

        Arrivals are Poisson at the shape's rate: unit-rate exponential gaps,
        stretched by the integral of the rate (Çinlar 1975).
        """
        rates = self.shape(seconds, self._random(seed, "shape"))
        if self.mean_rate is not None:
            scale = self.mean_rate * len(rates) / sum(rates)
            rates = [rate * scale for rate in rates]
        random = self._random(seed, "arrivals")
        times = array("d")
        gap = random.expovariate(1.0)
        for index, rate in enumerate(rates):
            start, room = index * STEP, rate * STEP
            used = 0.0
            while gap <= room - used:
                used += gap
                times.append(start + used / rate)
                gap = random.expovariate(1.0)
            gap -= room - used
        service_random = self._random(seed, "services")
        services = array("d", (self.service.draw(service_random) for _ in times))
        return Arrivals(times, services, rates, seconds, self.service)

    def _random(self, seed: int, purpose: str) -> Random:
        return Random(f"{self.name}:{seed}:{purpose}")  # noqa: S311  a simulation, no secret


def _count(seconds: float) -> int:
    return round(seconds / STEP)


def steady(rate: float = 100.0) -> Rates:
    """Return a constant rate."""
    return lambda seconds, _random: [rate] * _count(seconds)


def step(low: float = 30.0, high: float = 120.0) -> Rates:
    """Return ``low``, then ``high`` from about the middle on."""

    def rates(seconds: float, random: Random) -> list[float]:
        at = _count(seconds * random.uniform(0.4, 0.6))
        return [low] * at + [high] * (_count(seconds) - at)

    return rates


def ramp(low: float = 30.0, high: float = 120.0) -> Rates:
    """Return a line from ``low`` up to ``high`` at two thirds, and ``low`` again at the end."""

    def rates(seconds: float, _random: Random) -> list[float]:
        count = _count(seconds)
        top = 2 * count // 3
        rise = [low + (high - low) * i / top for i in range(top)]
        fall = [high - (high - low) * i / (count - top) for i in range(count - top)]
        return rise + fall

    return rates


def diurnal(low: float = 30.0, high: float = 120.0, period: float = 3600.0) -> Rates:
    """Return a sine between ``low`` and ``high`` (a day in an hour), at a random phase."""

    def rates(seconds: float, random: Random) -> list[float]:
        phase = random.uniform(0.0, 2.0 * math.pi)
        middle, swing = (low + high) / 2.0, (high - low) / 2.0
        turn = 2.0 * math.pi * STEP / period
        return [middle + swing * math.sin(phase + i * turn) for i in range(_count(seconds))]

    return rates


def flash(base: float = 30.0, times: float = 8.0, every: float = 1200.0) -> Rates:
    """Return crowds: within 5 s ``times`` the ``base``, for 120 s, fading by half a minute."""
    rise, plateau, fade = 5.0, 120.0, 30.0

    def level(since: float) -> float:
        if since < 0.0:
            return 1.0
        if since < rise:
            return 1.0 + (times - 1.0) * since / rise
        if since < rise + plateau:
            return times
        return 1.0 + (times - 1.0) * math.exp(-(since - rise - plateau) / fade)

    def rates(seconds: float, random: Random) -> list[float]:
        starts = [
            begin + random.uniform(0.2, 0.6) * every
            for begin in (every * i for i in range(math.ceil(seconds / every)))
        ]
        result = []
        for index in range(_count(seconds)):
            now = index * STEP
            begun = [start for start in starts if start <= now]
            result.append(base * (level(now - begun[-1]) if begun else 1.0))
        return result

    return rates


def on_off(high: float = 100.0, low: float = 2.0, period: float = 240.0) -> Rates:
    """Return bursts of ``high`` and pauses of ``low``, each half a ``period`` ± 25 %."""

    def rates(seconds: float, random: Random) -> list[float]:
        result: list[float] = []
        on = random.random() < 0.5  # noqa: PLR2004  a fair coin
        while len(result) < _count(seconds):
            stay = period / 2.0 * random.uniform(0.75, 1.25)
            result += [high if on else low] * _count(stay)
            on = not on
        return result[: _count(seconds)]

    return rates


def mmpp(low: float = 50.0, high: float = 100.0, sojourn: float = 120.0) -> Rates:
    """Return a Markov-modulated Poisson process: two rates, exponential stays in each."""

    def rates(seconds: float, random: Random) -> list[float]:
        result: list[float] = []
        rate = random.choice([low, high])
        while len(result) < _count(seconds):
            result += [rate] * max(1, _count(random.expovariate(1.0 / sojourn)))
            rate = low + high - rate
        return result[: _count(seconds)]

    return rates


def random_walk(low: float = 30.0, high: float = 150.0, sigma: float = 0.05) -> Rates:
    """Return a rate that every 10 s is multiplied by a lognormal step, kept in its bounds."""

    def rates(seconds: float, random: Random) -> list[float]:
        result: list[float] = []
        rate = math.sqrt(low * high)
        while len(result) < _count(seconds):
            result += [rate] * _count(10.0)
            rate = min(high, max(low, rate * math.exp(random.gauss(0.0, sigma))))
        return result[: _count(seconds)]

    return rates


def catalogue() -> dict[str, Workload]:
    """Return the workloads that ship with the simulator, by name."""
    shapes: dict[str, Rates] = {
        "steady": steady(),
        "step": step(),
        "ramp": ramp(),
        "diurnal": diurnal(),
        "flash": flash(),
        "on-off": on_off(),
        "mmpp": mmpp(),
        "random-walk": random_walk(),
    }
    workloads = {name: Workload(name, shape) for name, shape in shapes.items()}
    tails: tuple[Distribution, ...] = ("deterministic", "lognormal", "pareto")
    for distribution in tails:
        name = f"steady-{distribution}"
        workloads[name] = Workload(name, steady(), Service(distribution=distribution))
    return workloads
