"""The flow control that ``@operation`` asks for: whether calls are unique, and their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pooltasks.broker.limiting import Limits, limits_of
from pooltasks.broker.uniqueness import Unique, Until, unique_of
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Asked(NamedTuple):
    """The arguments of ``@operation`` that are about flow control."""

    key: str | None
    concurrency: int | None
    rate: str | None
    burst: int | None
    fair: bool
    weights: Mapping[Any, float] | None
    unique: bool | str | tuple[str, ...]
    unique_until: Until
    unique_for: float | None


def controls_of(
    function: Callable[..., Any], asked: Asked, queue: str | None, options: Mapping[str, Any]
) -> tuple[Unique | None, Limits | None]:
    """Return what makes calls of an operation unique, and what limits them.

    Args:
        function: The operation's.
        asked: The controls that its author asks for.
        queue: The plain queue of Celery's that it goes to, if it does.
        options: Of Celery's task decorator.

    Raises:
        ConfigurationError: It makes no sense, or nobody can tell the server of an end.
    """
    is_method = bool(options.get("bind"))
    unique = unique_of(
        function, asked.unique, asked.unique_until, asked.unique_for, is_method=is_method
    )
    limits = limits_of(
        function,
        asked.key,
        asked.concurrency,
        asked.rate,
        asked.burst,
        fair=asked.fair,
        weights=asked.weights,
        is_method=is_method,
    )
    if queue and (unique or limits):
        raise ConfigurationError(
            f"@operation: plain workers serve the queue {queue!r}, and unique operations and "
            "limits need a pool's nodes. Name a pool."
        )
    needs_an_end = limits is not None or (unique is not None and unique.until == "finish")
    if needs_an_end and not options.get("acks_late", True):
        raise ConfigurationError(
            "@operation: with acks_late=False the server hears of no end. So there are no limits, "
            "and of what is unique only unique_until='start'."
        )
    return unique, limits
