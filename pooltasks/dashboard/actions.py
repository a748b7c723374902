"""What operators can do to a pool, each an action with its arguments and its outcome in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from kombu.exceptions import OperationalError
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError

from pooltasks import remote
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.dashboard.audit import AuditLog, Done
from pooltasks.errors import DeadLetterNotFoundError, PooltasksError
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

_MOST_LETTERS = 1000


class ActionFailedError(PooltasksError):
    """An action could not be done, or not wholly."""


class Action(BaseModel):
    """An action on a pool; its fields are its arguments."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def run(self, app: Celery, pool: str) -> str:
        """Do it, and return what was done, in a sentence.

        Raises:
            ActionFailedError: It was not done, or not wholly.
            kombu.exceptions.OperationalError: The server cannot be reached.
            redis.RedisError: As above.
        """
        raise NotImplementedError


class Resize(Action):
    """Have so many workers serve the pool, split over its nodes."""

    size: int = Field(ge=0, le=100_000)

    def run(self, app: Celery, pool: str) -> str:
        """Tell every node its share."""
        nodes = _statuses(app, pool)
        bounds = [(status["floor"], status["ceiling"]) for status in nodes.values()]
        replies: dict[str, Any] = {}
        for name, share in remote.split(self.size, nodes).items():
            replies |= remote.ask(app, "pool_resize", [name], size=share)
        reached = sum(reply["size"] for reply in replies.values())
        if reached != self.size:
            low, high = (sum(bound) for bound in zip(*bounds, strict=True))
            raise ActionFailedError(
                f"The pool has {reached} workers, not {self.size}: its {len(nodes)} nodes allow "
                f"{low} to {high}, and {len(replies)} of them answered."
            )
        return f"The pool has {reached} workers."


class Warm(Action):
    """Have every worker run its warm-up again."""

    def run(self, app: Celery, pool: str) -> str:
        """Tell every node."""
        replies = remote.ask(app, "pool_warm", list(_statuses(app, pool)))
        return f"{len(replies)} nodes warm their workers up again; busy ones do it afterwards."


class Drain(Action):
    """Have a node take no more operations, or take them up again."""

    node: str = Field(min_length=1, max_length=255)
    undo: bool = False

    def run(self, app: Celery, pool: str) -> str:
        """Tell the node."""
        if self.node not in _statuses(app, pool):
            raise ActionFailedError(f"The pool has no node {self.node} that answers.")
        replies = remote.ask(app, "pool_drain", [self.node], undo=self.undo)
        if self.node not in replies:
            raise ActionFailedError(f"{self.node} does not answer.")
        if self.undo:
            return f"{self.node} takes operations."
        reserved = replies[self.node]["reserved"]
        return f"{self.node} takes nothing more; it still has {reserved} operations."


class Pause(Action):
    """Have the optimizer only watch for a while."""

    seconds: int = Field(ge=1, le=86_400)

    def run(self, app: Celery, pool: str) -> str:
        """Pause it."""
        Pool(pool, app).decisions().pause(self.seconds)
        return f"The optimizer only watches for {self.seconds} s."


class Resume(Action):
    """Have the optimizer act again."""

    def run(self, app: Celery, pool: str) -> str:
        """End the pause."""
        if not Pool(pool, app).decisions().resume():
            return "The optimizer was not paused."
        return "The optimizer acts again."


Letters = Annotated[list[str], Field(min_length=1, max_length=_MOST_LETTERS)]


class Retry(Action):
    """Send dead letters again."""

    letters: Letters

    def run(self, app: Celery, pool: str) -> str:
        """Send each once."""
        return self._each(app, pool, lambda store, letter: store.retry(letter), "sent again")

    def _each(
        self, app: Celery, pool: str, act: Callable[[DeadLetters, str], bool], done: str
    ) -> str:
        store = DeadLetters(redis_client(app), Pool(pool, app).queue)
        number = 0
        for letter in self.letters:
            try:
                number += act(store, letter)
            except DeadLetterNotFoundError:
                continue  # somebody else was faster: that is what the sentence says
        if number < len(self.letters):
            raise ActionFailedError(
                f"{number} of {len(self.letters)} {done}; the others are gone already."
            )
        return f"{number} {done}."


class Drop(Retry):
    """Delete dead letters."""

    def run(self, app: Celery, pool: str) -> str:
        """Delete each."""
        return self._each(app, pool, lambda store, letter: store.drop(letter), "deleted")


def carry_out(app: Celery, pool: str, action: Action, user: str, address: str) -> Done:
    """Do an action, and write it to the audit of the pool.

    Args:
        app: The application.
        pool: The pool's name.
        action: What to do.
        user: Who wants it.
        address: From where.

    Raises:
        redis.RedisError: The action, done or not, is in the log of this process only.
    """
    try:
        outcome, succeeded = action.run(app, pool), True
    except ActionFailedError as error:
        outcome, succeeded = str(error), False
    except (OperationalError, RedisError):
        outcome, succeeded = "The server does not answer.", False
    name = type(action).__name__.lower()
    done = Done(user, address, name, action.model_dump(), outcome, succeeded)
    AuditLog(redis_client(app), pool).add(done)
    return done


ACTIONS: dict[str, type[Action]] = {
    its.__name__.lower(): its for its in (Resize, Warm, Drain, Pause, Resume, Retry, Drop)
}


def _statuses(app: Celery, pool: str) -> dict[str, Any]:
    nodes = {
        name: status
        for name, status in remote.ask(app, "pool_status").items()
        if status["pool"] == pool
    }
    if not nodes:
        raise ActionFailedError("No node of this pool answers.")
    return nodes
