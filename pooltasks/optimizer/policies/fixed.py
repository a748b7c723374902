"""The policy ``fixed``: always the same size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks.counted import counted
from pooltasks.optimizer.policies.observation import Decision

if TYPE_CHECKING:
    from pooltasks.optimizer.policies.observation import Observation


class Fixed:
    """Keeps ``size`` slots."""

    def __init__(self, size: int) -> None:
        self.size = size

    def observe(self, observation: Observation) -> Decision:  # noqa: ARG002  the protocol's
        """Return the fixed size."""
        return Decision(self.size, f"The size is fixed at {counted(self.size, 'slot')}.")

    def snapshot(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no state."""
