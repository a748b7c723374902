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
    """The kind of an error: decides whether and how an operation is retried."""

    INITIALIZATION = "initialization"
    CONNECTION = "connection"
    COMMUNICATION = "communication"
    TIMEOUT = "timeout"
    RESOURCE = "resource"
    HEALTH_CHECK = "health_check"
    SESSION = "session"
    PYTHON = "python"
    CLIENT = "client"
    """The caller's request is at fault: an operation names such errors itself."""
    SYSTEM = "system"

    __hash__ = str.__hash__  # that of Enum is no C


class PooltasksError(Exception):
    """An error of pooltasks. Its message defaults to the first line of the class docstring."""

    category: Category = Category.SYSTEM

    def __str__(self) -> str:
        if self.args and self.args[0] != "":
            return str(self.args[0])
        return (self.__doc__ or type(self).__name__).partition("\n")[0]


class ConfigurationError(PooltasksError, click.ClickException):
    """A setting is wrong.

    Also a ``click.ClickException``: every ``celery`` and ``pooltasks`` command
    prints it as one readable message and exits with 1 instead of a traceback.

    Remedy: Correct the key that the message names; `pooltasks check` reads all of them.
    """

    category = Category.INITIALIZATION

    def __init__(self, message: str) -> None:
        click.ClickException.__init__(self, message)


class MissingExtraError(PooltasksError):
    """An optional dependency is needed that is not installed.

    Remedy: Install the extra that the message names.
    """

    category = Category.INITIALIZATION


class CheckoutTimeout(PooltasksError, TimeoutError):  # noqa: N818  the public name of the design
    """The operation waited longer than its checkout timeout and was never run.

    Remedy: Give the pool more workers, or let the operation wait longer (`checkout_timeout`).
    """

    category = Category.RESOURCE


class DeadlineExceeded(PooltasksError, TimeoutError):  # noqa: N818  as CheckoutTimeout
    """The operation's deadline passed before it was started; it was never run.

    Remedy: Submit it again with a later deadline, or give the pool more workers.
    """

    category = Category.TIMEOUT


class OperationTimeout(PooltasksError, SoftTimeLimitExceeded, TimeoutError):  # noqa: N818  as above
    """The operation ran longer than its timeout and was stopped.

    Also Celery's ``SoftTimeLimitExceeded``: callers of Celery's tasks expect that.

    Remedy: Make the operation shorter, or raise `timeout` of it or `operation_timeout`.
    """

    category = Category.TIMEOUT


class MessageTooLargeError(PooltasksError, EncodeError):
    """The operation's arguments, or its result, are larger than a message may be.

    Remedy: Store the data elsewhere and send where it is.
    """

    category = Category.COMMUNICATION


class OperationRefusedError(PooltasksError):
    """The pool does not allow this operation.

    Remedy: Set `allow_execute_code` of the pool, if you trust every caller.
    """


class WarmUpError(PooltasksError):
    """A worker's warm-up failed.

    Remedy: Run `pooltasks check`: it names the command, the file and the line.
    """

    category = Category.INITIALIZATION


class PoisonedError(PooltasksError):
    """The operation killed every worker that ran it and is now a dead letter.

    Remedy: Read it with `pooltasks dead show`, mend it, and send it again with `dead retry`.
    """

    category = Category.RESOURCE


class MessageRefusedError(PooltasksError):
    """The operation's message could not be run, and is a dead letter now.

    Remedy: Read the reason with `pooltasks dead list`; the error has it too.
    """

    category = Category.COMMUNICATION


class UntrustedMessageError(PooltasksError, ValueError):
    """A message is not signed with one of the deployment's keys.

    Remedy: Give the producer the deployment's ``signing_keys``. If it has them, find out who
    else writes to the server.
    """

    category = Category.COMMUNICATION


class SubmissionError(PooltasksError):
    """Some of many operations were not submitted.

    Remedy: Submit `rest` again, and `unknown_calls` if they may run twice.
    """

    category = Category.COMMUNICATION

    accepted: Sequence[Any] = ()
    """The results of those that the server accepted."""
    unknown: Sequence[Any] = ()
    """The results of those that it may have accepted; all of them, or none."""
    unknown_calls: Sequence[Any] = ()
    """The arguments of the calls of which it is not known."""
    rest: Iterable[Any] = ()
    """The arguments of all others, which were not sent, as they can be submitted again."""


