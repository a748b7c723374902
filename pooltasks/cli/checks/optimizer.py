"""The optimizer: whether beat and a control node run, so that pools are sized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks.cli.checks.finding import Finding, ok, warning
from pooltasks.dashboard.circumstances import start_beat, start_node
from pooltasks.keys import CONTROL_POOL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pooltasks.cli.standing import Standing

SUBJECT = "optimizer"


def check_optimizer(found: Sequence[Standing], control: Standing) -> Iterator[Finding]:
    """Look at whether the pools that have an optimizer are sized by it.

    Args:
        found: The pools.
        control: The control pool.
    """
    sized = [its for its in found if its.nodes and its.evidence.settings.enable_optimizer]
    if not sized:
        return
    application = control.evidence.application
    paused = [its for its in sized if its.paused]
    for its in paused:
        yield warning(
            SUBJECT,
            f"it is paused for {its.evidence.pool}, {its.paused:.0f} s more",
            f"To go on now: pooltasks optimize {its.evidence.pool} --resume",
        )
    if not control.nodes:
        yield warning(
            SUBJECT,
            "no node serves the control pool: pools keep their size",
            f"Start one: {start_node(application, CONTROL_POOL)}",
        )
        return
    undecided = [its.evidence.pool for its in sized if its.decision is None]
    if undecided:
        yield warning(
            SUBJECT,
            f"it decides nothing for {', '.join(undecided)}: beat does not run, or has no "
            "entry for it",
            f"Start beat, once: {start_beat(application)}",
        )
    else:
        yield ok(SUBJECT, "beat and a control node run")
