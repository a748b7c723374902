"""The Celery application, and how pools are added to another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery, _state, current_app, shared_task
from kombu import Exchange, Queue
from kombu.utils.imports import symbol_by_name

from pooltasks import address, keys
from pooltasks.broker.clock import ServerClock
from pooltasks.broker.serialization import SERIALIZER, register_serializer
from pooltasks.errors import Category, ConfigurationError
from pooltasks.settings import CONTROL_POOL, Settings
from pooltasks.task import RETRIES, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import redis

    from pooltasks.broker.publishing import Publisher

_RESULT_BACKEND = "pooltasks.broker.results.ResultBackend"
_SENTINEL_BACKEND = "pooltasks.broker.sentinels.SentinelResultBackend"
BUILT_IN_OPERATIONS = "pooltasks.operations"
_NODE = "pooltasks.node.worker:Node"
_BEAT = "pooltasks.optimizer.beat:Beat"
_OPTIMIZER = "pooltasks.optimizer.tick"
_VISIBILITY_MARGIN = 300.0
_CALLS_ANOTHER = ("celery.map", "celery.starmap")
"""Celery's tasks that call another one, ``kwargs["task"]``; ``chunks`` sends starmaps."""


@dataclass
class Extension:
    """What pooltasks keeps on a Celery application, as its attribute ``pooltasks``."""

    settings: Settings
    pool: str | None = None
    """The pool that this process serves, in a node and its workers."""
    client: redis.Redis | None = None
    publisher: Publisher | None = None
    clock: ServerClock = field(default_factory=ServerClock)
    """The server's; a node's workers share it."""

    def close(self) -> None:
        """Close the connections; new ones are made when they are needed."""
        if self.publisher is not None:
            self.publisher.pusher.close()
        if self.client is not None:
            self.client.close()


class PoolApp(Celery):
    """A Celery application whose configuration is the pooltasks settings.

    The settings are read when the configuration is first needed, and again
    after an error, so that importing ``pooltasks`` never fails and a wrong
    setting never passes unnoticed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._extension: Extension | None = None
        super().__init__(*args, **kwargs)

    @property
    def pooltasks(self) -> Extension:
        """The settings and state of pooltasks on this application."""
        if self._extension is None:
            self._extension = Extension(Settings.load())
        return self._extension

    @property
    def Worker(self) -> Any:  # noqa: N802  Celery's name
        """What ``celery worker`` starts: a node.

        By name, as Celery names its own: a producer never loads a node's code.
        """
        return partial(symbol_by_name(_NODE), app=self)

    @property
    def Beat(self) -> Any:  # noqa: N802  Celery's name
        """What ``celery beat`` starts: Celery's own, with the optimizer's tick."""
        return partial(symbol_by_name(_BEAT), app=self)

    def close(self) -> None:
        """Close the application's connections, and clean up after it as Celery does."""
        if self._extension is not None:
            self._extension.close()
        super().close()

    def on_configure(self) -> None:
        """Set the configuration; Celery calls this before its first use."""
        settings = self.pooltasks.settings
        register_serializer()
        url = settings.redis_url.get_secret_value()
        broker = address.broker_url(url)
        is_sentinel = broker.startswith("sentinel:")
        shared = address.transport_options(url)
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
                "result_serializer": SERIALIZER,
                "accept_content": ["json"],
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


