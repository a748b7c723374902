"""The arguments of a call by their names, with defaults."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def arguments_of(
    function: Callable[..., Any],
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the arguments of a call of ``function``, by name.

    Raises:
        TypeError: The arguments do not fit the function.
    """
    bound = _signature(function).bind(*(args or ()), **(kwargs or {}))
    bound.apply_defaults()
    return bound.arguments


def names_of_arguments(function: Callable[..., Any], *, is_method: bool) -> list[str]:
    """Return the names of a function's arguments, in their order.

    Args:
        function: An operation's.
        is_method: Whether the first argument is the task itself, which is left out.
    """
    return list(_signature(function).parameters)[int(is_method) :]


# Python takes longer to read a signature than to bind a call to it.
@lru_cache(maxsize=1000)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)
