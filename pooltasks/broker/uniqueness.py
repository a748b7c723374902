"""Uniqueness: of the calls of an operation with the same key, one waits or runs at a time.

The key of a call is a digest of its operation's name and of the arguments that
``@operation(unique=…)`` names. The call that has it holds a *lock* at the server: a string
with its id, taken in the step that publishes it (``admit.lua``) and given free in the step
that stores its result and acknowledges it (``complete.lua``), or makes it a dead letter
(``bury.lua``). So a lock goes where its operation goes: into the unacked hash of a node, and
with a dead node's reservations back to the queue. It ends by itself when its operation cannot
be started any more, because its deadline has passed: a queue that was purged leaves nothing.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kombu.utils import json

from pooltasks.broker.arguments import arguments_of, names_of_arguments
from pooltasks.broker.scripts import Script
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pooltasks.broker.names import Names

Until = Literal["start", "finish"]
HEADER = "unique"
"""Header of a message: digest, server time in ms until which it is unique at least, until when."""
UNLOCK = Script("unlock.lua", tail="unlock(KEYS[1], ARGV[1], ARGV[2])")

_DIGITS = 32
_UNTIL = ("start", "finish")
_LATEST = 1e14
"""Milliseconds since the epoch: the year 5138."""
_CLEAN_UP = 10.0
"""Seconds for which an operation may run on after its deadline, unless a longer limit is given."""
_MARGIN = 60.0
"""Seconds for which a lock outlives the latest end of its operation."""


class Unique(NamedTuple):
    """The rule by which calls of an operation are the same, and for how long."""

    arguments: tuple[str, ...] | None
    """Names of the arguments that are compared; None: all of them."""
    until: Until = "finish"
    seconds: float = 0.0
    """For how long a call keeps others like it away at least, from its publication on."""

    def digest(self, operation: Any, args: Any, kwargs: Any) -> str:
        """Return a text that all calls of ``operation`` with the same arguments share.

        Raises:
            TypeError: The arguments do not fit the operation.
            kombu.exceptions.EncodeError: They are not JSON.
        """
        chosen = arguments_of(operation.run, args, kwargs)
        if self.arguments is not None:
            chosen = {name: chosen[name] for name in self.arguments}
        text = json.dumps([operation.name, sorted(chosen.items())], sort_keys=True)
        return sha256(text.encode()).hexdigest()[:_DIGITS]

    def header(self, digest: str, published_at: float) -> list[Any]:
        """Return the header of a message.

        Args:
            digest: Of the call.
            published_at: Server time in seconds.
        """
        till = int((published_at + self.seconds) * 1000) if self.seconds else 0
        return [digest, till, self.until]


def unique_of(
    function: Callable[..., Any],
    unique: bool | str | tuple[str, ...],
    until: Until,
    seconds: float | None,
    *,
    is_method: bool,
) -> Unique | None:
    """Return the rule of ``@operation(unique=…, unique_until=…, unique_for=…)``; None: no rule.

    Args:
        function: The operation's.
        unique: Names of arguments; True: all.
        until: Until when.
        seconds: ``unique_for``.
        is_method: Whether the first argument is the task itself.

    Raises:
        ConfigurationError: It makes no sense.
    """
    if until not in _UNTIL:
        raise ConfigurationError(
            f"@operation: unique_until is {until!r}; allowed: 'start' or 'finish'."
        )
    if seconds is not None and seconds <= 0:
        raise ConfigurationError(f"@operation: unique_for is {seconds}; allowed: seconds above 0.")
    if unique is False:
        if seconds is not None:
            raise ConfigurationError(
                "@operation: unique_for says for how long, and unique does not say what. "
                "Add unique=True, or the names of the arguments that are compared."
            )
        return None
    if unique is True:
        return Unique(None, until, seconds or 0.0)
    names = (unique,) if isinstance(unique, str) else tuple(unique)
    known = names_of_arguments(function, is_method=is_method)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigurationError(
            f"@operation: unique names {', '.join(map(repr, unknown)) or 'no argument'}; allowed: "
            f"True, or arguments of {function.__name__}: {', '.join(known) or 'it has none'}."
        )
    return Unique(names, until, seconds or 0.0)


def lasts_until(headers: Mapping[str, Any]) -> float:
    """Return when a lock ends by itself, in seconds since the epoch by the server's clock.

    No attempt of an operation starts after its deadline or outlives its time limit.
    Each retry takes the lock anew.

    Args:
        headers: Of the message.
    """
    hard, _ = headers.get("timelimit") or (None, None)
    deadline: float = headers["deadline"]
    till: float = headers[HEADER][1] / 1000
    return max(deadline + max(hard or 0.0, _CLEAN_UP) + _MARGIN, till)


def _is_digest(text: str) -> bool:
    return len(text) == _DIGITS and text.isascii() and text.isalnum()


class Lock(NamedTuple):
    """The lock that a reserved operation has."""

    key: str
    owner: str
    """The owner, as the server has it."""
    till: int
    """Server time in ms until which the key stays unique in any case."""
    is_free_at_start: bool

    @classmethod
    def of(cls, headers: Mapping[str, Any], names: Names) -> Lock | None:
        """Return the lock of a message with the header; None if the header is nonsense.

        Args:
            headers: Of the message.
            names: The keys of the pool.
        """
        match headers[HEADER]:
            case [str(digest), int(till), str(until)] if _is_digest(digest) and 0 <= till < _LATEST:
                owner = f"{headers['id']}:{headers.get('retries') or 0}"
                return cls(names.unique(digest), owner, till, until == "start")
        return None

    def command(self) -> bytes:
        """Return the command that frees it, as it is sent."""
        return UNLOCK.call((self.key,), (self.owner, self.till))
