"""The policies that can size a pool, and their common interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pooltasks.optimizer.policies.fixed import Fixed
from pooltasks.optimizer.policies.objective import Objective, Tuning
from pooltasks.optimizer.policies.observation import Decision, Limits, Observation, Policy
from pooltasks.optimizer.policies.rules import Rules
from pooltasks.optimizer.policies.schedule import Schedule

if TYPE_CHECKING:
    from pooltasks.optimizer.staffing import Goal

__all__ = [
    "Decision",
    "Fixed",
    "Limits",
    "Objective",
    "Observation",
    "Policy",
    "PolicyName",
    "Rules",
    "Schedule",
    "Tuning",
    "build",
]

PolicyName = Literal["objective", "rules", "schedule", "fixed"]


def build(  # noqa: PLR0917  the pool's settings
    name: PolicyName,
    limits: Limits,
    goal: Goal,
    size: int,
    per_worker: int = 1,
    overflow: int = 0,
) -> Policy:
    """Return a new policy of that name.

    Args:
        name: As in the pool's settings.
        limits: Of its target, in slots.
        goal: The pool's objective.
        size: Slots of the pool at its start; ``fixed`` keeps them.
        per_worker: Slots of a worker; ``rules`` steps by workers.
        overflow: Slots of temporary workers that the settings allow all nodes; ``rules`` allows
            more.
    """
    match name:
        case "objective":
            return Objective(limits, goal, overflow=overflow)
        case "schedule":
            return Schedule(limits, goal, overflow=overflow)
        case "rules":
            return Rules(limits, per_worker, overflow)
        case "fixed":
            return Fixed(limits.clamp(size))
