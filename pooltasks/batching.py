"""Batches: an operation whose function runs once for many calls.

For each of its parameters the function gets a list: what each of the calls has passed. It
returns a list with as many results, in the same order. An exception in that list is the error
of its call alone; one that the function raises is the error of all of them. So a call is
checked, has a key, is tried again and is acknowledged as that of any other operation.

A worker runs the function first. Then it has Celery run each call, which gets what the
function has made of it.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.exceptions import Retry

from pooltasks import coroutines
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from pooltasks.task import Operation

DEFAULT_WAIT = 0.05
"""Seconds for which a node waits for more calls, unless ``batch_wait`` says otherwise."""
_MOST = 10_000
_LONGEST_WAIT = 60.0
_LISTS = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call."""


class Batching(NamedTuple):
    """How calls of an operation are gathered."""

    size: int
    """Calls in a batch at the most."""
    wait: float
    """Seconds for which the first of them waits for others."""
    signature: inspect.Signature
    """The signature of a call, and of the function, which gets lists."""

    def bound(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a call by their names.

        Raises:
            TypeError: They do not fit.
        """
        args, kwargs = call
        its = self.signature.bind(*args, **kwargs)
        its.apply_defaults()
        return its.arguments

    def run(self, operation: Operation, calls: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """Run the function for some calls; return what it made of each.

        Args:
            operation: The function's.
            calls: Their arguments by name.

        Raises:
            TypeError: It returned something else than a list with a result for each.
            Exception: What the function raises.
        """
        names = self.signature.parameters
        columns = OrderedDict((name, [call[name] for call in calls]) for name in names)
        lists = inspect.BoundArguments(self.signature, columns)
        made = coroutines.run(operation, operation.perform(*lists.args, **lists.kwargs))
        if made is None:
            return [None] * len(calls)
        if not isinstance(made, list | tuple):
            raise TypeError(
                f"{operation.name} returned a {type(made).__name__} for a batch; allowed: a list "
                "with a result for each call, or None."
            )
        if len(made) != len(calls):
            raise TypeError(
                f"{operation.name} returned {len(made)} results for a batch of {len(calls)} calls."
            )
        return made


@dataclass
class Part:
    """The end of one call of a batch."""

    began: float
    """Server time in seconds."""
    outcome: Any = None
    """The result of the call, or its error."""
    traceback: TracebackType | None = None
    """The traceback of the error, from when it was raised."""
    seconds: float = 0.0
    """How long the batch ran."""
    share: float = 0.0
    """The part of that which is this call's."""


parts: dict[str, Part] = {}
"""The ends of batches' calls that are about to be told, by the calls' ids."""


def outcome(operation: Operation, part: Part | None, call: Call) -> Any:
    """Return the result of a call, or raise its error.

    Args:
        operation: The operation.
        part: What a batch has made of it; None: there was no batch, and it runs alone.
        call: Its arguments.
    """
    batching = operation.batching
    assert batching is not None  # noqa: S101  for the type checker: who calls has asked
    if part is None:
        (its,), traceback = batching.run(operation, [batching.bound(call)]), None
    else:
        its, traceback = part.outcome, part.traceback
    if isinstance(its, Retry):
        # It says that the call is to be tried again, and nobody has published that yet.
        when = "countdown" if isinstance(its.when, int | float) else "eta"
        raise operation.retry(exc=its.exc, **({} if its.when is None else {when: its.when}))
    if isinstance(its, BaseException):
        # All calls of a batch may have the same: each begins where it was raised.
        raise its.with_traceback(traceback)
    return its


def batching_of(
    function: Callable[..., Any],
    batch: int | None,
    wait: float | None,
    queue: str | None,
    options: Mapping[str, Any],
) -> Batching | None:
    """Return what ``@operation(batch=…, batch_wait=…)`` says; None: nothing.

    Args:
        function: The operation's.
        batch: How many calls are in a batch at the most.
        wait: Seconds for which the first waits for others.
        queue: The plain queue of Celery's that it goes to, if it does.
        options: Of Celery's task decorator.

    Raises:
        ConfigurationError: It makes no sense.
    """
    if batch is None:
        if wait is not None:
            raise ConfigurationError(
                "@operation: batch_wait says for how long calls are gathered, and batch does not "
                "say how many. Add batch=100, or so."
            )
        return None
    if not 1 <= batch <= _MOST:
        raise ConfigurationError(f"@operation: batch is {batch}; allowed: 1 to {_MOST} calls.")
    if wait is not None and not 0 <= wait <= _LONGEST_WAIT:
        raise ConfigurationError(
            f"@operation: batch_wait is {wait}; allowed: 0 to {_LONGEST_WAIT:g} seconds."
        )
    if queue:
        raise ConfigurationError(
            f"@operation: plain workers serve the queue {queue!r}, and nodes of a pool gather "
            "batches. Name a pool."
        )
    if options.get("bind"):
        raise ConfigurationError(
            "@operation: a function with bind=True belongs to one call, and with batch it runs for "
            "many. Leave one of the two out."
        )
    if not options.get("acks_late", True):
        raise ConfigurationError(
            "@operation: with acks_late=False the calls of a batch whose worker dies are lost. "
            "Leave acks_late or batch out."
        )
    signature = inspect.signature(function)
    _check_parameters(function, signature.parameters.values())
    return Batching(batch, DEFAULT_WAIT if wait is None else float(wait), signature)


def _check_parameters(
    function: Callable[..., Any], parameters: Iterable[inspect.Parameter]
) -> None:
    kinds = [each.kind for each in parameters]
    if not kinds or _LISTS.intersection(kinds):
        raise ConfigurationError(
            f"@operation: with batch each parameter of {function.__name__} becomes a list of what "
            "the calls pass. So it needs at least one, and neither *args nor **kwargs."
        )
