"""The effect of each parameter of the policy ``objective``: the guide's table and pictures.

One parameter, or one condition around the policy, is changed at a time; all
runs of a workload have the same operations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pooltasks.optimizer.policies import Limits, Objective, Tuning
from pooltasks.optimizer.staffing import Goal
from pooltasks.simulator import report
from pooltasks.simulator.conditions import Conditions
from pooltasks.simulator.plot import Panel, svg
from pooltasks.simulator.workloads import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pooltasks.optimizer.policies import Policy
    from pooltasks.simulator.report import Builder, Setting
    from pooltasks.simulator.run import Run
    from pooltasks.simulator.workloads import Arrivals

WORKLOADS = ("steady", "flash", "on-off", "mmpp")
"""The columns of the table."""

_CHANGED: dict[str, tuple[float, ...]] = {
    "confidence": (0.0, 1.0, 3.0),
    "sigmas": (3.0, 5.0),
    "drain": (0.1, 0.5, 1.0, 3.0),
    "release": (10.0, 60.0, 180.0),
    "drop": (2.0, 10.0, 20.0),
    "landing": (1.0, 20.0),
    "pause": (1.0, 5.0, 30.0),
    "patience": (10.0, 300.0),
    "lead": (0.0, 6.0),
    "learning": (60.0, 1200.0),
}
_SURROUNDINGS = {
    "tick 5 s": Conditions(tick=5.0),
    "tick 15 s": Conditions(tick=15.0),
    "tick 60 s": Conditions(tick=60.0),
    "fork 0.05 s, one after another": Conditions(fork=0.05),
    "warm-up 0 s": Conditions(warm_up=0.0),
    "warm-up 3 s": Conditions(warm_up=3.0),
    "warm-up 3 s, 8 spares": Conditions(warm_up=3.0, spares=8),
    "warm-up 3 s, 24 spares": Conditions(warm_up=3.0, spares=24),
    "warm-up 10 s": Conditions(warm_up=10.0),
    "4 nodes, 10 % of samples lost, 1 s late": Conditions(
        nodes=4, lost_metrics=0.1, late_metrics=1.0
    ),
    "60 worker crashes an hour": Conditions(crashes_per_hour=60.0),
}


@dataclass(frozen=True)
class Variant:
    """The policy with other parameters, or under other conditions."""

    tuning: Tuning = field(default_factory=Tuning)
    conditions: Conditions = field(default_factory=Conditions)

    def build(self, setting: Setting) -> Policy:
        """Return the policy for one sequence."""
        return Objective(setting.limits, setting.goal, self.tuning)


def variants() -> dict[str, Variant]:
    """Return the rows of the table: the defaults first, then one change at a time."""
    tunings = {
        f"`{name}` {value:g}": Variant(replace(Tuning(), **{name: value}))
        for name, values in _CHANGED.items()
        for value in values
    }
    surroundings = {label: Variant(conditions=its) for label, its in _SURROUNDINGS.items()}
    return {"defaults": Variant(), **tunings, **surroundings}


def table(seeds: int, seconds: float) -> Iterator[str]:
    """Yield the lines of the table, each as soon as it is known.

    Args:
        seeds: Sequences of each workload: from the number 0 on.
        seconds: Length of a sequence.
    """
    yield "| | " + " | ".join(WORKLOADS) + " |"
    yield "|---" * (1 + len(WORKLOADS)) + "|"
    workloads = [catalogue()[name] for name in WORKLOADS]
    for label, variant in variants().items():
        rows = report.compare(
            workloads,
            {label: variant.build},
            range(seeds),
            seconds=seconds,
            conditions=variant.conditions,
        )
        cells = [
            f"{100 * row.violations.mean:.2f} / {row.cost.mean:.3f} / "
            f"{row.resizes_per_hour.mean:.0f}"
            for row in rows
        ]
        yield f"| {label} | " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class _Scene:
    """One panel of a picture: variants, or policies by name, on one sequence."""

    title: str
    workload: str
    seconds: float
    variants: dict[str, Variant]
    policies: tuple[str, ...] = ()

    def panel(self) -> Panel:
        """Return the panel, drawn from the sequence with the number 0."""
        panels: list[Panel] = []
        builders: dict[str, tuple[Builder, Conditions]] = {
            label: (variant.build, variant.conditions) for label, variant in self.variants.items()
        }
        builders |= {name: (report.policies()[name], Conditions()) for name in self.policies}

        def watch(_workload: str, name: str, _seed: int, arrivals: Arrivals, run: Run) -> None:
            if not panels:
                panels.append(Panel(self.title, arrivals, Goal().wait))
            panels[0].runs.append((name, run))

        for name, (build, conditions) in builders.items():
            for _ in report.compare(
                [catalogue()[self.workload]],
                {name: build},
                [0],
                seconds=self.seconds,
                limits=Limits(2, 64),
                conditions=conditions,
                watch=watch,
            ):
                pass
        return panels[0]


def _tuned(**changes: float) -> Variant:
    return Variant(replace(Tuning(), **changes))


def _pictures() -> dict[str, list[_Scene]]:
    rivals = ("objective", "knative", "hpa", "celery", "oracle")
    ticks = {f"tick {tick:g} s": Variant(conditions=Conditions(tick=tick)) for tick in (1, 5, 60)}
    warm_ups = {
        f"warm-up {time:g} s": Variant(conditions=Conditions(warm_up=time)) for time in (0.5, 3, 10)
    }
    return {
        "policies": [
            _Scene("A step to four times the rate", "step", 600.0, {}, rivals),
            _Scene("A flash crowd: eight times the rate", "flash", 900.0, {}, rivals),
        ],
        "growing": [
            _Scene(
                "drain: how fast a backlog is to go",
                "step",
                120.0,
                {f"drain {value:g} s": _tuned(drain=value) for value in (0.1, 0.3, 3.0)},
            ),
            _Scene(
                "lead: how far a leaping rate is followed",
                "flash",
                300.0,
                {f"lead {value:g} s": _tuned(lead=value) for value in (0.0, 3.0, 6.0)},
            ),
        ],
        "giving-back": [
            _Scene(
                "drop: how long slots are kept when the rate has dropped",
                "on-off",
                900.0,
                {f"drop {value:g} s": _tuned(drop=value) for value in (2.0, 5.0, 20.0)},
            ),
            _Scene(
                "patience: how long a small shrink waits",
                "random-walk",
                900.0,
                {f"patience {value:g} s": _tuned(patience=value) for value in (10.0, 72.0, 300.0)},
            ),
        ],
        "certainty": [
            _Scene(
                "confidence: how far above the estimate to staff",
                "steady",
                900.0,
                {f"confidence {value:g}": _tuned(confidence=value) for value in (0.0, 1.5, 3.0)},
            ),
            _Scene(
                "sigmas: how surprising a change must be",
                "mmpp",
                900.0,
                {f"sigmas {value:g}": _tuned(sigmas=value) for value in (2.5, 4.0, 6.0)},
            ),
        ],
        "surroundings": [
            _Scene("tick: how often the pool is looked at", "flash", 900.0, ticks),
            _Scene("warm-up: how long new workers take", "flash", 900.0, warm_ups),
        ],
    }


PICTURES = _pictures()
"""The panels of each picture of the guide, by its name."""


def draw(name: str, folder: Path) -> Path:
    """Draw the picture of that name into ``folder``; return its file."""
    path = folder / f"{name}.svg"
    path.write_text(svg([scene.panel() for scene in PICTURES[name]]), "utf-8")
    return path
