"""The Celery application of the library, and the functions that give pools to another one."""

from __future__ import annotations

import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery, _state, current_app
from kombu import Exchange, Queue
from kombu.utils.imports import symbol_by_name

from pooltasks import address, keys
from pooltasks.broker.encryption import ENCRYPTED
from pooltasks.broker.protection import protect_what_celery_sends
from pooltasks.broker.serialization import SERIALIZER, decode_faster, register_serializer
from pooltasks.errors import ConfigurationError, alternatives
from pooltasks.extension import Extension, remember, remember_own
from pooltasks.keys import CONTROL_POOL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pooltasks.settings import Settings

_RESULT_BACKEND = "pooltasks.broker.results.ResultBackend"
_SENTINEL_BACKEND = "pooltasks.broker.sentinels.SentinelResultBackend"
BUILT_IN_OPERATIONS = "pooltasks.operations"
NODE = "pooltasks.node.node:Node"
BEAT = "pooltasks.optimizer.beat:Beat"
TICKS = "pooltasks.optimizer.beat:schedule_ticks"
_OPTIMIZER = "pooltasks.optimizer.tick"
_VISIBILITY_MARGIN = 300.0
_CALLS_ANOTHER = ("celery.map", "celery.starmap")
"""Celery's tasks that call another one, ``kwargs["task"]``; ``chunks`` sends starmaps."""


class PoolApp(Celery):
    """A Celery application whose configuration is the pooltasks settings.

    The settings are read when the configuration is first needed, and again
    after an error, so that importing ``pooltasks`` never fails and a wrong
    setting never passes unnoticed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._extension: Extension | None = None
        super().__init__(*args, **kwargs)
        remember(self)

    @property
    def pooltasks(self) -> Extension:
        """The settings and state of pooltasks on this application."""
        if self._extension is None:
            from pooltasks.settings import Settings  # noqa: PLC0415  pydantic, when settings are read

            self._extension = Extension(Settings.load())
        return self._extension

    @property
    def serves_a_pool(self) -> bool:
        """Whether this process is a node of this application, or a node's worker."""
        return self._extension is not None and self._extension.pool is not None

    @property
    def Worker(self) -> Any:  # noqa: N802  Celery's name
        """The program that ``celery worker`` starts: a node.

        By name, as Celery names its own: a producer never loads a node's code.
        """
        decode_faster()
        return partial(symbol_by_name(NODE), app=self)

    @property
    def Beat(self) -> Any:  # noqa: N802  Celery's name
        """The program that ``celery beat`` starts: Celery's own, with the optimizer's tick."""
        return partial(symbol_by_name(BEAT), app=self)

    def close(self) -> None:
        """Close the application's connections, and clean up after it as Celery does."""
        if self._extension is not None:
            self._extension.close()
        super().close()

    def on_configure(self) -> None:
        """Set the configuration; Celery calls this before its first use."""
        settings = self.pooltasks.settings
        register_serializer()
        protection = self.pooltasks.protection
        result_serializer = SERIALIZER
        if protection is not None:
            protect_what_celery_sends(self, protection)
            if protection.cipher is not None:
                result_serializer = ENCRYPTED
        server = address.read(settings.redis_url.get_secret_value())
        broker, shared = server.broker_url, server.transport_options
        is_sentinel = bool(server.master_name)
        if len(server.hosts) > 1 and not is_sentinel:
            raise ConfigurationError(
                "redis_url names several servers; name one. Where one may have to take over "
                "from another, use Sentinels: sentinel://HOST:PORT;HOST:PORT/DB?master_name=NAME."
            )
        if settings.key_prefix:
            shared["global_keyprefix"] = settings.key_prefix
        operations = _operation_configuration(self.pooltasks)
        self.config_from_object(
            {
                **operations,
                "broker_url": broker,
                "broker_transport_options": {**operations["broker_transport_options"], **shared},
                # Celery's own name of the scheme: "redis" stands for the class that ours replaces.
                "result_backend": f"{_SENTINEL_BACKEND if is_sentinel else _RESULT_BACKEND}+"
                + broker.removeprefix("redis+"),
                "result_backend_transport_options": shared,
                "result_expires": settings.result_expires,
                "task_serializer": SERIALIZER,
                "result_serializer": result_serializer,
                "accept_content": ["json"],
                "result_accept_content": ["json", *{result_serializer} - {SERIALIZER}],
                "task_acks_late": True,
                "task_reject_on_worker_lost": True,
                "task_track_started": False,
                "task_default_queue": keys.queue(_only_pool(settings) or CONTROL_POOL),
                "task_create_missing_queues": not settings.pools,
                "worker_prefetch_multiplier": 1,
                "worker_hijack_root_logger": True,
                "broker_connection_retry_on_startup": True,
                "timezone": "UTC",
            }
        )


def settings_of(celery_app: Celery) -> Settings:
    """Return the settings of an application on which pooltasks is installed.

    Raises:
        ConfigurationError: pooltasks is not installed on it.
    """
    extension = getattr(celery_app, "pooltasks", None)
    if extension is None:
        raise ConfigurationError(
            f"pooltasks is not installed on {celery_app!r}; call pooltasks.install(app)."
        )
    settings: Settings = extension.settings
    return settings


