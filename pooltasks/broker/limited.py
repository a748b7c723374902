"""The operations that the limits of a pool hold back now, for commands and pages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pooltasks import keys
from pooltasks.broker.limit_store import Limit
from pooltasks.broker.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

_READ = Script("choice.lua", "limited.lua")
_OF_AN_OPERATION = 3
_OF_A_KEY = 6


@dataclass(frozen=True)
class LimitedOperation:
    """How the calls of an operation with limits stand, those of all keys together."""

    operation: str
    running: int
    held: int
    """Back, by its limits."""


@dataclass(frozen=True)
class LimitedKey:
    """How those with one key stand."""

    operation: str
    key: str
    """Empty if all calls of the operation are counted together."""
    running: int
    held: int
    since: float | None
    """Server time in seconds at which the first that is held was published or due; None if none
    is held, or that is not known."""
    limit: Limit
    is_changed: bool
    """Whether the limit is another one than in the code."""


def ask(client: Any, pool: str, most: int) -> Any:
    """Ask for what :func:`operations` and :func:`top_keys` read.

    Args:
        client: A client of the server, with ``decode_responses=False``, or a pipeline.
        pool: The pool's name.
        most: How many keys to return; 0: none are looked for.
    """
    queue = keys.queue(pool)
    names = [keys.flow(queue, name) for name in ("held", "messages", "running", "limits")]
    return client.eval(_READ.text, len(names), *names, most)


def operations(answer: Any) -> list[LimitedOperation]:
    """Return the operations with limits that the pool's nodes have told of, by name."""
    its = (
        LimitedOperation(unquote(name.decode()), running, held)
        for name, running, held in _groups(answer[0], _OF_AN_OPERATION)
    )
    return sorted(its, key=lambda each: each.operation)


def top_keys(answer: Any) -> list[LimitedKey]:
    """Return the keys that have something to run, that of which most is held first."""
    found = []
    for flow, running, held, since, limit, is_changed in _groups(answer[1], _OF_A_KEY):
        operation, _, key = flow.decode().partition("/")
        found.append(
            LimitedKey(
                unquote(operation),
                unquote(key),
                running,
                held,
                _moment(since),
                Limit.of(limit.decode()),
                bool(is_changed),
            )
        )
    return found


def read_top_keys(client: redis.Redis, pool: str, most: int) -> list[LimitedKey]:
    """Read the keys of which most is held back.

    Args:
        client: A client of the server, with ``decode_responses=False``.
        pool: The pool's name.
        most: How many.

    Raises:
        redis.RedisError: The server does not answer.
    """
    return top_keys(ask(client, pool, most))


def _groups(parts: list[Any], size: int) -> Iterator[tuple[Any, ...]]:
    return zip(*[iter(parts)] * size, strict=True)


def _moment(text: bytes) -> float | None:
    try:
        moment = float(text)
    except ValueError:
        return None
    return moment if math.isfinite(moment) else None
