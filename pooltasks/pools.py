"""Pool: what a producer application can do with one pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Task, current_app

from pooltasks import keys
from pooltasks.app import BUILT_IN_OPERATIONS, settings_of
from pooltasks.broker.client import redis_client
from pooltasks.broker.queues import lists_of
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.broker.submission import Submission
from pooltasks.metrics.collector import Collector
from pooltasks.metrics.decisions import DecisionStore
from pooltasks.metrics.samples import HISTORY, SampleStore
from pooltasks.task import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery import Celery
    from celery.result import AsyncResult

    from pooltasks.metrics.decisions import PoolDecision
    from pooltasks.metrics.samples import QueueState, StoredSample
    from pooltasks.metrics.view import HistoryPoint, PoolMetrics
    from pooltasks.settings import PoolSettings


class Pool:
    """One pool of an application.

    Args:
        name: The pool's name in the settings.
        app: The application; by default Celery's current one.

    Raises:
        ConfigurationError: There is no such pool, or pooltasks is not
            installed on the application.
    """

    def __init__(self, name: str, app: Celery | None = None) -> None:
        self.name = name
        self.app = app or current_app._get_current_object()  # noqa: SLF001  Celery's documented way out of the proxy
        self.settings: PoolSettings = settings_of(self.app).pool_settings(name)

    def __repr__(self) -> str:
        return f"<Pool {self.name}>"

    @property
    def queue(self) -> str:
        """Name of the pool's queue."""
        return keys.queue(self.name)

    def submit(
        self,
        command: str | Task,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> AsyncResult:
        """Send an operation to this pool and return at once.

        Args:
            command: An operation, or a name: a built-in operation's (``"ping"``)
                or a task's (``"workers.code.analyze"``).
            args: Positional arguments.
            kwargs: Keyword arguments.
            timeout: Seconds that waiting and running may take together.

        Returns:
            Celery's result; ``get()`` raises what the operation raised.

        Raises:
            TypeError: ``command`` is neither, or the arguments do not fit the operation.
            kombu.exceptions.OperationalError: The server is away; nothing was sent.
        """
        return self._task(command).apply_async(
            list(args), dict(kwargs or {}), queue=self.queue, deadline=timeout
        )

    def submit_many(
        self,
        operation: str | Task,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        timeout: float | None = None,
    ) -> Sequence[AsyncResult]:
        """Send many calls of one operation to this pool, hundreds with one command.

        What the server accepted it has accepted once, also when the connection
        broke and a part had to be sent again.

        Args:
            operation: As ``command`` in :meth:`submit`.
            calls: The arguments of each call: a list or tuple of positional
                ones, or a mapping of keyword arguments. There may be any
                number of them; they are taken as they are sent.
            timeout: Seconds that waiting and running of each may take together.

        Returns:
            The results, in the order of ``calls``.

        Raises:
            SubmissionError: It failed half-way. The error has the results that
                were accepted, those that may have been, and the rest, which
                can be submitted again.
            kombu.exceptions.OperationalError: The server is away; nothing was sent.
            TypeError: The first arguments do not fit the operation; nothing was sent.
        """
        task = self._task(operation)
        return Submission(task, lambda: task.addressed({"queue": self.queue}, timeout)).run(calls)

    def execute(
        self,
        command: str | Task,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Run an operation without a session of its own and return its value.

        Session-aware operations use the shared anonymous session.

        Args:
            command: As in :meth:`submit`.
            args: Positional arguments.
            kwargs: Keyword arguments.
            timeout: Seconds that waiting and running may take together; by
                default the pool's checkout timeout plus its operation timeout.

        Raises:
            celery.exceptions.TimeoutError: There is no result within ``timeout``.
            Exception: Whatever the operation raised.
        """
        budget = timeout or self.settings.checkout_timeout + self.settings.operation_timeout
        result = self.submit(command, args, kwargs, timeout=budget)
        try:
            return result.get(timeout=budget + _REPLY_MARGIN)
        finally:
            result.forget()

    def execute_in_session(
        self,
        session_id: str,
        command: str | Task,
        args: Sequence[Any] | Mapping[str, Any] = (),
        *,
        timeout: float | None = None,
    ) -> Any:
        """Run a session-aware operation and return its value.

        Any worker of the pool serves any session.

        Args:
            session_id: The session.
            command: As in :meth:`submit`.
            args: Positional arguments as a sequence or keyword arguments as a mapping.
            timeout: As in :meth:`execute`.

        Raises:
            SessionNotFoundError: The operation needs a session that exists.
            celery.exceptions.TimeoutError: There is no result within ``timeout``.
            Exception: Whatever the operation raised.
        """
        keywords = dict(args) if hasattr(args, "keys") else {}
        positional = () if keywords else tuple(args)
        keywords["session_id"] = session_id
        return self.execute(command, positional, keywords, timeout=timeout)

    def metrics(self, window: float = 60.0) -> PoolMetrics:
        """Return how the pool stands, and what it did lately, all nodes together.

        Args:
            window: Seconds over which to count, at most 3,600.

        Raises:
            redis.RedisError: The server does not answer.
        """
        return self._collector().metrics(window)

    def history(self, seconds: float = HISTORY, step: int = 1) -> list[HistoryPoint]:
        """Return the pool's last ``seconds``, at most 3,600, oldest first.

        Args:
            seconds: How far back.
            step: Whole seconds that make one point: what was counted is merged,
                of the rest the highest value is kept.

        Raises:
            redis.RedisError: The server does not answer.
        """
        return self._collector().history(seconds, step)

    def samples(self, seconds: float = HISTORY) -> tuple[QueueState, dict[str, list[StoredSample]]]:
        """Return the queue now, and what each node wrote in the last ``seconds``, oldest first.

        This is what :meth:`history` merges, histograms and all.

        Raises:
            redis.RedisError: The server does not answer.
        """
        queue, samples, _ = self._store().read(seconds)
        return queue, samples

    def optimized_config(self) -> PoolDecision | None:
        """Return the optimizer's last decision with its inputs and its reason.

        Returns:
            None if it made none within the last hour: it is off
            (``enable_optimizer``), or beat or the control node does not run.

        Raises:
            redis.RedisError: The server does not answer.
        """
        return self.decisions().current()

    def decisions(self) -> DecisionStore:
        """Return the optimizer's decisions of an hour, which can also pause it."""
        return DecisionStore(redis_client(self.app), self.name)

    def _collector(self) -> Collector:
        return Collector(self._store(), self.settings.objective, self.settings.metrics_interval)

    def _store(self) -> SampleStore:
        lists = lists_of(self.app, self.queue)
        return SampleStore(redis_client(self.app), self.name, lists, self.settings.objective)

    def _task(self, command: str | Task) -> Any:
        if isinstance(command, Task):
            command = command.name
        if not isinstance(command, str):
            raise TypeError(
                f"{command!r} is no operation: decorate it with @operation, or give a name"
            )
        name = command if "." in command else f"{BUILT_IN_OPERATIONS}.{command}"
        if name.startswith(f"{BUILT_IN_OPERATIONS}."):
            self.app.loader.import_task_module(BUILT_IN_OPERATIONS)
        task = self.app.tasks.get(name)
        # Not imported here: the arguments are checked by the worker instead.
        return task if task is not None else _operation_by_name(self.app, name)


def _operation_by_name(app: Celery, name: str) -> Any:
    """Return an operation that this process can send but not run."""
    remote: Any = type(
        "RemoteOperation",
        (Operation,),
        {"name": name, "typing": False, "serializer": SERIALIZER},
    )
    remote.bind(app)
    return remote()


_REPLY_MARGIN = 2.0
"""Seconds beyond a deadline for the worker's refusal to reach the caller."""