class PoolSaturated(SubmissionError):  # noqa: N818  the public name of the design
    """The pool is full: as many operations wait as ``max_queue`` allows.

    As of every :class:`SubmissionError`, ``accepted`` has the results of the calls before it
    that fit, and ``rest`` the arguments of the others.

    Args:
        message: Says which pool is full.
        retry_after: Seconds.
        fits: How many of the calls fit.

    Remedy: Try again after ``retry_after`` seconds, add workers, or raise ``max_queue``.
    """

    category = Category.RESOURCE

    def __init__(self, message: str = "", retry_after: float = 0.0, fits: int = 0) -> None:
        super().__init__(message, retry_after, fits)
        self.retry_after = retry_after
        """Seconds until there is room, at the rate at which operations ended lately; 0.05 to 60.
        One second while that rate is not known."""
        self.fits = fits
        """How many of the calls fit: ``submit_many`` has submitted them, ``asubmit_many`` none."""


class DuplicateError(PooltasksError):
    """The part of a canvas is a call of a unique operation that waits or runs already.

    Args:
        message: Which one.
        first_id: The id of the call that came first.

    Remedy: Use the result of ``first_id``, or send the canvas when that call has ended.
    """

    category = Category.CLIENT

    def __init__(self, message: str = "", first_id: str = "") -> None:
        super().__init__(message, first_id)
        self.first_id = first_id
        """The id of the call that came first."""


class DeadLetterNotFoundError(PooltasksError, LookupError):
    """There is no such dead letter.

    Remedy: List what there is with `pooltasks dead list POOL`.
    """


class ErrorGroupNotFoundError(PooltasksError, LookupError):
    """There are no errors of this kind.

    Remedy: ``pooltasks errors`` lists the kinds there are. Old ones are forgotten.
    """


class SessionNotFoundError(PooltasksError, LookupError):
    """There is no such session, or it has expired.

    Remedy: Create the session again, or raise `session_ttl`.
    """

    category = Category.SESSION


class ProgramNotFoundError(PooltasksError, LookupError):
    """The session has no such program.

    Remedy: Create the program with the operation `create_program`.
    """

    category = Category.SESSION


class InvalidIdentifierError(PooltasksError, ValueError):
    """A session id or a program id is malformed.

    Remedy: Use letters, digits and the signs that the message names.
    """


class InvalidSignatureError(PooltasksError, ValueError):
    """A program's signature is malformed.

    Remedy: Give lists of inputs and outputs, as the message says.
    """


class ProgramError(PooltasksError):
    """A program could not be built or run.

    Remedy: Read the message: it has the error of the program.
    """

    category = Category.PYTHON


class InvalidInputsError(PooltasksError, ValueError):
    """A program was given inputs that do not fit its signature.

    Remedy: Pass the inputs that the signature names.
    """


class RolloutRefusedError(PooltasksError):
    """A rollout could not be begun, led on or ended; nothing was changed.

    Remedy: The error says what stands in the way, and the next step.
    """


class EmbeddedServerError(PooltasksError):
    """The embedded Valkey server could not be started.

    Remedy: Read the end of the server's log, which the message has.
    """

    category = Category.INITIALIZATION


_CONNECTION_ERRORS = (ConnectionError, OperationalError, RedisConnectionError, RedisTimeoutError)


def alternatives(name: str, known: Sequence[str]) -> str:
    """Return what a message says of a name that is not ``known``: the likely one, and all."""
    from difflib import get_close_matches  # noqa: PLC0415  only mistakes need it

    near = get_close_matches(name, known, n=1)
    return f"{f'did you mean {near[0]}? Allowed' if near else 'allowed'}: {', '.join(known)}"


def categorize(error: BaseException) -> Category:
    """Return the category of ``error``: its own where it has one, else by its type.

    Every error that is not recognized is ``PYTHON``: it came out of the
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
