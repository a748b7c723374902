"""recorded(): submitted calls are noted, and none runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.serialization import loads

from pooltasks.broker.arguments import arguments_of
from pooltasks.testing.diversion import diverted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery import Celery, Task

    from pooltasks.testing.diversion import Sent


class Call(NamedTuple):
    """One operation that was submitted."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    id: str
    headers: Mapping[str, Any]
    """Headers of the message: ``eta``, ``deadline`` and all others that Celery sets."""

    def __str__(self) -> str:
        arguments = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"{self.name}({', '.join(arguments)}) to {self.queue}"


class Recorded:
    """The calls that were submitted, in their order.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self.calls: list[Call] = []

    def _note(self, sent: Sent) -> None:
        # Decoded: a worker would get lists for tuples.
        args, kwargs, _ = loads(sent.text, sent.content_type, sent.content_encoding)
        self.calls.append(Call(sent.name, args, kwargs, sent.queue, sent.id, sent.headers))

    def of(self, operation: Task | str) -> list[Call]:
        """Return the calls of one operation.

        Args:
            operation: The operation, or its name.
        """
        name = operation if isinstance(operation, str) else operation.name
        return [call for call in self.calls if call.name == name]

    def assert_submitted(self, operation: Task | str, *args: Any, **kwargs: Any) -> Call:
        """Fail unless the operation was submitted with these arguments.

        It does not matter whether arguments are given by position or by name, nor
        whether defaults are given. Without arguments, any call will do.

        Returns:
            The first such call.

        Raises:
            AssertionError: There is no such call; it names the calls that there are.
        """
        calls = self.of(operation)
        wanted = self._bound(operation, args, kwargs)
        for call in calls:
            if not (args or kwargs) or self._bound(operation, call.args, call.kwargs) == wanted:
                return call
        name = operation if isinstance(operation, str) else operation.name
        given = Call(name, args, kwargs, "any queue", "", {}) if args or kwargs else name
        raise AssertionError(f"{given} was not submitted. {self._listed()}")

    def assert_not_submitted(self, operation: Task | str) -> None:
        """Fail if the operation was submitted.

        Raises:
            AssertionError: It was; it names the calls.
        """
        if self.of(operation):
            name = operation if isinstance(operation, str) else operation.name
            raise AssertionError(f"{name} was submitted. {self._listed()}")

    def _listed(self) -> str:
        if not self.calls:
            return "Nothing was."
        return "Submitted:\n" + "\n".join(f"  {call}" for call in self.calls)

    def _bound(self, operation: Task | str, args: Any, kwargs: Any) -> Any:
        """Return the arguments by name, where the operation's code says their names."""
        task = self._app.tasks.get(operation) if isinstance(operation, str) else operation
        if task is None:
            return [*args], {**kwargs}
        try:
            arguments = arguments_of(task.run, args, kwargs)
        except TypeError:
            return [*args], {**kwargs}  # they fit no call, so they are like none
        return {name: _plain(value) for name, value in arguments.items()}


def _plain(value: Any) -> Any:
    return [*map(_plain, value)] if isinstance(value, tuple | list) else value


@contextmanager
def recorded(app: Celery) -> Iterator[Recorded]:
    """Note the calls that the application submits; none runs, and no server is asked.

    Args:
        app: The application.

    Yields:
        The calls that were submitted.
    """
    calls = Recorded(app)
    with diverted(app, calls._note):  # noqa: SLF001  it is this module's
        yield calls
