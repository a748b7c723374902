"""Celery's own connection may fall silent without an end: a node must not wait for it.

kombu asks its server now and then whether it is there (``check_health``), and never looks
whether an answer has come. So a firewall that has forgotten the connection leaves a node
deaf for ever. And Celery sends a heartbeat again and again until it has arrived, while
its event loop stands still.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery.worker import heartbeat
from celery.worker.consumer import heart
from redis.exceptions import TimeoutError as TimedOutError

if TYPE_CHECKING:
    from pooltasks.broker.session import NodeSession

PING_SECONDS = 1.0
"""How long nothing may come from the server until kombu asks whether it is there."""
_LOOK_SECONDS = 0.5
_LATE_SECONDS = 0.3
"""How late an answer of the server may be while a heartbeat is sent."""
_ANSWER_SECONDS = 1.5


class Heartbeat(heartbeat.Heart):
    """Celery's heartbeat, sent once: the next one comes in two seconds.

    Args:
        session: The node's. While the server is late with an answer there, no heartbeat is
            sent: the event loop would stand still until kombu gives up.
        *arguments: Celery's.
    """

    def __init__(self, session: NodeSession, *arguments: Any) -> None:
        self._session = session
        super().__init__(*arguments)

    def _send(self, event: str, retry: bool = False) -> Any:  # noqa: ARG002  Celery's default is True
        if self._session.has_waited() > _LATE_SECONDS:
            return None
        return super()._send(event, retry=False)


class NodeHeart(heart.Heart):
    """Starts :class:`Heartbeat`, as Celery's step its own."""

    def start(self, c: Any) -> None:
        """Send heartbeats from now on."""
        if c.intake is None:  # messages come over kombu's connection
            super().start(c)
            return
        c.heart = Heartbeat(c.intake.session, c.timer, c.event_dispatcher, self.heartbeat_interval)
        c.heart.start()


class Hearing:
    """Looks at Celery's connection."""

    def __init__(self) -> None:
        self._timer: Any = None
        self._asked_at: float | None = None
        """When an unanswered question was first seen, in monotonic seconds."""

    def watch(self, cycle: Any, hub: Any) -> None:
        """Look at the channels of this connection of kombu's from now on, and at no others.

        Args:
            cycle: kombu's poller of the connection.
            hub: The event loop. It passes on the errors that are raised here, and Celery
                connects again.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._asked_at = None
        self._timer = hub.call_repeatedly(_LOOK_SECONDS, self._look, cycle)

    def _look(self, cycle: Any) -> None:
        # kombu makes the client of the subscriptions when it is first used.
        clients = [
            channel.__dict__["subclient"]
            for channel in cycle._channels  # noqa: SLF001  there is no other way to it
            if "subclient" in channel.__dict__
        ]
        now = time.monotonic()
        if not any(client.health_check_response_counter > 0 for client in clients):
            self._asked_at = None
        elif self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > _ANSWER_SECONDS:
            self._asked_at = None
            self._timer.cancel()
            raise TimedOutError("the server is silent on the connection of remote control")
