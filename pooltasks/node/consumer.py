"""A node's consumer: messages come from the intake, remote control from Celery's connection.

When Celery's connection breaks, its consumer starts again, and operations go on
meanwhile: the intake has connections of its own. Celery would wait longer after each
attempt to connect, up to half a minute, and give up after the hundredth.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from celery.exceptions import CPendingDeprecationWarning
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.consumer.mingle import Mingle
from celery.worker.consumer.tasks import Tasks
from redis.exceptions import RedisError

from pooltasks import keys
from pooltasks.broker.adoption import Adoption
from pooltasks.broker.client import impatient_client, key_prefix
from pooltasks.errors import ConfigurationError
from pooltasks.node.hearing import PING_SECONDS, Hearing
from pooltasks.node.intake.acceptance import Acceptance, Refusal
from pooltasks.node.intake.failures import Failure
from pooltasks.node.intake.gate import allowed
from pooltasks.node.intake.intake import Intake
from pooltasks.node.intake.request_class import use_our_requests
from pooltasks.node.readers import Readers

if TYPE_CHECKING:
    from kombu import Queue

logger = get_logger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 0.5
"""Seconds between two attempts to connect: what an attempt costs a server is little."""
_ADOPT_AGAIN = 10.0
"""Seconds after which what an earlier version left is looked for again, while its nodes run."""
_SHORT_ONES = 256
"""Short operations that a node may hold: about 25 ms of its own work."""
_UNION = 1.0
"""Seconds for which a node that starts waits for the others' answers, as Celery does."""
_REUNION = 0.2
"""Seconds for which one waits that comes back."""


class NodeMingle(Mingle):
    """Asks the other nodes what is revoked, as Celery's Mingle, before anything is consumed.

    Less long after an outage: the others were cut off too, and answer at once or
    not. And on a connection of its own: on the consumer's, every control command
    that arrives meanwhile makes Celery wait anew.
    """

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **{**options, "without_mingle": False})

    def send_hello(self, c: Any) -> Any:
        """Return the answer of each other node."""
        seconds = _REUNION if c.restart_count else _UNION
        # Celery closes a connection when the server has answered its last BRPOP.
        options = {**c.app.conf.broker_transport_options, "polling_interval": _REUNION / 2}
        with c.app.connection(transport_options=options) as connection:
            inspect = c.app.control.inspect(timeout=seconds, connection=connection)
            replies = inspect.hello(c.hostname, list(c.controller.state.revoked)) or {}
        replies.pop(c.hostname, None)
        return replies


class PoolConsumer:
    """What Celery takes for its consumer of messages: the intake.

    Args:
        intake: The node's.
        queue: The pool's queue.
    """

    def __init__(self, intake: Intake, queue: Queue) -> None:
        self._intake = intake
        self.queues = [queue]
        self.channel = intake
        self.on_message: Any = None

    def consume(self, *_: Any, **__: Any) -> None:
        """Have messages come."""
        self._intake.on_message = self.on_message

    def cancel(self) -> None:
        """Have no more messages come until Celery's consumer is ready again."""
        self._intake.on_message = None

    close = cancel

    def qos(self, prefetch_count: int = 0, **_: Any) -> None:
        """Set how many messages the node may hold if all its workers are warm; 0: no limit."""
        self._intake.prefetch_count = prefetch_count

    def consuming_from(self, queue: Any) -> bool:
        """Return whether a queue is the pool's."""
        return bool(str(getattr(queue, "name", queue)) == self.queues[0].name)

    def add_queue(self, queue: Any) -> None:
        """Refuse: a node serves exactly one pool."""
        raise ConfigurationError(
            f"This node serves {self.queues[0].name} and nothing else. Start another node for "
            f"{getattr(queue, 'name', queue)}."
        )

    def cancel_by_queue(self, queue: str) -> None:
        """Refuse: a node that is to take nothing more is drained."""
        raise ConfigurationError(
            f"A node consumes its pool's queue as long as it runs. To have it take no more from "
            f"{queue}, drain it: pooltasks drain POOL --node NAME."
        )


class MessageSource(bootsteps.StartStopStep):
    """Opens the node's session, and attaches the intake to the event loop."""

    requires = (Tasks,)
    _is_adopted = False

    def start(self, consumer: Any) -> None:
        """Open the session; it stays open when Celery's connection breaks."""
        intake = consumer.intake
        if not intake.session.is_open:
            intake.session.open()
        self._adopt(consumer)

    def _adopt(self, consumer: Any) -> None:
        """Take over what an earlier version left; again later while nodes of it run."""
        if self._is_adopted:
            return
        app, intake = consumer.app, consumer.intake
        separator = app.conf.broker_transport_options.get("sep")
        with impatient_client(app) as client:
            try:
                adoption = Adoption(client, intake.queue, key_prefix(app), separator)
                self._is_adopted = adoption.run()
            except RedisError as error:
                logger.warning("an earlier version's messages are looked for later: %s", error)
        if not self._is_adopted:
            consumer.timer.call_after(_ADOPT_AGAIN, self._adopt, (consumer,))

    @staticmethod
    def register_with_event_loop(consumer: Any, hub: Any) -> None:
        """Attach to the loop; called again after each reconnection."""
        consumer.intake.start(hub)


