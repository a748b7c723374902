"""A finding of ``pooltasks check``: what was looked at, how it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["ok", "skipped", "warning", "error"]
"""``skipped``: it could not be looked at, and the reason says why. With a ``warning`` a
deployment works, but not as it should. With an ``error`` it does not."""
SEVERITIES: tuple[Severity, ...] = ("ok", "skipped", "warning", "error")
"""The worst last."""


@dataclass(frozen=True)
class Finding:
    """A finding of a check."""

    subject: str
    """The thing that was checked: ``server``, ``pool.code``, ``nodes of code``…"""
    severity: Severity
    reason: str
    """How it is, in a sentence."""
    remedy: str | None = None
    """The remedy, in a sentence; every warning and error has one."""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dict(vars(self))


def ok(subject: str, reason: str) -> Finding:
    """Return a finding that says what is well."""
    return Finding(subject, "ok", reason)


def skipped(subject: str, reason: str, remedy: str | None = None) -> Finding:
    """Return a finding that says what was not looked at, and why."""
    return Finding(subject, "skipped", reason, remedy)


def warning(subject: str, reason: str, remedy: str) -> Finding:
    """Return a finding with which a deployment works, but not as it should."""
    return Finding(subject, "warning", reason, remedy)


def error(subject: str, reason: str, remedy: str) -> Finding:
    """Return a finding with which a deployment does not work."""
    return Finding(subject, "error", reason, remedy)


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the severity of the worst finding; ``ok`` if there is none."""
    return max((its.severity for its in findings), key=SEVERITIES.index, default="ok")
