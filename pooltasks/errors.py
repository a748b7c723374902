"""Every error that pooltasks raises, under one root, and how an error is retried.

The caller of an operation gets these from ``AsyncResult.get()`` as the very
class that the worker raised: Celery rebuilds an exception from its module, its
name and its ``args``, so each class here can be built from its ``args`` alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import EncodeError, OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Category(StrEnum):
    """What kind of thing went wrong: decides whether and how an operation is retried."""

    INITIALIZATION = "initialization"
    CONNECTION = "connection"
    COMMUNICATION = "communication"
    TIMEOUT = "timeout"
    RESOURCE = "resource"
    HEALTH_CHECK = "health_check"
    SESSION = "session"
    PYTHON = "python"
    SYSTEM = "system"

    __hash__ = str.__hash__  # that of Enum is no C


class PooltasksError(Exception):
    """An error of pooltasks. Its message defaults to the first line of the class docstring."""

    category: Category = Category.SYSTEM

    def __str__(self) -> str:
        if self.args:
            return str(self.args[0])
        return (self.__doc__ or type(self).__name__).partition("\n")[0]


class ConfigurationError(PooltasksError, click.ClickException):
    """A setting is wrong.

    Also a ``click.ClickException``: every ``celery`` and ``pooltasks`` command
    prints it as one readable message and exits with 1 instead of a traceback.
    """

    category = Category.INITIALIZATION

    def __init__(self, message: str) -> None:
        click.ClickException.__init__(self, message)


class MissingExtraError(PooltasksError):
    """An optional dependency is needed that is not installed."""

    category = Category.INITIALIZATION


class CheckoutTimeout(PooltasksError, TimeoutError):  # noqa: N818  the public name of the design
    """The operation waited longer than its checkout timeout and was never run."""

    category = Category.RESOURCE


class DeadlineExceeded(PooltasksError, TimeoutError):  # noqa: N818  as CheckoutTimeout
    """The operation's deadline passed before it was started; it was never run."""

    category = Category.TIMEOUT


class OperationTimeout(PooltasksError, TimeoutError):  # noqa: N818  as CheckoutTimeout
    """The operation ran longer than its timeout and was stopped."""

    category = Category.TIMEOUT


class MessageTooLargeError(PooltasksError, EncodeError):
    """The operation's arguments, or its result, are larger than a message may be."""

    category = Category.COMMUNICATION


class OperationRefusedError(PooltasksError):
    """The pool does not allow this operation."""


class WarmUpError(PooltasksError):
    """A worker's warm-up failed."""

    category = Category.INITIALIZATION


class PoisonedError(PooltasksError):
    """The operation killed every worker that ran it and is now a dead letter."""

    category = Category.RESOURCE


class SubmissionError(PooltasksError):
    """Some of many operations were not submitted."""

    category = Category.COMMUNICATION

    accepted: Sequence[Any] = ()
    """The results of those that the server accepted."""
    unknown: Sequence[Any] = ()
    """The results of those that it may have accepted; all of them, or none."""
    unknown_calls: Sequence[Any] = ()
    """Their arguments."""
    rest: Iterable[Any] = ()
    """The arguments of all others, which were not sent, as they can be submitted again."""


class DeadLetterNotFoundError(PooltasksError, LookupError):
    """There is no such dead letter."""


class SessionNotFoundError(PooltasksError, LookupError):
    """There is no such session, or it has expired."""

    category = Category.SESSION


class ProgramNotFoundError(PooltasksError, LookupError):
    """The session has no such program."""

    category = Category.SESSION


class InvalidIdentifierError(PooltasksError, ValueError):
    """A session id or a program id is malformed."""


class InvalidSignatureError(PooltasksError, ValueError):
    """A program's signature is malformed."""


class ProgramError(PooltasksError):
    """A program could not be built or run."""

    category = Category.PYTHON


class InvalidInputsError(PooltasksError, ValueError):
    """A program was given inputs that do not fit its signature."""


class EmbeddedServerError(PooltasksError):
    """The embedded Valkey server could not be started."""

    category = Category.INITIALIZATION


_CONNECTION_ERRORS = (ConnectionError, OperationalError, RedisConnectionError, RedisTimeoutError)


def categorize(error: BaseException) -> Category:
    """Return the category of ``error``: its own where it has one, else by its type.

    Every error that is not recognised is ``PYTHON``: it came out of the
    operation's own code.
    """
    if isinstance(error, PooltasksError):
        return error.category
    if isinstance(error, _CONNECTION_ERRORS):
        return Category.CONNECTION
    if isinstance(error, SoftTimeLimitExceeded | TimeLimitExceeded | TimeoutError):
        return Category.TIMEOUT
    if isinstance(error, WorkerLostError):
        return Category.COMMUNICATION
    if isinstance(error, MemoryError):
        return Category.RESOURCE
    return Category.PYTHON