class NodeConsumer(Consumer):
    """Celery's consumer, which comes back soon and loses no message."""

    class Blueprint(Consumer.Blueprint):
        """Celery's steps, with a heartbeat that waits for nobody."""

        default_steps = (
            *(step for step in Consumer.Blueprint.default_steps if not step.endswith(":Heart")),
            "pooltasks.node.hearing:NodeHeart",
        )

    first_connection_attempt: bool
    intake: Intake | None = None
    """The source of messages; None with kombu's own transport."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial_prefetch_count *= self.pool.slots  # Celery counts workers
        self._hearing = Hearing()
        extension = self.app.pooltasks
        if extension.settings.broker_transport == "pooltasks":
            queue = keys.queue(extension.pool)
            self.intake = Intake(
                self.app,
                queue,
                extension.settings.pool_settings(extension.pool),
                partial(self._allowed, self.pool),
                state.revoked,
            )
            self.intake.needs_node = self._needs_node
            self.intake.on_lost = self._forget_what_has_not_begun
            self.intake.on_delivered = self.pool.hand_out
            # Results outlive the connection over which their operations came.
            self.intake.reservations.completion.results = self.pool.results
            self.pool.intake = self.pool.claims.intake = self.intake
            source = PoolConsumer(self.intake, self.app.amqp.queues[queue])
            self.app.amqp.TaskConsumer = lambda *_, **__: source

    def _allowed(self, pool: Any) -> int:
        multiplier = self.prefetch_multiplier * pool.slots
        assert self.intake is not None  # noqa: S101  for the type checker: it asks
        its = allowed(pool, multiplier, self.intake.prefetch_count)
        ahead = max(its, min(_SHORT_ONES, its * int(pool.depth())))
        return ahead + pool.gatherer.room() if its else 0

    def _needs_node(self) -> bool:
        """Return whether the node has to see each operation before it begins."""
        if state.revoked:
            state.revoked.purge()  # else those that have expired stay until the next one
        events = self.event_dispatcher
        tells = events is not None and events.enabled
        return (
            bool(state.revoked or state.revoked_stamps or signals.task_received.receivers)
            or bool(tells and (not events.groups or "task" in events.groups))
            or bool(self.on_task_message)
            or any(self.task_buckets.values())
        )

    def connect(self) -> Any:
        """Return the connection for remote control and events."""
        conn = self.connection_for_read(heartbeat=self.amqheartbeat)
        if self.hub:
            conn.transport.register_with_event_loop(conn.connection, Readers(self.hub))
            if self.intake is not None:
                self._hearing.watch(conn.transport.cycle, self.hub)
        return conn

    def ensure_connected(self, conn: Any) -> Any:
        """Return ``conn`` when it is connected, however long that takes.

        The log has the first failure, each new one, and the end of the outage.
        """
        conf = self.app.conf
        first = self.first_connection_attempt
        if not (conf.broker_connection_retry_on_startup if first else conf.broker_connection_retry):
            return super().ensure_connected(conn)
        begun = time.monotonic()
        said = set()

        def say(error: Exception, _: float) -> None:
            if str(error) not in said:
                said.add(str(error))
                logger.error(
                    "Cannot connect to %s: %s. Trying again until it answers.", conn.as_uri(), error
                )

        conn.ensure_connection(
            say,
            interval_start=_FIRST_PAUSE,
            interval_step=_FIRST_PAUSE,
            interval_max=_LONGEST_PAUSE,
            callback=state.maybe_shutdown,
        )
        if said:
            logger.warning(
                "Connected to %s after %.1f seconds.", conn.as_uri(), time.monotonic() - begun
            )
        self.first_connection_attempt = False
        return conn

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Return a connected connection that asks now and then whether its server is there."""
        options = {
            **self.app.conf.broker_transport_options,
            "health_check_interval": PING_SECONDS,
        }
        conn = self.app.connection_for_read(heartbeat=heartbeat, transport_options=options)
        return self.ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the connection; operations go on."""
        with warnings.catch_warnings():
            # It tells of a default of Celery 6, and that operations would be delivered again.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """Keep what is reserved: it does not hang on Celery's connection."""
        if self.intake is None:
            super().on_close()

    def _forget_what_has_not_begun(self) -> None:
        super().on_close()

    def _update_prefetch_count(self, index: int = 0) -> Any:
        """Have the prefetch count follow ``index`` more workers; Celery counts what they run."""
        return super()._update_prefetch_count(index * self.pool.slots)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Acceptance:
        """Return what takes messages: Celery's handler, with each message's faults its own."""
        return Acceptance(self, super().create_task_handler(*args, **kwargs))

    def update_strategies(self) -> None:
        """Make the strategies of all tasks, with requests that end in this node's pool."""
        refused = use_our_requests(self.app, self.pool)
        super().update_strategies()
        for name, why in refused.items():
            self.strategies[name] = partial(self._refuse_task, why)

    @staticmethod
    def _refuse_task(why: str, *_: Any, **__: Any) -> None:
        raise Refusal(f"rejected: {why}")

    def on_decode_error(self, message: Any, exc: Exception) -> None:  # noqa: ARG002  Celery's
        """Refuse what cannot be decoded."""
        raise Refusal(f"unreadable: {type(exc).__name__}: {exc}") from exc

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002  Celery's
        """Refuse what names no operation."""
        raise Refusal("unreadable: it names no operation")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002  Celery's
        """Refuse what names an operation that this pool does not have."""
        name, identifier = message.headers["task"], message.headers["id"]
        if self.event_dispatcher:
            self.event_dispatcher.send(
                "task-failed", uuid=identifier, exception=f"NotRegistered({name!r})"
            )
        signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=identifier)
        reason = (
            f"rejected: this node has no operation {name}: it was started before that was written, "
            "or imports does not name its module"
        )
        raise Refusal(reason, Failure("NotRegistered", name)) from exc

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002  Celery's
        """Refuse what cannot be run."""
        signals.task_rejected.send(sender=self, message=message, exc=exc)
        raise Refusal(f"rejected: {exc}") from exc
