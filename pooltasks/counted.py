"""Numbers as one says them: with a noun, in percent."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return ``1 pool``, ``2 pools``: the noun is regular, and given for one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(ratio: float) -> str:
    """Return a share (0–1) in percent, in two digits or whole: ``0.34``, ``7.9``, ``100``."""
    return f"{100 * ratio:.2g}" if ratio < 0.095 else f"{100 * ratio:.0f}"  # noqa: PLR2004
