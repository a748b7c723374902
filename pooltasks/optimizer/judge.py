"""Judge: whether the new version of a rollout is worse than the one before.

Pure. Three answers: *worse*, when what is seen is hardly chance; *well*, when enough operations
were seen and nothing is above its limit; else *unknown*, and more has to be seen. What is rare is
compared as counts: so many more than the limit allows come by chance once in a thousand looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pooltasks.counted import counted
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from pooltasks.metrics.counts import Counts

ERRORS, P99, DEATHS, MEMORY = 3.0, 2.0, 3.0, 2.0
"""How many times as much as the version before the new one may have."""
_CHANCE = 0.001
"""How probable it may be that a version which is at the limit looks worse."""
_LEAST_ERRORS = 0.001
"""Share of failures that any version is allowed before the factor: a version without a failure
would else condemn the next one for its first."""
_LEAST_DEATHS = 0.0002
_SINGLE = 2
"""Events that are fewer than this say nothing."""
_LEAST_SECONDS = 0.005
"""A run may take so long whatever the version before took: noise is of this size."""
_LEAST_MEMORY = 64 * 2**20
"""Bytes that a worker may take more, whatever it took before."""

Answer = Literal["worse", "well", "unknown"]


@dataclass(frozen=True)
class Side:
    """The work of one version since the share was changed."""

    counts: Counts
    memory: float | None = None
    """Bytes of a worker, on average; None if that is not known."""


@dataclass(frozen=True)
class Judgment:
    """The judgment of the new version."""

    answer: Answer
    reason: str


def judge(before: Side, canary: Side, operations: int) -> Judgment:
    """Judge a new version.

    Args:
        before: The version before, in the same time or the step before.
        canary: The new one.
        operations: How many of each must have finished before it is well.
    """
    seen = canary.counts.finished
    if not before.counts.finished:
        return Judgment("unknown", "the version before has finished no operation to compare with")
    findings = [
        _errors(before.counts, canary.counts),
        _deaths(before.counts, canary.counts),
        _p99(before.counts, canary.counts),
        _memory(before, canary),
    ]
    for answer in ("worse", "unknown"):
        for finding in findings:
            if finding is not None and finding.answer == answer and (seen or answer == "worse"):
                return finding
    if seen < operations:
        return Judgment("unknown", f"{seen:,} of {operations:,} operations are finished")
    if before.counts.finished < operations:
        return Judgment(
            "unknown",
            f"the version before has finished {before.counts.finished:,} of {operations:,} "
            "operations to compare with",
        )
    return Judgment("well", f"{seen:,} operations, not worse than the version before")


def _compare(count: int, allowed: float) -> Answer:
    """Compare how often something happened with how often it was allowed to."""
    if count >= _SINGLE and _at_least(count, allowed) < _CHANCE:
        return "worse"
    return "well" if count <= max(allowed, _SINGLE - 1) else "unknown"


def _at_least(count: int, mean: float) -> float:
    """Return the probability of so many events or more, if there are ``mean`` on average."""
    if mean <= 0:
        return 0.0
    below = sum(
        math.exp(number * math.log(mean) - mean - math.lgamma(number + 1))
        for number in range(count)
    )
    return max(0.0, 1.0 - below)


def _errors(before: Counts, canary: Counts) -> Judgment | None:
    failed = canary.outcomes[Outcome.FAILURE]
    rate = before.error_rate or 0.0
    allowed = ERRORS * max(rate, _LEAST_ERRORS)
    return Judgment(
        _compare(failed, allowed * canary.finished),
        f"{failed:,} of {canary.finished:,} operations failed "
        f"({failed / max(1, canary.finished):.2%}); {allowed:.2%} are allowed, as {rate:.2%} "
        "failed with the version before",
    )


def _deaths(before: Counts, canary: Counts) -> Judgment | None:
    def tried(counts: Counts) -> int:
        return counts.finished + counts.outcomes[Outcome.LOST]

    rate = before.recoveries / max(1, tried(before))
    allowed = DEATHS * max(rate, _LEAST_DEATHS) * tried(canary)
    return Judgment(
        _compare(canary.recoveries, allowed),
        f"{counted(canary.recoveries, 'worker')} died in {tried(canary):,} operations; "
        f"{allowed:.1f} are allowed, as {before.recoveries} died in {tried(before):,} with the "
        "version before",
    )


def _p99(before: Counts, canary: Counts) -> Judgment | None:
    p99 = before.run.quantile(0.99)
    if p99 is None or canary.run.is_empty:
        return None
    limit = max(P99 * p99, p99 + _LEAST_SECONDS)
    over = round((canary.run.share_above(limit) or 0.0) * canary.run.count)
    return Judgment(
        _compare(over, 0.01 * canary.run.count),
        f"{over:,} of {canary.run.count:,} operations ran longer than {limit * 1000:,.0f} ms, "
        f"where 1% may: the p99 of the version before is {p99 * 1000:,.0f} ms",
    )


def _memory(before: Side, canary: Side) -> Judgment | None:
    if before.memory is None or canary.memory is None:
        return None
    limit = max(MEMORY * before.memory, before.memory + _LEAST_MEMORY)
    return Judgment(
        "worse" if canary.memory > limit else "well",
        f"a worker takes {canary.memory / 2**20:,.0f} MiB of memory; {limit / 2**20:,.0f} MiB are "
        f"allowed, as one of the version before takes {before.memory / 2**20:,.0f} MiB",
    )
