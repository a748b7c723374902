"""What is taken for a message, and for an operation: whatever else waits in a queue is set aside.

Anyone who reaches the server can push anything. What Celery reads in the node
is checked here; what only a worker reads can harm no more than its operation.
"""

from __future__ import annotations

import json
from typing import Any

from pooltasks.broker.serialization import MAX_MESSAGE_BYTES

_LARGEST = MAX_MESSAGE_BYTES * 3 // 2
"""Bytes of a message: its body as base64, four bytes for three, and its headers."""
_END_OF_TIME = 1e11
"""Seconds since the epoch: the year 5138."""
_LONGEST = 1e9
"""Seconds; longer limits are nonsense, and timers cannot count them."""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def read(message: bytes) -> dict[str, Any]:
    """Return a message as kombu expects it.

    Raises:
        Exception: It is none; of any class, as whatever reads it finds out.
    """
    if len(message) > _LARGEST:
        raise ValueError(f"it has {len(message):,} bytes; the limit is {_LARGEST:,}")
    payload: dict[str, Any] = _decode(message.decode())
    if not isinstance(payload["headers"], dict):
        raise TypeError("its headers are no table")
    if not isinstance(payload["body"], str):
        raise TypeError("its body is no text")
    return payload


def check_operation(payload: dict[str, Any]) -> None:
    """Check that a message names an operation that could be run.

    Raises:
        Exception: It does not.
    """
    headers = payload["headers"]
    for header in ("task", "id"):
        if not isinstance(headers.get(header), str):
            raise TypeError(f"its header {header!r} is no text")
    headers["id"].encode()  # a lone surrogate would be in no key of the server
    if headers.get("compression") is not None:
        # A few bytes of it may be gigabytes, and kombu would unpack them all here.
        raise ValueError("it is compressed, which pools do not read")
    if not isinstance(headers.get("retries", 0), int | None):
        raise TypeError("its header 'retries' is no number")
    deadline = headers.get("deadline")
    if isinstance(deadline, int | float) and abs(deadline) > _END_OF_TIME:
        raise ValueError("its header 'deadline' is no time")
    limits = headers.get("timelimit")
    if limits and not (
        isinstance(limits, list) and len(limits) == 2 and all(map(_is_limit, limits))  # noqa: PLR2004
    ):
        raise ValueError("its header 'timelimit' is not two numbers of seconds")


def _is_limit(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value < _LONGEST)
