"""The text of messages and dead letters that may be told: secrets masked."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pooltasks.broker.dead_letters import Attempt
from pooltasks.metrics.error_text import MASK, is_secret, masked, told_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery

    from pooltasks.broker.dead_letters import DeadLetter

_OF_ARGUMENTS = ("argsrepr", "kwargsrepr")
"""Headers in which Celery's clients repeat the arguments, without the names of the first ones."""


def told_letter(letter: DeadLetter) -> DeadLetter:
    """Return a dead letter whose reason and errors hold no secret that can be recognized."""
    return replace(
        letter,
        reason=masked(letter.reason),
        history=masked_attempts(letter.history),
    )


def masked_attempts(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return failed attempts whose errors hold no secret that can be recognized."""
    return [Attempt(at=each["at"], error=masked(each["error"])) for each in attempts]


def told_message(message: bytes) -> str:
    """Return a message as it was in the queue, without its body, which holds the arguments.

    Secrets are masked. The server has the whole message.
    """
    try:
        payload = json.loads(message)
    except (ValueError, RecursionError):
        return masked(message.decode(errors="backslashreplace"))
    if isinstance(payload, dict) and isinstance(payload.get("body"), str):
        payload["body"] = f"({len(payload['body']):,} characters)"
    try:
        return json.dumps(_told(payload), indent=2, ensure_ascii=False)
    except RecursionError:
        return "(too deep to be shown)"


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: MASK if name in _OF_ARGUMENTS or is_secret(name) else _told(its)
            for name, its in value.items()
        }
    if isinstance(value, list):
        return [_told(its) for its in value]
    return masked(value) if isinstance(value, str) else value


def arguments_in(app: Celery, message: bytes) -> str | None:
    """Return the arguments in a message, as :func:`told_of` does; None if they cannot be read."""
    try:
        payload = json.loads(message)
        headers = payload["headers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return arguments_of(app, payload) if isinstance(headers, dict) else None


def arguments_of(app: Celery, payload: Mapping[str, Any]) -> str | None:
    """Return the same of a message that is decoded."""
    try:
        args, kwargs, _ = json.loads(base64.b64decode(payload["body"], validate=True))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # encrypted, compressed, or of a plain Celery client
    return told_of(app, payload["headers"].get("task"), args, kwargs)


def told_of(app: Celery, name: Any, args: Any, kwargs: Any) -> str | None:
    """Return the arguments of a call as ``name=value``, cut, without the values that are secret.

    Args:
        app: The application.
        name: The operation's.
        args: The positional ones.
        kwargs: The others.
    """
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        return None
    task = app.tasks.get(name)
    if task is not None:
        return told_arguments(task.run, args, kwargs)
    # Where the function is not imported, its parameters have no names that would tell a secret.
    return ", ".join([*("…" for _ in args), told_arguments(None, (), kwargs)]).rstrip(", ")
