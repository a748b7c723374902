"""Base classes of operations: the library's, with those of the project and its extensions.

A project gives its tasks a class of their own, with ``@operation(base=…)`` or as the
application's ``task_cls``. Their class comes first and ours behind it: its methods
override ours, and ``super()`` leads to ours. ``__call__`` is the exception: that of
Flask's guide calls ``self.run()``, without ``super()``. So it runs within ours, which
checks the deadline before and reports errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Task, _state
from kombu.utils.imports import symbol_by_name

from pooltasks.broker.serialization import SERIALIZER
from pooltasks.errors import ConfigurationError
from pooltasks.task import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


def composed(base: type[Task]) -> type[Operation]:
    """Return the class of the operations that have ``base`` too.

    Raises:
        ConfigurationError: It is no class of Celery's tasks.
    """
    if not isinstance(base, type) or not issubclass(base, Task):
        raise ConfigurationError(f"@operation: base is {base!r}; allowed: a subclass of Task.")
    if issubclass(base, Operation):
        return base
    if base is Task:
        return Operation
    namespace = {
        "abstract": True,
        "__module__": base.__module__,
        "own_publisher": base.__name__ if base.apply_async is not Task.apply_async else None,
    }
    if base.__call__ is not Task.__call__:
        namespace |= {"__call__": _called_within_ours(base), "perform": base.__call__}
    return type(base.__name__, (base, Operation), namespace)


def _called_within_ours(base: type[Task]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the operation; called directly, as an instance of its own class."""
        ours = base.__call__ if self.request.called_directly else Operation.__call__
        return ours(self, *args, **kwargs)

    return call


def shared_operation(base: type[Task] | None, **options: Any) -> Callable[[Any], None]:
    """Return a decorator that makes an operation in every application, as Celery's ``shared_task``.

    Args:
        base: Its class; by default that of the application's tasks.
        **options: As those of ``shared_task``.
    """
    if base is not None:
        composed(base)  # a wrong class is an error here

    def decorate(function: Any) -> None:
        def make(app: Celery) -> None:
            its = composed(symbol_by_name(app.task_cls) if base is None else base)
            app._task_from_fun(function, base=its, **options)  # noqa: SLF001  as shared_task

        _state.connect_on_app_finalize(make)
        for app in _state._get_active_apps():  # noqa: SLF001  as shared_task
            if app.finalized:
                with app._finalize_mutex:  # noqa: SLF001  as shared_task
                    make(app)

    return decorate


def operation_by_name(app: Celery, name: str) -> Any:
    """Return an operation that this process can send but not run."""
    remote: Any = type(
        "RemoteOperation",
        (Operation,),
        {"name": name, "typing": False, "serializer": SERIALIZER},
    )
    remote.bind(app)
    return remote()
