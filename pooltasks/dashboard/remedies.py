"""Remedies: what to do about what is wrong with a pool, each in a sentence."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from pooltasks.counted import percent
from pooltasks.dashboard.circumstances import start_node
from pooltasks.metrics.collector import PRESENT

if TYPE_CHECKING:
    from pooltasks.dashboard.verdict import Evidence

SAME_VERSION = "Run the same version of pooltasks on all nodes."
CONTROL = "Look whether beat and the control node run: pooltasks status control."
_MOSTLY_FREE = 0.3
"""Share of the workers' time: where less of it is used, more workers hardly shorten the waits."""


def rolled_back(its: Evidence) -> str:
    """Return what to do after a version was rolled back."""
    return (
        "Stop its nodes, which take nothing any more; how it compared: "
        f"pooltasks rollout status {its.pool}"
    )


def forget(its: Evidence) -> str:
    """Return what to do where every node has a version that is out of use."""
    return (
        f"Start nodes of the version that is in use, or let these take operations again: "
        f"pooltasks rollout forget {its.pool}"
    )


def start(its: Evidence) -> str:
    """Return what to do for a pool without a node."""
    return f"Start a node: {start_node(its.application, its.pool)}"


def lost(its: Evidence) -> str:
    """Return what to do about nodes that fell silent."""
    name = quote(next(iter(its.lost)))
    return (
        "What it had runs on the other nodes. Look at its host, and start the node again: "
        f"{start_node(its.application, its.pool)} -n {name}"
    )


def resume(its: Evidence) -> str:
    """Return what to do for a pool of which no node takes operations."""
    return f"Stop the nodes, or let them take operations again: pooltasks resume {its.pool}"


def warm_up(its: Evidence) -> str:
    """Return what to do about a warm-up that fails."""
    return (
        f"Mend that; the nodes try again by themselves. To try it here: pooltasks check {its.pool}"
    )


def failures(its: Evidence) -> str:
    """Return what to do about operations that fail."""
    return f"For an example of each error: pooltasks errors {its.pool}"


def dead_letters(its: Evidence) -> str:
    """Return what to do about operations that were set aside."""
    return (
        f"For the reasons: pooltasks errors {its.pool}; to send them again once that is mended: "
        f"pooltasks dead retry {its.pool} --kind KIND; to delete them: "
        f"pooltasks dead drop {its.pool} --kind KIND"
    )


def more_workers(its: Evidence) -> str:
    """Return what to do for a pool whose operations wait too long."""
    nodes = sum(node.state in PRESENT for node in its.metrics.nodes)
    if (its.metrics.load.size or 0) >= nodes * its.settings.max_pool_size:
        return (
            f"Its nodes have max_pool_size workers ({its.settings.max_pool_size}) each: start "
            "another node, or allow more."
        )
    utilization = its.metrics.work.utilization
    if utilization is not None and utilization < _MOSTLY_FREE:
        return (
            f"Its workers are busy {percent(utilization)} % of the time. Operations come in "
            "bursts, or something else takes the processors of its hosts: "
            f"pooltasks status {its.pool}"
        )
    if its.settings.enable_optimizer:
        return (
            "The optimizer adds workers as far as the hosts have room; what it does: "
            f"pooltasks status {its.pool}"
        )
    return f"Give it more workers: pooltasks resize {its.pool} SIZE"
