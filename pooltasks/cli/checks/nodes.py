"""The nodes that run: whether they work, each of them, and whether a deployment is finished."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pooltasks.cli.checks.finding import Finding, error, ok, warning
from pooltasks.dashboard.circumstances import start_node
from pooltasks.dashboard.verdict import celery_name
from pooltasks.metrics.collector import PRESENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks.cli.checks.phase import Phase
    from pooltasks.cli.standing import Standing

_HINDERS = frozenset({"warm", "nodes"})
"""The numbers that a verdict blames where nodes cannot work; others are of the operations."""


def check_nodes(its: Standing, phase: Phase | None) -> Iterator[Finding]:
    """Look at the nodes of a pool.

    A pool that nobody serves yet is no fault before its deployment.
    """
    pool = its.evidence.pool
    subject = f"nodes of {pool}"
    if not its.states:
        if phase == "after":
            yield error(
                subject,
                "no node serves this pool",
                f"Start one: {start_node(its.evidence.application, pool)}",
            )
        return
    if its.verdict.level == "bad" and its.verdict.blamed & _HINDERS:
        yield error(subject, its.verdict.text, its.verdict.remedy or _look(pool))
    elif its.verdict.level in ("good", "off"):
        yield ok(subject, its.verdict.text)
    else:
        yield warning(subject, its.verdict.text, its.verdict.remedy or _look(pool))
    yield from _check_each(its, phase)
    yield from _check_versions(its, phase)


def _check_versions(its: Standing, phase: Phase | None) -> Iterator[Finding]:
    """Look at whether nodes run different versions of the code, and no rollout is under way."""
    evidence = its.evidence
    nodes: dict[str, list[str]] = defaultdict(list)
    for node in evidence.metrics.nodes:
        if node.state in PRESENT:
            nodes[node.version].append(celery_name(node))
    rollout = evidence.rollout
    if len(nodes) < 2 or (rollout is not None and rollout.is_live):  # noqa: PLR2004  one version
        return
    subject = f"versions of {evidence.pool}"
    text = "; ".join(
        f"{version or 'no version'} on {', '.join(sorted(names))}"
        for version, names in sorted(nodes.items())
    )
    if phase == "during":
        yield ok(subject, text)
        return
    out = sorted(version for version in nodes if rollout is not None and rollout.retires(version))
    reason = f"its nodes run different versions of the code, and no rollout is under way: {text}"
    if out:
        versions = " and ".join(version or "no version" for version in out)
        yield warning(
            subject,
            f"{reason}. The last rollout has taken {versions} out of use",
            f"Stop the nodes of {versions}: they take nothing.",
        )
    else:
        yield warning(
            subject,
            f"{reason}. An operation may run on any of them",
            "Restart the nodes one after the other until all have the same POOLTASKS_VERSION. "
            "To give a new version a share first, begin from one version: "
            f"pooltasks rollout start VERSION {evidence.pool}",
        )


def _check_each(its: Standing, phase: Phase | None) -> Iterator[Finding]:
    pool = its.evidence.pool
    for node, said in sorted(its.nodes.items()):
        failure = said["warm_up"].get("last_failure")
        if failure:
            gravity = warning if said["warm"] else error
            yield gravity(
                node,
                f"{said['warm']} of {said['size']} workers warm: the warm-up fails in {failure}",
                "Mend that; the node tries again by itself. "
                f"To try it here: pooltasks check {pool} --phase before",
            )
        if said["draining"] and phase in (None, "after"):
            yield warning(
                node,
                "it is drained and still runs" if said["empty"] else "it is still draining",
                f"Stop it, or let it take operations again: pooltasks resume {pool}",
            )


def _look(pool: str) -> str:
    return f"See pooltasks status {pool}"
