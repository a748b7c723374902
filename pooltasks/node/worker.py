"""Node: Celery's worker program, serving exactly one pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.apps.worker import Worker
from celery.concurrency.prefork import TaskPool as StockTaskPool
from celery.utils.nodenames import default_nodename, host_format
from kombu import Exchange, Queue

from pooltasks import keys
from pooltasks.app import import_operations
from pooltasks.broker.connection import NodeConnection
from pooltasks.errors import ConfigurationError
from pooltasks.node import control  # noqa: F401  registers the control commands
from pooltasks.node.clock import ClockKeeper
from pooltasks.node.consumer import NodeConsumer, Reunion
from pooltasks.node.gate import Gate
from pooltasks.node.logs import log_as_json
from pooltasks.node.task_pool import TaskPool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

    from pooltasks.settings import Settings


class Node(Worker):
    """The parent process of a pool's workers on this host.

    Takes the arguments of ``celery worker``. ``-Q pool.<name>`` or
    ``POOLTASKS_POOL`` says which pool, ``-c`` how many workers if not as many
    as the settings say.

    Raises:
        ConfigurationError: No pool, several pools, or an option is named that
            a node cannot serve; or the pool's modules cannot be imported.
    """

    def __init__(self, app: Celery, hostname: str | None = None, **options: Any) -> None:
        extension = app.pooltasks
        name = self._pool_name(extension.settings, options.pop("queues", None))
        pool = extension.settings.pool_settings(name)
        extension.pool = name
        self._refuse(options)
        import_operations(app, name)
        # Only JSON is read, also where the application itself accepts more.
        app.conf.accept_content = ["json"]
        queue = keys.queue(name)
        if queue not in app.amqp.queues:
            app.amqp.queues.add(Queue(queue, Exchange("pool", type="direct"), routing_key=queue))
        app.steps["consumer"].update((ClockKeeper, Gate))
        if not options.get("without_mingle"):
            app.steps["consumer"].add(Reunion)
            options["without_mingle"] = True
        if extension.settings.broker_transport == "pooltasks":
            app.amqp.Connection = NodeConnection
        if hostname in (None, default_nodename(None)):
            hostname = host_format(f"{name}@%h")
        options["concurrency"] = options.get("concurrency") or pool.pool_size
        options["queues"] = [queue]
        options["pool_cls"] = TaskPool
        options["consumer_cls"] = NodeConsumer
        options["without_gossip"] = True
        if extension.settings.log_format == "json":
            log_as_json(name, hostname)
            options["quiet"] = True  # Celery's banner is no JSON
        super().__init__(app=app, hostname=hostname, **options)

    @staticmethod
    def is_named_by(app: Celery, queues: Iterable[str] | str | None) -> bool:
        """Return whether ``celery worker``, given these queues, is to be a node."""
        if app.pooltasks.settings.pool is not None:
            return True
        return any(queue.startswith(keys.QUEUE_PREFIX) for queue in _as_names(queues))

    @staticmethod
    def _pool_name(settings: Settings, queues: Iterable[str] | str | None) -> str:
        known = ", ".join(settings.pools) or "none configured, so any name"
        names = _as_names(queues)
        if len(names) > 1:
            raise ConfigurationError(
                f"A node serves exactly one pool, and -Q names {', '.join(names)}. "
                "Start one node for each."
            )
        if names and not names[0].startswith(keys.QUEUE_PREFIX):
            raise ConfigurationError(
                f"-Q {names[0]} names no pool's queue; that is pool.<name>. Pools: {known}."
            )
        by_queue = names[0].removeprefix(keys.QUEUE_PREFIX) if names else None
        if by_queue and settings.pool and by_queue != settings.pool:
            raise ConfigurationError(
                f"-Q names the pool {by_queue!r}, POOLTASKS_POOL {settings.pool!r}. Name one."
            )
        if by_queue or settings.pool:
            return str(by_queue or settings.pool)
        if len(settings.pools) == 1:
            return next(iter(settings.pools))
        raise ConfigurationError(
            "Which pool is this node to serve? Start it with -Q pool.<name> or set POOLTASKS_POOL. "
            f"Pools: {known}."
        )

    @staticmethod
    def _refuse(options: dict[str, Any]) -> None:
        pool_cls = options.pop("pool_cls", None) or options.pop("pool", None)
        if pool_cls not in (None, "prefork", StockTaskPool, TaskPool):
            raise ConfigurationError(
                "A node runs its workers as warm processes; leave out -P / --pool. "
                "Pools whose operations mostly wait set slots in the settings."
            )
        if options.get("autoscale"):
            raise ConfigurationError(
                "A pool is sized by its optimizer; leave out --autoscale. "
                "min_pool_size and max_pool_size in the settings are its bounds."
            )


def _as_names(queues: Iterable[str] | str | None) -> list[str]:
    if queues is None:
        return []
    return queues.split(",") if isinstance(queues, str) else list(queues)
