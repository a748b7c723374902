"""``@operation``: makes a Celery task of a function, which runs in a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.local import Proxy

from pooltasks import keys
from pooltasks.bases import shared_operation
from pooltasks.batching import batching_of
from pooltasks.broker.controls import Asked, controls_of
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.errors import Category, ConfigurationError
from pooltasks.extension import application
from pooltasks.task import RETRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery, Task

    from pooltasks.broker.uniqueness import Until


def operation(
    *,
    pool: str | None = None,
    queue: str | None = None,
    timeout: float | None = None,
    checkout_timeout: float | None = None,
    retry: bool | int | Mapping[str, int] = False,
    idempotent: bool = True,
    client_errors: tuple[type[BaseException], ...] = (),
    base: type[Task] | None = None,
    key: str | None = None,
    concurrency: int | None = None,
    rate: str | None = None,
    burst: int | None = None,
    fair: bool = False,
    weights: Mapping[Any, float] | None = None,
    unique: bool | str | tuple[str, ...] = False,
    unique_until: Until = "finish",
    unique_for: float | None = None,
    batch: int | None = None,
    batch_wait: float | None = None,
    **options: Any,
) -> Callable[[Callable[..., Any]], Any]:
    """Make a Celery task of a function, and have it run in a pool.

    Args:
        pool: The pool; None means any: the caller names it.
        queue: A plain queue of Celery's instead, which plain workers serve. There
            the operation has the limits that it or its caller names, and no others.
        timeout: Longest run in seconds; by default the pool's ``operation_timeout``.
        checkout_timeout: Longest wait in seconds; by default the pool's.
        retry: True retries each category of error as often as
            :data:`pooltasks.task.RETRIES` says, a number at most that often,
            a mapping ``{category: retries}`` exactly those. False (the
            default) never: only the author knows what may run twice.
        idempotent: Whether the operation may run again when its worker dies in
            the middle. If not, the caller gets ``WorkerLostError``.
        client_errors: Errors that are the fault of the caller, as arguments that do not fit
            always are. They are counted apart, and are no failures of the pool.
        key: Name of the argument by whose value is counted; None: all calls together.
        concurrency: How many run at once at the most, in the whole pool.
        rate: How many start at the most, as ``"100/s"``, ``"90/m"`` or ``"5/h"``.
        burst: How many of them may start at once; by default a tenth of a second's, at least 1.
        fair: The values of ``key`` are served one after the other, however much waits of each.
        weights: How many turns some of them have where another one has one, by the value of
            ``key``: 0.01 to 100. By default each has one.
        unique: True, or names of arguments: while a call waits or runs, another one with the same
            arguments is not published. It gets the result of the first, whose attribute
            ``is_duplicate`` is true.
        unique_until: ``"start"``: a call is unique while it waits, not while it runs.
        unique_for: Seconds from its publication for which a call is unique in any case, also
            after its end.
        batch: The function runs once for up to so many calls, at most 10,000. Each of its
            parameters is a list of what the calls pass. It returns a list with a result for each
            call in the same order, or None. An exception in the list is the error of its call.
            What the function raises is the error of all of them.
        batch_wait: Seconds for which the first call of a batch waits for others, at most 60;
            by default 0.05. With 0 a batch is what a node has at the moment.
        base: A class of Celery tasks that the operation is to be of too; by default that of the
            application's tasks.
        **options: Passed to Celery's task decorator (``name``, ``bind`` …). With
            ``acks_late=False`` an operation is acknowledged before it starts,
            and so runs once at most.

    Returns:
        A decorator that returns a Celery task.

    Raises:
        ConfigurationError: ``retry`` names an unknown category, a time is
            not positive, both a pool and a queue are named, ``client_errors``
            is no tuple of exception classes, or limits, ``unique`` or ``batch`` make no sense.
    """
    if pool and queue:
        raise ConfigurationError(
            f"@operation names the pool {pool!r} and the queue {queue!r}. Name one."
        )
    if queue and queue.startswith(keys.QUEUE_PREFIX):
        pool, queue = queue.removeprefix(keys.QUEUE_PREFIX), None
    if not isinstance(client_errors, tuple) or not all(map(_is_error, client_errors)):
        raise ConfigurationError(
            f"@operation: client_errors is {client_errors!r}; allowed: a tuple of exception "
            "classes, such as (ValueError,)."
        )
    for name, value in (("timeout", timeout), ("checkout_timeout", checkout_timeout)):
        if value is not None and value <= 0:
            raise ConfigurationError(f"@operation: {name} is {value}; allowed: seconds above 0.")

    def decorate(function: Callable[..., Any]) -> Any:
        its_unique, its_limits = controls_of(
            function,
            Asked(key, concurrency, rate, burst, fair, weights, unique, unique_until, unique_for),
            queue,
            options,
        )
        shared_operation(
            base,
            pool=pool,
            plain_queue=queue,
            timeout=timeout,
            checkout_timeout=checkout_timeout,
            retries_by_category=_retries(retry),
            client_errors=client_errors,
            unique=its_unique,
            limits=its_limits,
            batching=batching_of(function, batch, batch_wait, queue, options),
            reject_on_worker_lost=idempotent,
            **{"acks_late": True, "serializer": SERIALIZER, **options},
        )(function)
        given = options.get("name")
        names: WeakKeyDictionary[Celery, str] = WeakKeyDictionary()

        def present() -> Any:
            # Celery's own proxy looks in this thread's current application only.
            its = application(pool)
            name = given or names.get(its)
            if name is None:
                name = names[its] = its.gen_task_name(function.__name__, function.__module__)
            # Past the lock of kombu's cached properties, once the registry is there.
            tasks = vars(its).get("tasks")
            return (its.tasks if tasks is None else tasks)[name]

        return Proxy(present)

    return decorate


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _retries(retry: bool | int | Mapping[str, int]) -> dict[Category, int]:
    if retry is False:
        return {}
    if retry is True:
        return dict(RETRIES)
    if isinstance(retry, int):
        return {category: min(retry, most) for category, most in RETRIES.items()}
    unknown = set(retry) - set(Category)
    if unknown:
        raise ConfigurationError(
            f"@operation: retry names {', '.join(sorted(unknown))}; allowed: {', '.join(Category)}."
        )
    return {Category(category): most for category, most in retry.items()}
