"""A worker's report to its node of an operation that has ended: plain data, and no objects.

The node must not unpickle what an operation made: an exception may run code when
it is loaded, or fail. So a worker describes the end in words, and decides the fate
of the message. Only strings, numbers and None travel, by ``marshal``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry

from pooltasks.broker.dead_letters import with_attempt
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from celery.app.task import Task

    from pooltasks.broker.dead_letters import Attempt

_LONGEST = 10_000
"""Characters of a text about an error."""


class How(IntEnum):
    """How an operation ended."""

    SUCCEEDED = 0
    FAILED = 1
    RETRIED = 2
    REJECTED = 3
    IGNORED = 4
    LEFT = 5
    """It made its worker leave, as with ``sys.exit``."""


class Fate(IntEnum):
    """The fate of the operation's message."""

    ACKNOWLEDGE = 0
    GIVE_BACK = 1
    """The message goes to the queue, to run again."""
    BURY = 2
    """The message becomes a dead letter."""


class Ending(NamedTuple):
    """The end of one operation, as a worker tells it."""

    how: int = How.SUCCEEDED
    fate: int = Fate.ACKNOWLEDGE
    text: str | None = None
    """The result or the error as text, for logs and Celery's events."""
    traceback: str | None = None
    reason: str | None = None
    """The reason of the dead letter."""
    attempts: list[Attempt] | None = None
    """The attempts that failed, for the dead letter."""
    is_told: bool = True
    """Whether the caller and all callbacks of a failure have been told."""
    seconds: float | None = None
    """How long it ran, as Celery counts."""

    def plain(self) -> tuple[Any, ...]:
        """Return it as ``marshal`` writes it."""
        return (int(self.how), int(self.fate), *self[2:])


UNTOLD = Ending(How.FAILED, is_told=False)
"""The end of a report of a failure that did not get through."""


def error_of(info: ExceptionInfo) -> BaseException:
    """Return the error that an operation raised."""
    error: BaseException = info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def words(value: object) -> str:
    """Return ``repr(value)``, or a description of a value whose ``repr`` fails."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  it is the application's code
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return str.__str__(text)[:_LONGEST]  # a class of its own would not travel


def outcome_of(error: BaseException | None) -> tuple[Outcome, BaseException | None]:
    """Return an operation's outcome for telemetry and, of a failure or a retry, the error."""
    if error is None:
        return Outcome.SUCCESS, None
    if isinstance(error, Reject):
        return Outcome.REJECTED, None
    if isinstance(error, Retry):
        # An operation may ask for a retry without an error.
        return Outcome.RETRY, error.exc if isinstance(error.exc, BaseException) else error
    if isinstance(error, Ignore):
        return Outcome.IGNORED, None
    return Outcome.FAILURE, error


def ending_of(
    error: BaseException,
    task: Task,
    headers: dict[str, Any],
    *,
    now: float,
    traceback: str | None = None,
) -> Ending:
    """Return the end of an operation that raised ``error``.

    Args:
        error: The error that it raised.
        task: The Celery task.
        headers: Of its message.
        now: Seconds since the epoch, by the server's clock.
        traceback: As text, if somebody wants to know it.
    """
    if isinstance(error, Retry):
        return Ending(How.RETRIED, text=words(error.exc), traceback=traceback)
    if isinstance(error, Reject):
        if error.requeue:
            return Ending(How.REJECTED, Fate.GIVE_BACK)
        reason = f"rejected by the operation: {_said(error.reason)}"
        attempts = _attempts(headers, now, reason)
        return Ending(How.REJECTED, Fate.BURY, words(error), traceback, reason, attempts=attempts)
    if isinstance(error, Ignore):
        return Ending(How.IGNORED)
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return Ending(How.LEFT, text=words(error))
    ending = Ending(How.FAILED, text=words(error), traceback=traceback)
    retries = headers.get("retries")
    if retries:
        ending = ending._replace(
            fate=Fate.BURY,
            reason=f"failed after {_retries(retries)}: {ending.text}",
            attempts=_attempts(headers, now, ending.text),
        )
    elif task.acks_late and not task.acks_on_failure:
        # Other brokers dead-letter it too.
        ending = ending._replace(
            fate=Fate.BURY,
            reason=f"failed: {ending.text}",
            attempts=_attempts(headers, now, ending.text),
        )
    return ending


def _said(value: object) -> str:
    return str.__str__(value)[:_LONGEST] if isinstance(value, str) else words(value)


def _retries(number: Any) -> str:
    return "1 retry" if number == 1 else f"{number} retries"


def _attempts(headers: dict[str, Any], now: float, text: str | None) -> list[Attempt]:
    return with_attempt(headers.get("attempts"), now, text or "")


class Run(NamedTuple):
    """How a run of an operation ended."""

    ending: tuple[Any, ...]
    """A plain :class:`Ending`, for the node."""
    raised: BaseException | None = None
    leave: BaseException | None = None
    """The exception with which the process is to end."""


def too_late(error: BaseException) -> Run:
    """Return the end of an operation that a limit struck after it had ended."""
    return Run(UNTOLD._replace(text=words(error)).plain(), error)
