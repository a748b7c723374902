"""The operation that beat sends once a second: every pool's optimizer takes a turn.

It runs in the control pool, a queue and a process of its own, so that it never
waits behind the backlog that it is to cure.
"""

from __future__ import annotations

import inspect
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError

from pooltasks import keys
from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.broker.queues import lists_of
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.rollout_store import with_rollouts
from pooltasks.optimizer.controller import PATIENCE, Controller
from pooltasks.optimizer.rollouts import look_after
from pooltasks.task import Operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from pooltasks.settings import Settings

logger = get_logger(__name__)

NAME = "pooltasks.optimizer.tick"
_MOST_WAITING = 2
_A_DAY = 86400.0


class Tick(Operation):
    """An operation that is not worth publishing while others like it wait.

    Without a control node they would pile up, 86,400 a day, and the node would
    have to get through all of them when it is back.
    """

    abstract = True
    _is_away = False
    _tracer: Any = None

    @property
    def __trace__(self) -> Any:
        """Return the tracer without the wrappers of tools, which would tell of every tick."""
        return self._tracer

    @__trace__.setter
    def __trace__(self, tracer: Any) -> None:
        self._tracer = inspect.unwrap(tracer) if tracer is not None else None

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Publish it, unless the control pool is behind or the server away; then return None."""
        try:
            client = redis_client(self.app)
            queue = lists_of(self.app, keys.queue(CONTROL_POOL))
            if sum(int(client.llen(name)) for name in queue) >= _MOST_WAITING:
                return None
            result = super().apply_async(*args, **{**options, "retry": False})
        except (redis.RedisError, OperationalError) as error:
            # Once an outage: beat would show where it stood, once a second.
            if not self._is_away:
                logger.warning("the optimizer is not called while the server is away: %s", error)
            self._is_away = True
            return None
        if self._is_away:
            logger.warning("the optimizer is called again")
        self._is_away = False
        return result


@shared_task(
    base=Tick,
    bind=True,
    name=NAME,
    pool=CONTROL_POOL,
    serializer=SERIALIZER,
    ignore_result=True,
    # The next one comes anyway; and one of yesterday is as good as a new one.
    acks_late=False,
    timeout=5.0,
    checkout_timeout=_A_DAY,
)
def tick(self: Tick) -> None:
    """Have each pool that is to be optimized take its turn, and look after rollouts."""
    until = time.monotonic() + PATIENCE
    for pool in optimized(settings_of(self.app)):
        with _alone(pool, "its optimizer's turn"):
            Controller(self.app, pool).tick(until)
    for pool in _rolling(self.app):
        with _alone(pool, "the look at its rollout"):
            look_after(self.app, pool)


@contextmanager
def _alone(pool: str, what: str) -> Iterator[None]:
    """Have what goes wrong with one pool not keep the others from their turns."""
    try:
        yield
    except SoftTimeLimitExceeded:
        raise  # the next tick waits behind this one
    except redis.RedisError as error:
        logger.warning("pool %s: %s failed: %s", pool, what, error)
    except Exception:
        logger.exception("pool %s: %s failed", pool, what)


def _rolling(app: Celery) -> list[str]:
    """Return the pools with a rollout; none while the server does not say."""
    pools = [name for name in settings_of(app).pools if name != CONTROL_POOL]
    try:
        return with_rollouts(redis_client(app), pools)
    except redis.RedisError as error:
        logger.warning("rollouts are not looked after: %s", error)
        return []


def optimized(settings: Settings) -> list[str]:
    """Return the pools that the optimizer sizes."""
    return [
        name
        for name, pool in settings.pools.items()
        if pool.enable_optimizer and name != CONTROL_POOL
    ]


class Quiet(logging.Filter):
    """Leaves out of the log that a tick was sent, received and done: once a second is no news."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is worth a line."""
        return record.levelno > logging.INFO or NAME not in record.getMessage()


for _chatty in ("celery.beat", "celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(_chatty).addFilter(Quiet())
