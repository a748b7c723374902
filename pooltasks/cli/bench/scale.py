"""The scenario ``scale``: whether the pool's size follows a rate that goes up and down."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pooltasks.cli.bench.loaded import put
from pooltasks.cli.bench.picture import Chart, of_the_load
from pooltasks.cli.bench.report import Report
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.goals import Goal
from pooltasks.optimizer.staffing import Goal as Objective
from pooltasks.optimizer.staffing import smallest_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pooltasks.cli.bench.loaded import Loaded, Subject

_FACTORS = (0.25, 1.0, 0.5, 1.0, 0.25)
_FOLLOWS = 3.0
"""Seconds for a higher rate to be served: one each for a sample, a decision and a warm-up."""
_EVERY = 0.25
_MORE = 1.25
"""Times as many workers as needed that a pool may keep, as in ``optimizer.utilization``."""


@dataclass(frozen=True)
class Step:
    """One of the rates."""

    seconds: float
    """How long it lasted."""
    rate: float
    """Operations a second."""
    is_higher: bool
    """Whether the rate before was lower."""
    needed: int
    """Workers with which the objective holds, by Erlang's formula."""
    follows: float | None
    """Seconds until the pool had them, or had given back what is more than a quarter above them;
    None: it never did."""
    size: int
    """Workers at the end."""
    late: float | None
    """Share (0–1) of the operations that waited longer than the objective; None: not known."""


def scale(subject: Subject) -> Report:
    """Step the rate up and down; judge how soon the size follows, and the waits meanwhile."""
    loaded = put(subject, factors=_FACTORS, every=_EVERY)
    counts = _counts(subject, loaded)
    settings = subject.pool.settings
    objective = Objective(settings.objective.wait_ms / 1000, settings.objective.quantile)
    run = Counts.merged(counts).run
    service = run.total / run.count if run.count else None
    steps = [
        _step(
            loaded,
            number,
            _needed_workers(subject, subject.rate * factor, service, objective),
            counts[number].wait.share_above(objective.wait),
        )
        for number, factor in enumerate(_FACTORS)
        if service
    ]
    late = Counts.merged(counts).wait.share_above(objective.wait)
    allowed = 100 * objective.allowance
    return Report(
        loaded,
        [
            *(goal for number, its in enumerate(steps, 1) for goal in _judged(number, its)),
            Goal(
                f"waits longer than {settings.objective.wait_ms:g} ms",
                None if late is None else 100 * late,
                "%",
                allowed,
            ),
            Goal(
                "operations without an answer",
                loaded.load.whole.sent - loaded.load.whole.answered,
                "",
                0,
            ),
        ],
        [*_needed(loaded, steps), *of_the_load(loaded)],
        notes=[_in_words(number, its) for number, its in enumerate(steps, start=1)],
        figures={"steps": [vars(its) for its in steps]},
    )


def _judged(number: int, its: Step) -> list[Goal]:
    what = f"step {number}, to {its.rate:g}/s: "
    if not its.is_higher:
        return []
    # One that never followed took the whole step at least.
    follows = its.seconds if its.follows is None else its.follows
    return [Goal(f"{what}size follows after", follows, "s", _FOLLOWS)]


def _step(loaded: Loaded, number: int, needed: int, late: float | None) -> Step:
    """Return what became of one of the rates.

    Args:
        loaded: The load.
        number: Of the step, from 0.
        needed: Workers, as :class:`Step` has them.
        late: The same.
    """
    is_higher = number > 0 and _FACTORS[number] > _FACTORS[number - 1]
    length = loaded.load.seconds / len(_FACTORS)
    looks = loaded.within(number * length, (number + 1) * length)
    most = max(needed + 1, _MORE * needed)
    reached = (
        look.at for look in looks if (look.warm >= needed if is_higher else look.warm <= most)
    )
    at = next(reached, None)
    return Step(
        seconds=length,
        rate=loaded.load.rate * _FACTORS[number],
        is_higher=is_higher,
        needed=needed,
        follows=None if at is None else loaded.load.passed(at) - number * length,
        size=looks[-1].size if looks else 0,
        late=late,
    )


def _needed_workers(subject: Subject, rate: float, service: float, objective: Objective) -> int:
    """Return the workers with which the objective holds, at most those that the nodes allow."""
    slots = subject.pool.settings.slots
    most = slots * sum(its["ceiling"] for its in subject.nodes.values())
    return -(-smallest_size(rate * service, service, objective, maximum=most) // slots)


def _counts(subject: Subject, loaded: Loaded) -> list[Counts]:
    """Return what the pool did in each step, as its samples tell it: a second more or less."""
    # Samples have the server's time.
    queue, samples = subject.pool.samples(subject.seconds + 60)
    begun = queue.at - loaded.load.passed(time.monotonic())
    length = loaded.load.seconds / len(_FACTORS)
    found: list[list[Counts]] = [[] for _ in _FACTORS]
    for its in samples.values():
        for one in its:
            # It tells of the second before it was written.
            place = int((one.at - one.sample.interval / 2 - begun) // length)
            if 0 <= place < len(found):
                found[place].append(one.sample.counts)
    return [Counts.merged(its) for its in found]


def _needed(loaded: Loaded, steps: Sequence[Step]) -> list[Chart]:
    if not steps:
        return []
    length = loaded.load.seconds / len(steps)
    stairs = [
        (edge * length, float(its.needed))
        for number, its in enumerate(steps)
        for edge in (number, number + 1)
    ]
    looks = [(loaded.load.passed(it.at), it) for it in loaded.within(0, loaded.load.seconds)]
    return [
        Chart(
            "Workers that the objective needs, and that there are",
            "number",
            {"needed": stairs, "warm": [(at, it.warm) for at, it in looks]},
        )
    ]


def _in_words(number: int, its: Step) -> str:
    late = "not known" if its.late is None else f"{100 * its.late:.2f} %"
    follows = "not within the step" if its.follows is None else f"after {its.follows:.1f} s"
    what = "had" if its.is_higher else "no more than a quarter above"
    return (
        f"step {number}: {its.rate:g}/s needs {its.needed} workers; {what} {follows}; "
        f"{its.size} at the end; {late} late"
    )
