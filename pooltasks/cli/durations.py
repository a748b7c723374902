"""Durations on the command line: ``90``, ``30s``, ``10m``, ``1h``."""

from __future__ import annotations

import re

import click

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)?")
_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return the seconds that the text of an option means; for click's ``callback``."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value.strip())
    seconds = float(match[1]) * _SECONDS[match[2] or ""] if match else 0.0
    if seconds < 1.0:
        raise click.BadParameter(
            f"{value!r} is not a duration of a second or more; write 30s, 10m or 1h.", ctx, param
        )
    return seconds


def in_words(seconds: float) -> str:
    """Return a duration as a person would write it."""
    for unit, word in ((3600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {word}"
    return f"{seconds:g} s"


def ago(seconds: float) -> str:
    """Return how long ago something was, in a word or two."""
    for unit, word in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {word} ago"
    return f"{max(0.0, seconds):.0f} s ago"