def current_pool() -> str | None:
    """Return the pool that this process serves; None outside nodes and workers."""
    extension: Extension | None = getattr(current_app, "pooltasks", None)
    return extension.pool if extension else None


def import_operations(celery_app: Celery, pool: str) -> None:
    """Import the modules of ``pool`` and check that its warm-up names operations.

    In Celery's order: the application's own start of a worker comes first
    (``django.setup()``, the setting ``imports``).

    Raises:
        ConfigurationError: A module cannot be imported, or an operation of the
            warm-up does not exist.
    """
    settings = settings_of(celery_app).pool_settings(pool)
    try:
        celery_app.loader.init_worker()
    except Exception as error:
        # Fixups, signals' receivers and modules of the application: they raise anything.
        raise ConfigurationError(
            f"pool {pool!r}: the application {celery_app.main!r} does not start: {_why(error)}"
        ) from error
    own = (_OPTIMIZER,) if pool == CONTROL_POOL else ()
    for module in (BUILT_IN_OPERATIONS, *own, *settings.imports):
        try:
            celery_app.loader.import_task_module(module)
        except Exception as error:
            # The module may raise any error; the user has to read which module it was.
            raise ConfigurationError(
                f"pool {pool!r}: imports: {module} cannot be imported: {_why(error, module)}"
            ) from error
    celery_app.finalize()
    for number, command in enumerate(settings.warmup.commands):
        if command.operation not in celery_app.tasks:
            known = sorted(name for name in celery_app.tasks if not name.startswith("celery."))
            raise ConfigurationError(
                f"pool {pool!r}: warmup.commands.{number}.operation: there is no operation "
                f"{command.operation!r}; {alternatives(command.operation, known)}."
            )


def _why(error: Exception, module: str = "") -> str:
    """Return the error in words, and the place to mend it."""
    text = f"{type(error).__name__}: {error}"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (module == missing or module.startswith(f"{missing}.")):
        return f"{text}. It must be installed or lie in {Path.cwd()}."
    frame = traceback.extract_tb(error.__traceback__)[-1]
    file, line = frame.filename, frame.lineno
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    return f"{text}. It was raised in {file}, line {line}."


def pool_queue(pool: str) -> Queue:
    """Return the queue of a pool."""
    name = keys.queue(pool)
    return Queue(name, Exchange("pool", type="direct"), routing_key=name)


def route_of(extension: Extension) -> Callable[..., dict[str, str] | None]:
    """Return the route of an application's pools, as in Celery's ``task_routes``."""
    pools = {
        module: keys.queue(pool)
        for pool, its in reversed(extension.settings.pools.items())
        for module in its.imports
    }

    def route(
        name: str, _: Any, kwargs: Any, *__: Any, task: Any = None, **___: Any
    ) -> dict[str, str] | None:
        """Route a task without a queue of its own by its module."""
        if name in _CALLS_ANOTHER:
            name = (kwargs or {})["task"]["task"]
            task = None
        # A name need not say the module: the task itself does.
        queue = pools.get(name.rpartition(".")[0]) or pools.get(getattr(task, "__module__", ""))
        if queue is None and name.startswith("celery.") and extension.pool:
            # Parts of a canvas that every process knows stay in the pool whose worker sends them.
            queue = keys.queue(extension.pool)
        return {"queue": queue} if queue else None

    return route


def longest_run(settings: Settings) -> float:
    """Return the seconds after which a reserved operation surely does not run any more.

    With the stock transport, an operation of a dead node comes back after so long.
    """
    longest = max(
        (pool.operation_timeout for pool in settings.pools.values()),
        default=settings.pool_settings(CONTROL_POOL).operation_timeout,
    )
    return longest + _VISIBILITY_MARGIN


BROKER_TIMEOUTS: Mapping[str, Any] = {
    # A server that is gone must show itself: a read that never ends leaves a
    # node alive and idle (celery #8030, #8091).
    "socket_timeout": 10.0,
    "socket_connect_timeout": 5.0,
    "socket_keepalive": True,
}


def _operation_configuration(extension: Extension) -> dict[str, Any]:
    """Return the part of our own application's configuration that concerns operations."""
    settings = extension.settings
    return {
        "task_queues": tuple(map(pool_queue, dict.fromkeys([*settings.pools, CONTROL_POOL]))),
        "task_routes": [route_of(extension)],
        "broker_transport_options": {
            "visibility_timeout": longest_run(settings),
            # Pools use no priorities: one list a queue instead of four.
            "priority_steps": [0],
            **BROKER_TIMEOUTS,
        },
    }


def _only_pool(settings: Settings) -> str | None:
    return next(iter(settings.pools)) if len(settings.pools) == 1 else None


app = PoolApp("pooltasks", set_as_current=False)
remember_own(app)
if _state.default_app is None and getattr(_state._tls, "current_app", None) is None:  # noqa: SLF001  no public question
    # Operations go to this application unless the process has one of its own.
    app.set_current()
    app.set_default()
