"""Node: Celery's worker program, serving exactly one pool."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from celery import signals
from celery.apps.worker import Worker
from celery.bootsteps import RUN
from celery.concurrency.prefork import TaskPool as StockTaskPool
from celery.concurrency.solo import TaskPool as StockSoloPool
from celery.utils.log import get_logger
from celery.utils.nodenames import default_nodename, host_format
from click.core import ParameterSource
from kombu import Exchange, Queue
from kombu.utils.imports import symbol_by_name

from pooltasks import keys, telemetry
from pooltasks.app import TICKS, import_operations
from pooltasks.broker.queues import queue_names
from pooltasks.broker.results import share
from pooltasks.errors import ConfigurationError
from pooltasks.node import control, host  # noqa: F401  register the control commands
from pooltasks.node.celery import begin_again
from pooltasks.node.clock import ClockKeeper
from pooltasks.node.consumer import MessageSource, NodeConsumer, NodeMingle
from pooltasks.node.health_file import HealthFile
from pooltasks.node.idle import IdleConnections
from pooltasks.node.intake.gate import Gate
from pooltasks.node.intake.request_class import check_requests
from pooltasks.node.logs import log_as_json
from pooltasks.node.sentry import send_before_exit
from pooltasks.node.shutdown import Shutdown, say_no_goodbye
from pooltasks.node.worker.descendants import die_with
from pooltasks.node.workforce.task_pool import TaskPool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

    from pooltasks.node.intake.request import OperationRequest
    from pooltasks.pool_settings import PoolSettings
    from pooltasks.settings import Settings

logger = get_logger(__name__)

_SOCKET_SECONDS = 2.0
"""How long kombu may wait for the server at the most, in the node and in its workers."""
_LEAVE_SECONDS = 2.0
"""How long the server may take when a node leaves; after that the other nodes see to it."""
_NOBODY = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
_SOLO = "pooltasks.node.debugging.solo:SoloPool"
_EVENT_LOG = "pooltasks.settings.log_events"


class Node(Worker):
    """The parent process of a pool's workers on this host.

    Takes the arguments of ``celery worker``. ``-Q pool.<name>`` or
    ``POOLTASKS_POOL`` says which pool, ``-c`` how many workers if not as many
    as the settings say. Without ``-n`` its name is ``<name>@<host>``.

    Raises:
        ConfigurationError: No pool, several pools, or an option is named that
            a node cannot serve; or the pool's modules cannot be imported.
    """

    def __init__(self, app: Celery, hostname: str | None = None, **options: Any) -> None:
        extension = app.pooltasks
        name = self._pool_name(extension.settings, options.pop("queues", None))
        pool = extension.settings.pool_settings(name)
        extension.pool = name
        is_debugging = self._is_debugging(options)
        if not is_debugging:
            begin_again()
        import_operations(app, name)
        # Only JSON is read, also where the application itself accepts more.
        app.conf.accept_content = ["json"]
        share(app)  # before the workers are forked: its memory is theirs too
        # A server that falls silent must not stop the event loop for longer than its lease.
        transport = app.conf.broker_transport_options
        app.conf.broker_transport_options = {
            **transport,
            **{
                name: min(transport.get(name) or _SOCKET_SECONDS, _SOCKET_SECONDS)
                for name in ("socket_timeout", "socket_connect_timeout")
            },
        }
        queue = keys.queue(name)
        if queue not in app.amqp.queues:
            app.amqp.queues.add(Queue(queue, Exchange("pool", type="direct"), routing_key=queue))
        is_stock = extension.settings.broker_transport == "stock"
        app.steps["consumer"].update(
            (ClockKeeper, Gate) if is_stock else (MessageSource, IdleConnections)
        )
        if not options.get("without_mingle"):
            app.steps["consumer"].add(NodeMingle)
            options["without_mingle"] = True
        self._is_named_after_its_pool = hostname is None or _is_left_out("hostname")
        if hostname is None or self._is_named_after_its_pool:
            hostname = str(host_format(f"{name}@%h"))
        options["concurrency"] = self._size(
            name, pool, options.get("concurrency"), is_debugging=is_debugging
        )
        options["queues"] = [queue]
        options["pool_cls"] = TaskPool
        if is_debugging:
            if is_stock:
                raise ConfigurationError(
                    "-P solo needs the library's own transport; leave out broker_transport = "
                    '"stock" in the settings.'
                )
            options["pool_cls"] = symbol_by_name(_SOLO)
            # A debugger in the terminal writes to it, and not to the log.
            app.conf.worker_redirect_stdouts = False
        options["consumer_cls"] = NodeConsumer
        options["without_gossip"] = True
        if extension.settings.log_format == "json":
            log_as_json(name, hostname)
            options["quiet"] = True  # Celery's banner is no JSON
        self.shutdown = Shutdown(hostname, app.conf.worker_soft_shutdown_timeout or 0.0)
        self._has_left = False
        self._is_lazy = pool.lazy
        path = extension.settings.health_file
        self._health_file = HealthFile(path, self._is_ready) if path else None
        if extension.settings.log_events:
            telemetry.detach(_EVENT_LOG)  # of a node that this process was before
            telemetry.attach_default_logger(handler_id=_EVENT_LOG)
        super().__init__(app=app, hostname=hostname, **options)
        if options.get("beat"):
            symbol_by_name(TICKS)(app)
            # Else a beat goes on without its node, and the next node brings a second one.
            signals.beat_embedded_init.connect(
                partial(_die_with, os.getpid()), weak=False, dispatch_uid="pooltasks.beat"
            )
        check_requests(app, pool.imports)
        send_before_exit()

    def on_start(self) -> None:
        """Say by which name Celery's commands reach the node, if its user has not said it."""
        super().on_start()
        if self._is_named_after_its_pool:
            logger.info(
                "Celery's commands reach this node with -d %s, not with -d %s; -n gives it "
                "another name.",
                self.hostname,
                default_nodename(None),
            )

    def _process_task(self, req: OperationRequest) -> None:
        """Have a worker run an operation."""
        req.run_in(self.pool)

    def install_platform_tweaks(self, worker: Any) -> None:
        """Handle signals as Celery does; those that stop the node only take note."""
        super().install_platform_tweaks(worker)
        if self._has_intake():
            self.shutdown.install()

    def register_with_event_loop(self, hub: Any) -> None:
        """Attach to the loop; called again after each reconnection."""
        super().register_with_event_loop(hub)
        self.shutdown.wake(hub)
        if self._health_file is not None:
            self._health_file.start(hub)

    def _is_ready(self) -> bool:
        """Return whether there is a warm worker, or one will be made for the first operation."""
        warm, _ = self.pool.warm_and_cold()
        return bool(self._is_lazy or warm)

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        """Stop: reserve nothing more, finish what runs, put back the rest, and leave."""
        if not self._is_at_work():
            super().stop(in_sighandler, exitcode)
        else:
            is_done = self.shutdown.drain(self)
            if self.consumer.intake.session.side.wire is None:
                say_no_goodbye(self.consumer)
            if is_done:
                super().stop(in_sighandler, exitcode)
            else:
                self.exitcode = exitcode
                super().terminate(in_sighandler)
                self._send_worker_shutdown()
        self._leave()

    def terminate(self, in_sighandler: bool = False) -> None:
        """End at once; what runs is put back."""
        super().terminate(in_sighandler)
        self._leave()

    def _has_intake(self) -> bool:
        return bool(self.app.pooltasks.settings.broker_transport != "stock")

    def _is_at_work(self) -> bool:
        """Return whether the event loop can go on until the last operation has ended."""
        consumer = getattr(self, "consumer", None)
        return (
            self.blueprint.state == RUN
            and consumer is not None
            and getattr(consumer, "intake", None) is not None
            and consumer.blueprint.state == RUN
            and consumer.connection is not None
        )

    def _leave(self) -> None:
        intake = getattr(getattr(self, "consumer", None), "intake", None)
        if intake is not None and not self._has_left:
            self._has_left = True
            intake.leave(_LEAVE_SECONDS)

    @staticmethod
    def _pool_name(settings: Settings, queues: Iterable[str] | str | None) -> str:
        known = ", ".join(settings.pools) or "none configured, so any name"
        names = queue_names(queues)
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
    def _size(name: str, pool: PoolSettings, given: int | None, *, is_debugging: bool) -> int:
        """Return how many workers the node has at its start.

        ``worker_concurrency`` is for the application's plain workers; the pool's settings
        have the node's own size.
        """
        is_left_out = not given or _is_left_out("concurrency")
        if is_debugging:
            if not is_left_out and given != 1:
                raise ConfigurationError(
                    f"-P solo is one worker in the node's own process; leave out -c {given}."
                )
            return 1
        if not given or is_left_out:
            return pool.pool_size
        floor, ceiling = pool.min_pool_size, pool.max_pool_size
        if not floor <= given <= ceiling:
            bound = f"above max_pool_size ({ceiling})"
            if given < floor:
                bound = f"below min_pool_size ({floor})"
            raise ConfigurationError(
                f"-c {given} is {bound} of the pool {name!r}. Allowed: {floor} to "
                f"{ceiling}, as the settings say."
            )
        return given

    @staticmethod
    def _is_debugging(options: dict[str, Any]) -> bool:
        """Return whether operations are to run in this process: ``-P solo``.

        Raises:
            ConfigurationError: An option is named that a node cannot serve.
        """
        pool_cls = options.pop("pool_cls", None) or options.pop("pool", None)
        is_debugging = pool_cls in ("solo", StockSoloPool)
        if not is_debugging and pool_cls not in (None, "prefork", StockTaskPool, TaskPool):
            raise ConfigurationError(
                "A node runs its workers as warm processes; leave out -P / --pool. "
                "Pools whose operations mostly wait set slots in the settings. For a debugger: "
                "-P solo."
            )
        if options.get("autoscale"):
            raise ConfigurationError(
                "A pool is sized by its optimizer; leave out --autoscale. "
                "min_pool_size and max_pool_size in the settings are its bounds."
            )
        return is_debugging


def _is_left_out(option: str) -> bool:
    """Return whether this process is a command whose line does not name an option.

    The value that Celery then hands on is its own default, or the configuration's.
    """
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(option) in _NOBODY


def _die_with(node_pid: int, **_: Any) -> None:
    """Have the kernel end this process, a beat within a node, with its node."""
    die_with(node_pid)
