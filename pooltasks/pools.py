"""Pool: what a producer application can do with one pool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from celery import Task

from pooltasks import keys
from pooltasks.app import BUILT_IN_OPERATIONS, settings_of
from pooltasks.bases import operation_by_name
from pooltasks.broker.asking import ask
from pooltasks.broker.client import redis_client
from pooltasks.broker.queues import waiting_in
from pooltasks.broker.submission import Submission, arguments
from pooltasks.extension import application
from pooltasks.metrics.announced import Announced, record
from pooltasks.metrics.collector import Collector
from pooltasks.metrics.configuration import OptimizedConfig
from pooltasks.metrics.decisions import DecisionStore
from pooltasks.metrics.samples import HISTORY, SampleStore
from pooltasks.task import Operation
from pooltasks.warming import Batch, warm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery import Celery
    from celery.result import AsyncResult

    from pooltasks.metrics.samples import QueueState, StoredSample
    from pooltasks.metrics.view import HistoryPoint, PoolMetrics
    from pooltasks.pool_settings import PoolSettings

_REPLY_MARGIN = 2.0
"""Seconds beyond a deadline for the worker's refusal to reach the caller."""


class Pool:
    """One pool of an application.

    Args:
        name: The pool's name in the settings.
        app: The application; by default that which has the pool, as for operations.

    Raises:
        ConfigurationError: There is no such pool, or pooltasks is not
            installed on the application.
    """

    def __init__(self, name: str, app: Celery | None = None) -> None:
        self.name = name
        self.app = app or application(name)
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
            PoolSaturated: The pool is full.
            kombu.exceptions.OperationalError: The server is away; nothing was sent.
        """
        task = self._task(command)
        return task.apply_async(list(args), dict(kwargs or {}), **self._options(task, timeout))

    def submit_many(
        self,
        operation: str | Task,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        timeout: float | None = None,
    ) -> Sequence[AsyncResult]:
        """Send many calls of one operation to this pool, hundreds with one command.

        The server accepts each call once, also when the connection breaks and a
        part has to be sent again.

        Args:
            operation: As ``command`` in :meth:`submit`.
            calls: The arguments of each call: a list or tuple of positional
                ones, or a mapping of keyword arguments. There may be any
                number of them; they are taken as they are sent.
            timeout: Seconds that waiting and running of each may take together.

        Returns:
            The results, in the order of ``calls``.

        Raises:
            PoolSaturated: The pool is full. The first calls, which fitted, are submitted:
                ``fits`` says how many, ``accepted`` has their results, ``rest`` the others.
            SubmissionError: It failed half-way. The error has the results that
                were accepted, those that may have been, and the rest, which
                can be submitted again.
            kombu.exceptions.OperationalError: The server is away; nothing was sent.
            TypeError: The first arguments do not fit the operation; nothing was sent.
        """
        task = self._task(operation)
        if isinstance(task, Operation):
            return Submission(task, lambda: task.addressed({"queue": self.queue}, timeout)).run(
                calls
            )
        return Submission(task, lambda: self._options(task, timeout)).run(calls)

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
            if self._is_mine_alone(command):
                result.forget()

    def _is_mine_alone(self, command: str | Task) -> bool:
        """Return whether nobody else waits for the result: one of a unique operation is shared."""
        return getattr(self._task(command), "unique", None) is None

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

    async def asubmit(
        self,
        command: str | Task,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  the operation's, as in submit()
    ) -> Any:
        """Send an operation from an event loop; as :meth:`submit`.

        Returns:
            A result that can be awaited.
        """
        operation = self._awaitable_task(command)
        return await operation.aapply_async(
            list(args), dict(kwargs or {}), queue=self.queue, deadline=timeout
        )

    async def asubmit_many(
        self,
        operation: str | Task,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  as above
    ) -> Any:
        """Send many calls from an event loop with one command, all or none of them.

        Returns:
            Results that can be awaited, in the order of ``calls``.

        Raises:
            PoolSaturated: The pool has no room for all of them; ``fits`` says for how many.
            kombu.exceptions.OperationalError: It is not known whether they were sent.
        """
        from pooltasks import asynchronous  # noqa: PLC0415  who uses no event loop never loads it

        options = {"queue": self.queue, "deadline": timeout}
        task = self._awaitable_task(operation)
        return await asynchronous.submit_many(task, [arguments(call) for call in calls], options)

    async def aexecute(
        self,
        command: str | Task,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  as above
    ) -> Any:
        """Run an operation and return its value, without blocking the event loop.

        As :meth:`execute`, whose arguments and errors it has.

        Raises:
            TimeoutError: There is no result within ``timeout``.
            Exception: Whatever the operation raised.
        """
        from pooltasks import asynchronous  # noqa: PLC0415  who uses no event loop never loads it

        budget = timeout or self.settings.checkout_timeout + self.settings.operation_timeout
        result = await self.asubmit(command, args, kwargs, timeout=budget)
        try:
            async with asyncio.timeout(budget + _REPLY_MARGIN):
                return await result
        finally:
            if self._is_mine_alone(command):
                await asynchronous.forget(result)

    def _awaitable_task(self, command: str | Task) -> Any:
        """Return the operation that is meant; a plain task is sent by its name."""
        task = self._task(command)
        if not isinstance(task, Operation):
            task = operation_by_name(self.app, task.name)
        task.check_awaitable()
        return task

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

    def optimized_config(self) -> OptimizedConfig:
        """Return the pool's configuration, with the size and the last decision of its optimizer.

        Raises:
            redis.RedisError: The server does not answer.
        """
        return OptimizedConfig.of(self.settings, self.decisions().current())

    def warm(
        self,
        *,
        strategy: Literal["parallel", "sequential", "staged"] | None = None,
        commands: Sequence[Mapping[str, Any]] | str | None = None,
        timeout: float = 60.0,
    ) -> dict[str, dict[str, Any]]:
        """Have every worker of the pool warm up again, and wait until all have.

        A busy worker warms up after its operation. ``sequential`` is one worker of the pool
        at a time, ``staged`` a third of them, whatever nodes they are on.

        Args:
            strategy: By default that of the pool's settings.
            commands: As ``warmup.commands`` in the settings, for this once: a list of
                ``{"operation": …, "args": …, "kwargs": …, "timeout": …}``, or ``"dspy"``. By
                default those of the settings.
            timeout: Seconds to wait.

        Returns:
            The report of each node, by its name; see :func:`pooltasks.warming.warm`. A node
            that does not answer is left out.

        Raises:
            kombu.exceptions.OperationalError: The server cannot be reached.
        """
        nodes = {
            name: status["size"]
            for name, status in ask(self.app, "pool_status").items()
            if status["pool"] == self.name
        }
        batch = Batch(nodes, strategy or self.settings.warmup.strategy)
        return warm(self.app, [batch], strategy=strategy, commands=commands, timeout=timeout)

    def record_metrics(
        self, *, seconds: float = 5.0, source: str | None = None, **figures: float
    ) -> None:
        """Tell the pool's optimizer what the application knows and nodes cannot see.

        ``pool.record_metrics(queue_depth=40, throughput=120)``: figures add to what nodes
        measure and never hide it. Operations that wait in the application count beside those
        in the queue, and of everything else the larger figure stands.

        Args:
            seconds: For how long the figures stand, at most 3,600; then they are forgotten.
            source: Name of the source; by default this process. Counts of several sources add
                up; a source replaces its own earlier figures.
            **figures: Of :class:`pooltasks.metrics.announced.Announced`: ``queue_depth``,
                ``throughput``, ``active_checkouts``, ``utilization``, ``avg_wait_time``
                (seconds), ``error_rate``.

        Raises:
            TypeError: There is no such figure.
            ValueError: A figure is negative, not finite or a share above 1, or there is none.
            redis.RedisError: The server does not answer.
        """
        record(redis_client(self.app), self.name, Announced(**figures), seconds, source)

    def decisions(self) -> DecisionStore:
        """Return the optimizer's decisions of an hour, which can also pause it."""
        return DecisionStore(redis_client(self.app), self.name)

    def _collector(self) -> Collector:
        return Collector(self._store(), self.settings.objective, self.settings.metrics_interval)

    def _store(self) -> SampleStore:
        lists = waiting_in(self.app, self.queue)
        return SampleStore(redis_client(self.app), self.name, lists, self.settings.objective)

    def _options(self, task: Any, timeout: float | None) -> dict[str, Any]:
        """Return the options of a call; a plain task knows no deadline, but may expire."""
        name = "deadline" if isinstance(task, Operation) else "expires"
        return {"queue": self.queue, name: timeout}

    def _task(self, command: str | Task) -> Any:
        """Return the task that is meant: an operation, a plain task, or one known by name only."""
        name = command.name if isinstance(command, Task) else command
        if not isinstance(name, str):
            raise TypeError(
                f"{command!r} is no operation: decorate it with @operation, or give a name"
            )
        tasks = self.app.tasks
        built_in = name if "." in name else f"{BUILT_IN_OPERATIONS}.{name}"
        if name not in tasks and built_in.startswith(f"{BUILT_IN_OPERATIONS}."):
            self.app.loader.import_task_module(BUILT_IN_OPERATIONS)
            name = built_in if built_in in tasks else name
        task = tasks.get(name)
        # Not imported here: the arguments are checked by the worker instead.
        return task if task is not None else operation_by_name(self.app, name)