def install(celery_app: Celery, settings: Settings | None = None) -> Celery:
    """Add pools to an application that already exists.

    The application keeps its broker, its result backend, its own tasks and its
    plain workers; ``celery -A yours worker -Q pool.<name>`` starts a node. Call
    it after the application is configured.

    Args:
        celery_app: The application; its broker must be Redis.
        settings: Settings to use; by default those of the environment and the
            TOML file. ``redis_url`` is taken from the application's broker, and the
            prefix of keys from its transport's option ``global_keyprefix``.

    Returns:
        ``celery_app``, for use in an assignment.

    Raises:
        ConfigurationError: A setting is wrong, or the broker is not Redis.
    """
    if hasattr(celery_app, "pooltasks"):
        return celery_app
    broker_url = celery_app.conf.broker_url or ""
    scheme = broker_url.partition("://")[0]
    if scheme not in ("redis", "rediss", "redis+socket", "sentinel"):
        raise ConfigurationError(
            f"pooltasks needs a Redis broker, and this application's is {scheme or 'not set'}; "
            "set broker_url to redis://, rediss://, redis+socket:// or sentinel:// before "
            "install()."
        )
    options = celery_app.conf.broker_transport_options
    url = address.of_broker(broker_url, options, celery_app.conf.broker_use_ssl)
    prefix = options.get("global_keyprefix", "")
    settings = settings or Settings.load(redis_url=url, key_prefix=prefix)
    celery_app.pooltasks = Extension(settings)
    for key, value in _operation_configuration(celery_app.pooltasks).items():
        if key == "task_queues":
            # An application without explicit queues keeps its default one.
            present = celery_app.conf.task_queues or (Queue(celery_app.conf.task_default_queue),)
            celery_app.conf.task_queues = (*present, *value)
        elif key == "task_routes":
            celery_app.conf.task_routes = [*value, *_as_list(celery_app.conf.task_routes)]
        else:
            celery_app.conf[key] = {**value, **celery_app.conf[key]}
    if _state.default_app is app:
        # Threads other than the main one publish through the default application.
        celery_app.set_default()
    register_serializer()
    celery_app.Worker = partial(_node_or_stock_worker, celery_app)
    celery_app.Beat = partial(_beat, celery_app)
    return celery_app


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

    Raises:
        ConfigurationError: A module cannot be imported, or an operation of the
            warm-up does not exist.
    """
    settings = settings_of(celery_app).pool_settings(pool)
    own = (_OPTIMIZER,) if pool == CONTROL_POOL else ()
    for module in (BUILT_IN_OPERATIONS, *own, *settings.imports):
        try:
            celery_app.loader.import_task_module(module)
        except Exception as error:
            # Whatever the module raises, the user has to read which one it was.
            raise ConfigurationError(
                f"pool {pool!r}: imports: {module} cannot be imported: "
                f"{type(error).__name__}: {error}. It must be installed or lie in {Path.cwd()}."
            ) from error
    celery_app.finalize()
    for number, command in enumerate(settings.warmup.commands):
        if command.operation not in celery_app.tasks:
            known = sorted(name for name in celery_app.tasks if not name.startswith("celery."))
            raise ConfigurationError(
                f"pool {pool!r}: warmup.commands.{number}.operation: there is no operation "
                f"{command.operation!r}; allowed: {', '.join(known)}."
            )


def operation(
    *,
    pool: str | None = None,
    timeout: float | None = None,
    checkout_timeout: float | None = None,
    retry: bool | int | Mapping[str, int] = False,
    idempotent: bool = True,
    **options: Any,
) -> Callable[[Callable[..., Any]], Any]:
    """Make a Celery task of a function, and have it run in a pool.

    Args:
        pool: The pool; None means any: the caller names it.
        timeout: Longest run in seconds; by default the pool's ``operation_timeout``.
        checkout_timeout: Longest wait in seconds; by default the pool's.
        retry: True retries each category of error as often as
            :data:`pooltasks.task.RETRIES` says, a number at most that often,
            a mapping ``{category: retries}`` exactly those. False (the
            default) never: only the author knows what may run twice.
        idempotent: Whether the operation may run again when its worker dies in
            the middle. If not, the caller gets ``WorkerLostError``.
        **options: Passed to Celery's task decorator (``name``, ``bind`` …). With
            ``acks_late=False`` an operation is acknowledged before it starts,
            and so runs once at most.

    Returns:
        A decorator that returns a Celery task.

    Raises:
        ConfigurationError: ``retry`` names an unknown category, or a time is
            not positive.
    """
    for key, value in (("timeout", timeout), ("checkout_timeout", checkout_timeout)):
        if value is not None and value <= 0:
            raise ConfigurationError(f"@operation: {key} is {value}; allowed: seconds above 0.")

    def decorate(function: Callable[..., Any]) -> Any:
        return shared_task(
            base=Operation,
            pool=pool,
            timeout=timeout,
            checkout_timeout=checkout_timeout,
            retries_by_category=_retries(retry),
            reject_on_worker_lost=idempotent,
            **{"acks_late": True, "serializer": SERIALIZER, **options},
        )(function)

    return decorate


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


def _node_or_stock_worker(celery_app: Celery, *args: Any, **kwargs: Any) -> Any:
    """Start a node where the command names a pool, else the application's plain worker."""
    node = symbol_by_name(_NODE)
    if node.is_named_by(celery_app, kwargs.get("queues")):
        return node(*args, app=celery_app, **kwargs)
    return celery_app.subclass_with_self("celery.apps.worker:Worker")(*args, **kwargs)


def _beat(celery_app: Celery, *args: Any, **kwargs: Any) -> Any:
    return symbol_by_name(_BEAT)(*args, app=celery_app, **kwargs)


def _operation_configuration(extension: Extension) -> dict[str, Any]:
    """Return the Celery configuration that operations need on any application."""
    settings = extension.settings
    exchange = Exchange("pool", type="direct")
    pools = [*settings.pools, CONTROL_POOL]
    longest = max(
        (pool.operation_timeout for pool in settings.pools.values()),
        default=settings.pool_settings(CONTROL_POOL).operation_timeout,
    )

    def route(name: str, _: Any, kwargs: Any, *__: Any, **___: Any) -> dict[str, str] | None:
        """Route by module what is sent by name and so carries no queue of its own."""
        if name in _CALLS_ANOTHER:
            name = (kwargs or {})["task"]["task"]
        module = name.rpartition(".")[0]
        for pool, its in settings.pools.items():
            if module in its.imports:
                return {"queue": keys.queue(pool)}
        if name.startswith("celery.") and extension.pool:
            # Parts of a canvas that every process knows stay in the pool whose worker sends them.
            return {"queue": keys.queue(extension.pool)}
        return None

    return {
        "task_queues": tuple(
            Queue(name, exchange, routing_key=name)
            for name in map(keys.queue, dict.fromkeys(pools))
        ),
        "task_routes": [route],
        # With the stock transport a reserved operation of a dead node comes back
        # after this many seconds, so it must outlast the longest run.
        "broker_transport_options": {
            "visibility_timeout": longest + _VISIBILITY_MARGIN,
            # Pools use no priorities: one list a queue instead of four.
            "priority_steps": [0],
            # A server that is gone must show itself: a read that never ends
            # leaves a node alive and idle (celery #8030, #8091).
            "socket_timeout": 10.0,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
        },
    }


def _only_pool(settings: Settings) -> str | None:
    return next(iter(settings.pools)) if len(settings.pools) == 1 else None


def _as_list(routes: Any) -> list[Any]:
    if routes is None:
        return []
    return list(routes) if isinstance(routes, list | tuple) else [routes]


app = PoolApp("pooltasks", set_as_current=False)
if _state.default_app is None and getattr(_state._tls, "current_app", None) is None:  # noqa: SLF001  no public question
    # Operations go to this application unless the process has one of its own.
    app.set_current()
    app.set_default()
