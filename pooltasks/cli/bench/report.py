"""Report: what a scenario measured, as lines, as JSON and beside an earlier run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pooltasks.cli.bench.loaded import Loaded
    from pooltasks.cli.bench.picture import Chart
    from pooltasks.metrics.goals import Goal

_LATE = 0.01
"""Seconds (p99) that the sender may be late: beyond that its figures measure itself."""


@dataclass(frozen=True)
class Report:
    """The findings of a scenario."""

    loaded: Loaded
    """Its load; of several the last."""
    goals: Sequence[Goal]
    """The measured numbers, with their bounds."""
    charts: Sequence[Chart]
    notes: Sequence[str] = ()
    """Sentences that explain them."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """More of it, for JSON."""

    @property
    def sender_late(self) -> float:
        """Seconds (p99) that operations were sent later than meant."""
        return self.loaded.load.late.quantile(0.99) or 0.0

    @property
    def is_missed(self) -> bool:
        """Whether a goal is missed; what is not known is not."""
        return any(goal.verdict == "MISSED" for goal in self.goals)

    def lines(self, earlier: Mapping[str, float | None] | None) -> Iterator[str]:
        """Yield the lines for people.

        Args:
            earlier: The numbers of an earlier run, as :func:`read_earlier` returns them.
        """
        for goal in self.goals:
            yield f"{goal}{_change(goal, earlier)}"
        yield from self.notes

    def warnings(self) -> Iterator[str]:
        """Yield what makes the figures doubtful."""
        load = self.loaded.load
        if load.whole.failed:
            yield f"{load.whole.failed} of {load.whole.answered} failed, the first: {load.failure}"
        if self.sender_late > _LATE:
            yield (
                f"The sender was {self.sender_late * 1e3:.0f} ms late (p99): latencies tell of it "
                "as well. Run it on another machine, or with a lower rate."
            )

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; :func:`read_earlier` reads them."""
        load, victims = self.loaded.load, self.loaded.victims
        return {
            "pool": load.pool.name,
            "operation": load.call.operation,
            "rate": load.rate,
            "seconds": load.seconds,
            "killed": victims.workers,
            "nodes_killed": victims.nodes,
            "sent": load.whole.sent,
            "answered": load.whole.answered,
            "failed": load.whole.failed,
            "sender_late_p99": self.sender_late,
            "goals": [goal.as_json() for goal in self.goals],
            "notes": list(self.notes),
            **self.figures,
        }


def read_earlier(path: Path) -> dict[str, float | None]:
    """Return the numbers of an earlier run, by what they are.

    Raises:
        click.BadParameter: The file is not what ``--json`` wrote.
    """
    try:
        return {goal["what"]: goal["measured"] for goal in json.loads(path.read_text())["goals"]}
    except (ValueError, KeyError, TypeError):
        raise click.BadParameter("it is not what --json wrote") from None


def _change(goal: Goal, earlier: Mapping[str, float | None] | None) -> str:
    """Return the number of an earlier run, and its change since."""
    if earlier is None:
        return ""
    before = earlier.get(goal.what)
    if before is None:
        return "  was not known"
    if goal.measured is None or not before:
        return f"  was {before:,.2f}"
    return f"  was {before:,.2f} ({goal.measured / before - 1:+.0%})"
