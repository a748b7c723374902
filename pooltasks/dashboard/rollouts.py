"""Rollouts, as a pool's page, the list of pools and ``pooltasks status`` tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pooltasks.dashboard import remedies
from pooltasks.metrics.collector import PRESENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pooltasks.dashboard.verdict import Evidence
    from pooltasks.metrics.rollout import Rollout
    from pooltasks.metrics.view import NodeMetrics

_AWAY = 10.0
"""Seconds after which nobody looks after a rollout."""
_NEWS = 3600.0
"""Seconds for which it is worth a word that a version was rolled back."""


class Finding(NamedTuple):
    """A finding on a pool's rollout."""

    kind: Literal["bad", "problem", "remark"]
    text: str
    remedy: str | None = None


def finding(its: Evidence) -> Finding | None:
    """Return what is to be said of the pool's rollout; None if there is nothing."""
    rollout = its.rollout
    if rollout is None:
        return None
    present = [node for node in its.metrics.nodes if node.state in PRESENT]
    out = [node for node in present if rollout.retires(node.version)]
    if out and len(out) == len(present):
        versions = " and ".join(sorted({node.version or "(none)" for node in out}))
        return Finding(
            "bad",
            f"no node has a version that is in use: a rollout has taken {versions} out of it",
            remedies.forget(its),
        )
    if rollout.is_live:
        if rollout.at - max(rollout.looked, rollout.since) > _AWAY:
            text = f"no control node looks after the rollout of {rollout.version}"
            return Finding("problem", text, remedies.CONTROL)
        return Finding("remark", _standing(rollout))
    is_news = rollout.at - (rollout.ended or 0.0) < _NEWS
    if rollout.state == "aborted" and (is_news or out):
        text = f"version {rollout.version} was rolled back at {rollout.share} %: {rollout.reason}"
        return Finding("problem", text, remedies.rolled_back(its))
    return None


def _standing(rollout: Rollout) -> str:
    paused = " (paused)" if rollout.paused else ""
    return f"version {rollout.version} has {rollout.share} % of the operations{paused}"


def shown(rollout: Rollout | None, nodes: Sequence[NodeMetrics]) -> dict[str, Any] | None:
    """Return what the page shows of a rollout, with the nodes of each version; None of none."""
    if rollout is None:
        return None
    sides = []
    for side, version in (("before", rollout.before), ("canary", rollout.version)):
        own = [node for node in nodes if node.version == version and node.state in PRESENT]
        sides.append(
            {
                "version": version,
                "nodes": len(own),
                "warm": sum(node.warm for node in own),
                "takes": not rollout.retires(version),
                **rollout.figures(side),
            }
        )
    sentence = rollout.sentence()
    return {**rollout.as_json(), "sentence": sentence[0].upper() + sentence[1:], "sides": sides}
