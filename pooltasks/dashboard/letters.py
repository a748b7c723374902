"""Dead letters as the pages show them."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pooltasks.broker.dead_letters import DeadLetters

MOST = 500
"""Letters in a list; the search finds the others."""
_SHORT, _LONG = 300, 100_000
"""Characters of a text in a list, and where it is shown whole."""


def listed(store: DeadLetters, reason: str, operation: str) -> dict[str, Any]:
    """Return the latest letters that match, and how many do.

    Args:
        store: The letters of a pool.
        reason: What their reason contains, whatever its case.
        operation: What the operation's name contains.

    Raises:
        redis.RedisError: The server does not answer.
    """
    letters = [
        letter
        for letter in store.list(reason=reason)
        if operation.lower() in (letter.operation or "").lower()
    ]
    return {
        "matching": len(letters),
        "letters": [
            {name: _cut(value, _SHORT) for name, value in asdict(letter).items()}
            for letter in letters[:MOST]
        ],
    }


def shown(store: DeadLetters, identifier: str) -> dict[str, Any]:
    """Return a letter with its ``message``, and the ``arguments`` in it if they can be read.

    Raises:
        DeadLetterNotFoundError: There is no such letter.
        redis.RedisError: The server does not answer.
    """
    letter, message = store.show(identifier)
    texts = {
        **asdict(letter),
        "message": message.decode(errors="backslashreplace"),
        "arguments": _arguments(message),
    }
    return {name: _cut(value, _LONG) for name, value in texts.items()}


def _arguments(message: bytes) -> str | None:
    try:
        body = json.loads(base64.b64decode(json.loads(message)["body"], validate=True))
        args, kwargs, _ = body
        return json.dumps({"args": args, "kwargs": kwargs}, indent=2, ensure_ascii=False)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # whoever sent it wrote it in another way, or it is not readable at all


def _cut(value: Any, most: int) -> Any:
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]}… ({len(value):,} characters)"
    return value
