"""The scenarios ``latency`` and ``load``: latencies at one rate, and as the rate grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks.cli.bench.loaded import put
from pooltasks.cli.bench.picture import of_the_load
from pooltasks.cli.bench.report import Report
from pooltasks.metrics.goals import Goal, milliseconds
from pooltasks.metrics.view import Quantiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks.cli.bench.loaded import Loaded, Subject

_P50, _P99, _UNANSWERED, _THROUGHPUT = 50.0, 100.0, 0.1, 1000.0
"""Milliseconds, percent and operations a second, of the requirements document."""
_FACTORS = (0.25, 0.5, 0.75, 1.0)


def latency(subject: Subject) -> Report:
    """Judge latencies at one rate, and show where they come from."""
    loaded = put(subject)
    work = subject.pool.metrics(subject.seconds).work
    seen = Quantiles.of(loaded.load.whole.latency)
    parts = {"wait for a worker": work.wait, "run": work.run, "published until done": work.latency}
    return Report(
        loaded,
        [
            Goal("latency, p50", milliseconds(seen, "p50"), "ms", _P50),
            Goal("latency, p90", milliseconds(seen, "p90"), "ms"),
            Goal("latency, p99", milliseconds(seen, "p99"), "ms", _P99),
            Goal("latency, p99.9", milliseconds(seen, "p999"), "ms"),
            *(
                Goal(f"{what}, {name}", milliseconds(its, name), "ms")
                for what, its in parts.items()
                for name in ("p50", "p99")
            ),
            Goal("operations without an answer", _unanswered(loaded), "", 0),
        ],
        of_the_load(loaded),
    )


def load(subject: Subject) -> Report:
    """Find the highest of four rates, up to the given one, that the pool stands."""
    loaded = put(subject, factors=_FACTORS)
    steps = [_step(loaded, number) for number in range(len(_FACTORS))]
    stood = [rate for rate, its in steps if all(goal.holds for goal in its)]
    return Report(
        loaded,
        [
            *(goal for _, its in steps for goal in its),
            Goal(
                "highest rate at which all of these hold",
                max(stood, default=0.0),
                "/s",
                at_least=_THROUGHPUT,
            ),
        ],
        of_the_load(loaded),
    )


def _step(loaded: Loaded, number: int) -> tuple[float, list[Goal]]:
    """Return the rate of a step, and what is judged of it."""
    rate = loaded.load.rate * _FACTORS[number]
    return rate, list(_of_a_rate(loaded, number, rate))


def _of_a_rate(loaded: Loaded, number: int, rate: float) -> Iterator[Goal]:
    its = loaded.load.part(number, len(_FACTORS))
    seen = Quantiles.of(its.latency)
    yield from latencies_at(rate, seen)
    missing = its.sent - its.answered + its.failed
    share = 100 * missing / its.sent if its.sent else None
    yield Goal(f"at {rate:g}/s: failed or not answered", share, "%", _UNANSWERED)


def latencies_at(rate: float, seen: Quantiles | None) -> tuple[Goal, Goal]:
    """Return what is judged of the latencies at a rate."""
    return (
        Goal(f"at {rate:g}/s: latency, p50", milliseconds(seen, "p50"), "ms", _P50),
        Goal(f"at {rate:g}/s: latency, p99", milliseconds(seen, "p99"), "ms", _P99),
    )


def _unanswered(loaded: Loaded) -> int:
    return loaded.load.whole.sent - loaded.load.whole.answered
