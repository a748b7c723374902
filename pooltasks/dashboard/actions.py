"""The actions of operators on a pool, each with its arguments and its outcome in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from kombu.exceptions import OperationalError
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError

from pooltasks import remote, rollout_by_hand
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.dashboard.audit import AuditLog, Done
from pooltasks.errors import DeadLetterNotFoundError, PooltasksError, RolloutRefusedError
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.metrics.rollout import Rollout

_MOST_LETTERS = 1000
_SERVER_AWAY = (OperationalError, RedisError)
_NEXT_WORD = re.compile(r"(?<!^)([A-Z])")


class ActionFailedError(PooltasksError):
    """An action could not be done, or not wholly."""


class Action(BaseModel):
    """An action on a pool; its fields are its arguments."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def named(cls) -> str:
        """Return its name as the audit has it, in words."""
        return _NEXT_WORD.sub(r" \1", cls.__name__).lower()

    def run(self, app: Celery, pool: str) -> str:
        """Do it, and return a sentence about it.

        Raises:
            ActionFailedError: It was not done, or not wholly.
            RolloutRefusedError: It was not done.
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
        low = sum(status["floor"] for status in nodes.values())
        high = sum(status["ceiling"] for status in nodes.values())
        if not low <= self.size <= high:
            raise ActionFailedError(
                f"Nothing was changed: {_nodes(len(nodes))} allow {low} to {high} workers "
                "(min_pool_size, max_pool_size)."
            )
        replies: dict[str, Any] = {}
        for name, share in remote.split(self.size, nodes).items():
            try:
                replies |= remote.ask(app, "pool_resize", [name], size=share)
            except _SERVER_AWAY as error:
                raise ActionFailedError(
                    f"{len(replies)} of {_nodes(len(nodes))} were told their size; then the "
                    f"server {remote.server_name(app)} did not answer, and {name} may have been "
                    "told."
                ) from error
        reached = sum(reply["size"] for reply in replies.values())
        if reached != self.size:
            raise ActionFailedError(
                f"The pool has {_counted(reached, 'worker')}, not {self.size}: {len(replies)} of "
                f"{_nodes(len(nodes))} answered."
            )
        return f"The pool has {_counted(reached, 'worker')}."


class Warm(Action):
    """Have every worker run its warm-up again."""

    def run(self, app: Celery, pool: str) -> str:
        """Tell every node."""
        replies = remote.ask(app, "pool_warm", list(_statuses(app, pool)))
        return (
            f"The workers of {_nodes(len(replies))} warm up again; a busy one does so after its "
            "operation."
        )


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
            return f"{self.node} takes operations again."
        reserved = replies[self.node]["reserved"]
        if not reserved:
            return f"{self.node} is drained: it takes no operations and has none."
        noun = "operation" if reserved == 1 else "operations"
        return f"{self.node} takes no more operations; it still has {reserved} {noun} to finish."


class Pause(Action):
    """Have the optimizer only watch for a while."""

    seconds: int = Field(ge=1, le=86_400)

    def run(self, app: Celery, pool: str) -> str:
        """Pause it."""
        Pool(pool, app).decisions().pause(self.seconds)
        return f"The optimizer is paused for {self.seconds} s: the pool keeps its size."


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
                continue  # another operator was faster: the sentence says so
            except _SERVER_AWAY as error:
                raise ActionFailedError(
                    f"{number} of {len(self.letters)} {done}; then the server "
                    f"{remote.server_name(app)} did not answer, and {letter} may be, too."
                ) from error
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


class RolloutStart(Action):
    """Begin to roll a new version out."""

    version: str

    def run(self, app: Celery, pool: str) -> str:
        """Begin it."""
        rollout_by_hand.check_version(self.version)
        before = rollout_by_hand.version_before(app, pool, self.version)
        return _sentence(rollout_by_hand.start(app, pool, self.version, before))


class _OnRollout(Action):
    """Something that is done to the rollout that the operator sees."""

    version: str
    share: int = Field(ge=0, le=100)

    def run(self, app: Celery, pool: str) -> str:
        """Do it, if the rollout still is as the operator has seen it."""
        its = rollout_by_hand.store_of(app, pool).read()
        if its is None:
            raise ActionFailedError(f"{pool} has no rollout any more; nothing was changed.")
        if (its.version, its.share) != (self.version, self.share):
            raise ActionFailedError(
                f"Nothing was changed, as the rollout has gone on: {its.sentence()}."
            )
        return _sentence(self.lead(app, pool, its))

    def lead(self, app: Celery, pool: str, seen: Rollout) -> str:
        """Do it; return a sentence."""
        raise NotImplementedError


class RolloutPromote(_OnRollout):
    """Take the next step now."""

    def lead(self, app: Celery, pool: str, seen: Rollout) -> str:
        """Take it."""
        return f"{rollout_by_hand.promote(app, pool, seen)}."


class RolloutPause(_OnRollout):
    """Have the new version keep its share, or go on by itself again."""

    undo: bool = False

    def lead(self, app: Celery, pool: str, seen: Rollout) -> str:
        """Pause it, or end the pause."""
        act = rollout_by_hand.go_on if self.undo else rollout_by_hand.pause
        return act(app, pool, seen)


class RolloutAbort(_OnRollout):
    """Give all operations back to the version before."""

    def lead(self, app: Celery, pool: str, seen: Rollout) -> str:
        """Roll it back."""
        return rollout_by_hand.abort(app, pool, seen)


class RolloutForget(_OnRollout):
    """Have nodes of every version take operations again, after a rollout."""

    def lead(self, app: Celery, pool: str, seen: Rollout) -> str:
        """Forget the rollout."""
        return rollout_by_hand.forget(app, pool, seen)


def carry_out(app: Celery, pool: str, action: Action, user: str, address: str) -> Done:
    """Do an action, and write it to the audit of the pool.

    Args:
        app: The application.
        pool: The pool's name.
        action: The action.
        user: Name of the operator.
        address: Address that the operator's request came from.

    Raises:
        redis.RedisError: The action, done or not, is in the log of this process only.
    """
    try:
        outcome, succeeded = action.run(app, pool), True
    except (ActionFailedError, RolloutRefusedError) as error:
        outcome, succeeded = str(error), False
    except _SERVER_AWAY:
        outcome, succeeded = f"The server {remote.server_name(app)} does not answer.", False
    done = Done(user, address, action.named(), action.model_dump(), outcome, succeeded)
    AuditLog(redis_client(app), pool).add(done)
    return done


ACTIONS: dict[str, type[Action]] = {
    its.named().replace(" ", "-"): its
    for its in (
        *(Resize, Warm, Drain, Pause, Resume, Retry, Drop),
        *(RolloutStart, RolloutPromote, RolloutPause, RolloutAbort, RolloutForget),
    )
}
"""The actions by the last part of their address."""


def _statuses(app: Celery, pool: str) -> dict[str, Any]:
    nodes = {
        name: status
        for name, status in remote.ask(app, "pool_status").items()
        if status["pool"] == pool
    }
    if not nodes:
        raise ActionFailedError("No node of this pool answers.")
    return nodes


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _nodes(number: int) -> str:
    return _counted(number, "node")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
