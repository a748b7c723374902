"""Whether an operation can be run at all, once its message is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.time import timezone
from kombu.asynchronous.timer import to_timestamp

from pooltasks.node.intake.acceptance import Refusal
from pooltasks.node.intake.failures import Failure

if TYPE_CHECKING:
    from datetime import datetime


def check_body(payload: Any) -> None:
    """Check that a body is arguments, keyword arguments and a table.

    Raises:
        Refusal: It is not.
    """
    args, kwargs, embed = payload
    if not (
        isinstance(args, list | tuple)
        and isinstance(kwargs, dict)
        and isinstance(embed, dict | None)
    ):
        raise Refusal(
            "rejected: the body is no list of arguments, table of keyword arguments and table: "
            f"{type(args).__name__}, {type(kwargs).__name__}, {type(embed).__name__}"
        )


def check_arguments(task: Any, name: str, args: Any, kwargs: Any) -> None:
    """Check that arguments fit an operation.

    A publisher with the operation's code finds out before it publishes.

    Raises:
        Refusal: They do not.
    """
    fits = task.__header__ if task.typing else None
    if fits is None:
        return
    try:
        fits(*args, **kwargs)
    except TypeError as error:
        raise Refusal(
            f"rejected: the arguments do not fit {name}: {error}",
            Failure("TypeError", str(error)),
        ) from error


def check_eta(eta: datetime | None) -> None:
    """Check that the moment exists; Celery would find that out in the node.

    Raises:
        Refusal: There is none.
    """
    if eta is None:
        return
    try:
        to_timestamp(timezone.to_system(eta))
    except (OverflowError, ValueError) as error:
        raise Refusal(f"rejected: its ETA is no moment here: {error}") from error
