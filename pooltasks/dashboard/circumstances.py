"""Circumstances: what is wrong around a pool, in words, each with what to do about it.

And what its dead letters tell.
"""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.error_text import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pooltasks.broker.dead_letters import Attempt, DeadLetter
    from pooltasks.metrics.surroundings import ServerMemory, Surroundings

_MIB = 2**20
_LONGEST = 200
"""Characters of a reason in a sentence."""


MORE_MEMORY = (
    "Give it more memory: redis-cli config set maxmemory SIZE, and the same in its configuration"
)


def full_server(memory: ServerMemory) -> str:
    """Return what a server without memory does."""
    return (
        f"the server's memory is full ({memory.used / _MIB:,.1f} MiB of {memory.limit / _MIB:,.1f} "
        "MiB): it refuses operations, results and samples"
    )


def start_node(application: str, pool: str) -> str:
    """Return the command that starts a node."""
    return f"celery -A {quote(application)} worker -Q pool.{pool}"


def start_beat(application: str) -> str:
    """Return the command that starts beat."""
    return f"celery -A {quote(application)} beat"


def circumstances(application: str, pool: str, its: Surroundings) -> Iterator[tuple[str, str]]:
    """Return what keeps a pool from being sized as it should, and who floods it.

    Args:
        application: The name by which Celery's commands know the application.
        pool: The pool.
        its: What the pool depends on.
    """
    if its.wanted is not None:
        rooms = ", ".join(
            f"{_short(node)} has memory and processors for {room}"
            for node, room in sorted(its.full.items())
        )
        yield (
            f"the optimizer wants {its.wanted} workers, and the hosts are full: {rooms}",
            f"Start a node on another host: {start_node(application, pool)}",
        )
    if its.undecided is not None:
        yield (
            (
                f"the optimizer has stopped: it has decided nothing for {its.undecided:.0f} s, and "
                "the pool keeps its size"
            ),
            (
                f"Start beat ({start_beat(application)}), or the control node "
                f"({start_node(application, CONTROL_POOL)})"
            ),
        )
    if its.flood is not None:
        flood = its.flood
        said = (
            f"{flood.waiting:,} of the {flood.of:,} operations that wait are {flood.operation} "
            f"of {flood.key!r}"
        )
        if flood.is_held:
            yield (
                f"{said}; their limit holds them back, and nobody waits for them",
                f"Look at the limit: pooltasks limit {pool}",
            )
        else:
            yield (
                said,
                (
                    f"Hold it back: pooltasks limit {pool} {flood.operation} "
                    f"key={quote(flood.key)} --concurrency 1"
                ),
            )


def _short(node: str) -> str:
    return node.rpartition("/")[0] or node


def recent_dead(letters: Iterable[DeadLetter], since: float) -> list[DeadLetter]:
    """Return the letters that were set aside after a moment."""
    return [letter for letter in letters if letter.at > since]


def last_reason(letters: Sequence[DeadLetter]) -> str | None:
    """Return why the last of some operations became a dead letter; None of none."""
    if not letters:
        return None
    letter = max(letters, key=lambda its: its.at)
    text = " ".join(masked(letter.reason).split())
    if letter.operation and letter.operation not in text:
        text = f"{letter.operation}: {text}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def unseen(letters: Iterable[DeadLetter]) -> int:
    """Return how many of these operations no worker has counted as failed.

    What raised in the end is the last of its letter's attempts. A message that could
    not be read has none, and one that killed its worker has not raised.
    """
    return sum(not letter.history or _is_loss(letter.history[-1]) for letter in letters)


def _is_loss(attempt: Attempt) -> bool:
    return attempt["error"].startswith("WorkerLostError(")
