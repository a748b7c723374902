"""install(): pools on a Celery application that exists.

A process that serves no pool behaves as if it had not been called. The
configuration keeps its values, except for one route in front; the queues of the
pools are found by name and belong to no plain worker; a node sets its own
configuration in its own process, when it starts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery, _state
from kombu.utils.imports import symbol_by_name

from pooltasks import keys
from pooltasks.app import (
    BEAT,
    BROKER_TIMEOUTS,
    NODE,
    TICKS,
    app,
    longest_run,
    pool_queue,
    route_of,
)
from pooltasks.broker.protection import protect_what_celery_sends
from pooltasks.broker.pusher import PUBLISH_TIMEOUT
from pooltasks.broker.queues import queue_names
from pooltasks.broker.serialization import decode_faster, register_serializer
from pooltasks.brokers import server_of
from pooltasks.errors import ConfigurationError
from pooltasks.extension import LOCAL_BROKERS, Extension, extend
from pooltasks.keys import CONTROL_POOL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery.app.amqp import Queues

    from pooltasks.settings import Settings

_SERVERS = ("redis", "rediss", "redis+socket", "sentinel")
_KOMBUS_VISIBILITY_TIMEOUT = 3600.0
"""Seconds, unless an application says otherwise."""


def install(celery_app: Celery, settings: Settings | None = None) -> Celery:
    """Add pools to an application that already exists.

    The application keeps its broker, its result backend, its own tasks and its
    plain workers; ``celery -A yours worker -Q pool.<name>`` starts a node. Call
    it after the application is configured.

    In tests, where the broker is ``memory://`` or tasks are applied eagerly,
    operations are Celery tasks like others, and there are no pools.

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
    extension = _extension(celery_app, settings)
    conf = celery_app.conf
    conf.task_routes = [route_of(extension), *_as_list(conf.task_routes)]
    _let_pools_be_found(celery_app, extension)
    if _state.default_app is app:
        # Without pooltasks there would be none; threads find this one rather than ours.
        celery_app.set_default()
    register_serializer()
    if extension.protection is not None:
        protect_what_celery_sends(celery_app, extension.protection)
    extend(celery_app, extension)
    celery_app.Worker = partial(_worker, celery_app, vars(celery_app).get("Worker"))
    celery_app.Beat = partial(_beat, celery_app)
    return celery_app


def _extension(celery_app: Celery, settings: Settings | None) -> Extension:
    """Return the state of pooltasks on this application.

    Raises:
        ConfigurationError: A setting is wrong, or the broker is not Redis.
    """
    from pooltasks.settings import Settings  # noqa: PLC0415  pydantic, when settings are read

    conf = celery_app.conf
    broker = conf.broker_write_url or ""
    if not isinstance(broker, str):
        broker = ";".join(broker)
    scheme = broker.partition("://")[0]
    if scheme not in _SERVERS:
        if broker and scheme not in LOCAL_BROKERS and not conf.task_always_eager:
            raise ConfigurationError(
                f"pooltasks needs a Redis broker, and this application's is {scheme}; "
                "set broker_url to redis://, rediss://, redis+socket:// or sentinel:// before "
                "install()."
            )
        return Extension(settings or Settings.load(), has_server=False)
    try:
        server, objects = server_of(celery_app.connection_for_write())
    except ValueError as error:
        raise ConfigurationError(f"broker_url: {error}.") from None
    its = {
        "redis_url": server.url,
        "key_prefix": conf.broker_transport_options.get("global_keyprefix", ""),
    }
    if settings is None:
        settings = Settings.load(**its)
    elif "redis_url" not in settings.model_fields_set:
        settings = settings.model_copy(update=Settings(**its).model_dump(include=set(its)))
    return Extension(
        settings,
        connection_options=objects,
        publish_timeout=conf.broker_transport_options.get("socket_timeout", PUBLISH_TIMEOUT),
    )


def _let_pools_be_found(celery_app: Celery, extension: Extension) -> None:
    """Let every publisher find the queues of the pools by name."""
    amqp = celery_app.amqp
    amqp.queues_cls = _with_pools(amqp.queues_cls, extension)
    present = vars(amqp).get("queues")
    if present is not None:
        present.__class__ = amqp.queues_cls
    vars(amqp).pop("router", None)
    amqp.flush_routes()


def _with_pools(base: type[Queues], extension: Extension) -> type[Queues]:
    """Return a mapping of queues that also finds those of the pools.

    It does not contain them: workers consume the queues that it contains.
    """

    class QueuesWithPools(base):
        def __missing__(self, name: str) -> Any:
            pool = name.removeprefix(keys.QUEUE_PREFIX)
            pools = extension.settings.pools
            if pool != name and (not pools or pool in pools or pool == CONTROL_POOL):
                return pool_queue(pool)
            return super().__missing__(name)

    return QueuesWithPools


def _worker(celery_app: Celery, own: Any, *args: Any, **kwargs: Any) -> Any:
    """Start a node where the command names a pool, else the application's plain worker."""
    if _is_node(celery_app, kwargs.get("queues")):
        prepare_node(celery_app)
        return symbol_by_name(NODE)(*args, app=celery_app, **kwargs)
    # The worker that was set on the application, else that of the application's class.
    ours = vars(celery_app).pop("Worker")
    try:
        worker = (own or celery_app.Worker)(*args, **kwargs)
    finally:
        celery_app.Worker = ours
    if kwargs.get("beat"):
        symbol_by_name(TICKS)(celery_app)
    return worker


def _is_node(celery_app: Celery, queues: Iterable[str] | str | None) -> bool:
    """Return whether ``celery worker``, given these queues, is to be a node.

    A plain worker loads no code of nodes: that would give it their control commands.
    """
    if celery_app.pooltasks.settings.pool is not None:
        return True
    return any(queue.startswith(keys.QUEUE_PREFIX) for queue in queue_names(queues))


def prepare_node(celery_app: Celery) -> None:
    """Set the configuration that a node's process needs, and no other of the application.

    Raises:
        ConfigurationError: The application has no server.
    """
    extension = celery_app.pooltasks
    if not extension.has_server:
        raise ConfigurationError(
            "A node needs a Redis broker, and this application has none. Set broker_url to "
            "redis://… before pooltasks.install(app)."
        )
    decode_faster()
    given = celery_app.conf.broker_transport_options
    visible = given.get("visibility_timeout", _KOMBUS_VISIBILITY_TIMEOUT)
    celery_app.conf.broker_transport_options = {
        **BROKER_TIMEOUTS,
        **given,
        "visibility_timeout": max(visible, longest_run(extension.settings)),
    }


def _beat(celery_app: Celery, *args: Any, **kwargs: Any) -> Any:
    return symbol_by_name(BEAT)(*args, app=celery_app, **kwargs)


def _as_list(routes: Any) -> list[Any]:
    if routes is None:
        return []
    return list(routes) if isinstance(routes, list | tuple) else [routes]
