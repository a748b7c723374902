"""Calls on a command line: an operation, and its arguments as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Call:
    """An operation with its arguments."""

    operation: str
    args: Sequence[Any] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def parse_call(text: str) -> Call:
    """Return the call that ``OPERATION [JSON]`` means: a list is positional, an object has names.

    Raises:
        click.BadParameter: The arguments are neither.
    """
    operation, _, arguments = text.strip().partition(" ")
    if not arguments:
        return Call(operation)
    try:
        its = json.loads(arguments)
    except ValueError as error:
        raise click.BadParameter(f"{arguments!r} is no JSON: {error}") from None
    if isinstance(its, dict):
        return Call(operation, kwargs=its)
    if isinstance(its, list):
        return Call(operation, its)
    raise click.BadParameter(f"{arguments!r} is neither a list nor an object")
