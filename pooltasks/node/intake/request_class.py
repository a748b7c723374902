"""The class of a node's requests: ours, so that the end of each is plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Task
from celery.utils.imports import symbol_by_name
from celery.worker.request import Request

from pooltasks.errors import ConfigurationError
from pooltasks.node.intake.request import OperationRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery import Celery


def refusal(task: Any) -> str | None:
    """Return why a pool cannot run a task; None if it can."""
    named: type = symbol_by_name(task.Request)
    if not issubclass(named, OperationRequest) and named is not Request:
        return (
            f"The task {task.name} has a Request class of its own, "
            f"{named.__module__}.{named.__name__}, which a pool cannot run; make it a subclass of "
            f"{OperationRequest.__module__}.{OperationRequest.__name__}, or run the task in a "
            "plain Celery worker."
        )
    if task.Strategy != Task.Strategy:
        kind = next((each for each in type(task).__mro__ if "Strategy" in vars(each)), type(task))
        return (
            f"The task {task.name} takes its messages itself, with the Strategy of "
            f"{kind.__module__}.{kind.__name__}, which a pool cannot run; run the task in a plain "
            "Celery worker."
        )
    return None


def check_requests(app: Celery, modules: Collection[str]) -> None:
    """Check that a node can run its pool's tasks; it refuses those of other pools one by one.

    Args:
        app: The application.
        modules: Names of the modules whose tasks go to the pool.

    Raises:
        ConfigurationError: It cannot run one of them.
    """
    for task in app.tasks.values():
        if task.name.rpartition(".")[0] in modules or type(task).__module__ in modules:
            why = refusal(task)
            if why is not None:
                raise ConfigurationError(why)


def use_our_requests(app: Celery, pool: Any) -> dict[str, str]:
    """Give the tasks of ``app``, in this process, requests that end in ``pool``.

    Returns:
        The reason for each task that cannot be run, by its name.
    """
    bound: dict[type[OperationRequest], type[OperationRequest]] = {}
    refused = {}
    for task in app.tasks.values():
        why = refusal(task)
        if why is not None:
            refused[task.name] = why
            continue
        named: type = symbol_by_name(task.Request)
        base = OperationRequest if named is Request else named
        if base not in bound:
            # Celery's request would look the time zone up again for each ETA.
            its = {
                "pool": pool,
                "_tzlocal": app.conf.timezone,
                "is_plain": base is OperationRequest,
            }
            bound[base] = type(base.__name__, (base,), its)
        task.Request = bound[base]
    return refused
