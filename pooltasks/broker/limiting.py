"""Limits by key: how many of a key run at once in a pool, and start in a time; and turns of keys.

The *key* of a call is the value of the argument that ``@operation(key=…)`` names; without one,
the limits hold for the operation as a whole. The key stands at the head of the message, where the
script that reserves it sees it (``limits.lua``): there it is counted, or held back. A message
that comes without one, from a stock client, gets it from the first node that reserves it.

The keys of a fair operation are served one after the other (``turns.lua``).
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from kombu.utils import json

from pooltasks.broker.arguments import arguments_of, names_of_arguments
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HEADER = "flow"
"""The header that holds the key of a message that is being published."""

LOWEST_WEIGHT, HIGHEST_WEIGHT = 0.01, 100
"""Bounds of a key's weight; a key has the weight 1 unless it is given another."""

_RATE = re.compile(r"(\d+(?:\.\d+)?)/(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_AT_ONCE = 0.1
"""Seconds of a rate whose operations may start at once, unless ``burst`` says otherwise."""
_LONGEST = 300
"""Characters of a key; a longer one is replaced by its digest."""
_SAFE = "@:+,=~"
_HEAD = 500
"""Bytes at the beginning of a message in which its key is."""
_MARK = b'"flow": "'
_DELIVERIES = re.compile(rb'{"deliveries": \d+,')


class Limits(NamedTuple):
    """The default limits of an operation's calls."""

    key: str | None = None
    """The argument by whose value is counted; None: all calls together."""
    concurrency: int | None = None
    """How many run at once at the most, in the whole pool."""
    rate: float | None = None
    """How many start in a second at the most, in the long run."""
    burst: int | None = None
    """How many of them may start at once."""
    fair: bool = False
    """Whether its keys take turns."""
    weights: tuple[tuple[str, float], ...] = ()
    """Keys with a weight of their own: the value, as it stands in a key, and the weight."""

    def flow(self, operation: Any, args: Any, kwargs: Any) -> str:
        """Return the key of a call, as it stands in its message.

        Raises:
            TypeError: The arguments do not fit the operation.
            kombu.exceptions.EncodeError: The value is not JSON.
        """
        name = quoted(operation.name)
        if self.key is None:
            return f"{name}/"
        return flow_of(name, arguments_of(operation.run, args, kwargs)[self.key])

    def text(self) -> str:
        """Return them as the server has them.

        That is how many run, ms between starts, starts at once; and the weight of turns if there
        are any.
        """
        burst = None
        if self.rate is not None:
            burst = self.burst or bursts(self.rate)
        every = None if self.rate is None else f"{1000 / self.rate:.6f}"
        its = (self.concurrency, every, burst, *([1] if self.fair else []))
        return " ".join("-" if each is None else str(each) for each in its)

    def fields(self, name: str) -> dict[str, str]:
        """Return what a node writes to the limits of its pool.

        Args:
            name: The operation's.
        """
        fields = {f"code {quoted(name)}": self.text()}
        if self.fair:
            each = (f" {value};{weight:g}" for value, weight in self.weights)
            fields[f"weights {quoted(name)}"] = "".join(each)
        return fields


def quoted(name: str) -> str:
    """Return the name of an operation as it stands in a key."""
    return quote(name, safe=_SAFE)


def flow_of(name: str, value: Any) -> str:
    """Return the key of an operation's calls whose argument has this value."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    flow = f"{name}/{quote(text, safe=_SAFE)}"
    if len(flow) > _LONGEST:
        flow = f"{name}/sha256={sha256(text.encode()).hexdigest()}"
    return flow


def limits_of(
    function: Callable[..., Any],
    key: str | None,
    concurrency: int | None,
    rate: str | None,
    burst: int | None,
    *,
    fair: bool = False,
    weights: Mapping[Any, float] | None = None,
    is_method: bool,
) -> Limits | None:
    """Return what ``@operation(key=…, concurrency=…, rate=…, burst=…, fair=…)`` says; or None.

    Args:
        function: The operation's.
        key: The name of an argument.
        concurrency: How many run at once.
        rate: How many start in a second, a minute or an hour, as ``"100/s"``.
        burst: How many of them may start at once.
        fair: Whether keys take turns.
        weights: Of some keys' turns, by the value of the argument.
        is_method: Whether the first argument is the task itself.

    Raises:
        ConfigurationError: It makes no sense.
    """
    if weights is not None and not fair:
        raise ConfigurationError("@operation: weights are of turns. Add fair=True and a key.")
    if all(each is None for each in (key, concurrency, rate, burst)) and not fair:
        return None
    for name, value in (("concurrency", concurrency), ("burst", burst)):
        if value is not None and value < 1:
            raise ConfigurationError(f"@operation: {name} is {value}; allowed: 1 or more.")
    if burst is not None and rate is None:
        raise ConfigurationError("@operation: burst is part of a rate. Add rate='100/s', or so.")
    if fair and key is None:
        raise ConfigurationError("@operation: fair=True needs the key by which turns are taken.")
    known = names_of_arguments(function, is_method=is_method)
    if key is not None and key not in known:
        raise ConfigurationError(
            f"@operation: key is {key!r}; allowed: an argument of {function.__name__}: "
            f"{', '.join(known) or 'it has none'}."
        )
    every = None if rate is None else per_second(rate)
    return Limits(key, concurrency, every, burst, fair, _weights(weights or {}))


def _weights(weights: Mapping[Any, float]) -> tuple[tuple[str, float], ...]:
    for value, weight in weights.items():
        if not LOWEST_WEIGHT <= weight <= HIGHEST_WEIGHT:
            raise ConfigurationError(
                f"@operation: the weight of {value!r} is {weight}; allowed: {LOWEST_WEIGHT} to "
                f"{HIGHEST_WEIGHT}."
            )
    return tuple((flow_of("", value)[1:], weight) for value, weight in weights.items())


def per_second(rate: str) -> float:
    """Return a rate such as ``"100/s"``, ``"90/m"`` or ``"5/h"`` in operations a second.

    Raises:
        ConfigurationError: It is none.
    """
    found = _RATE.fullmatch(rate)
    number = float(found[1]) / _SECONDS[found[2]] if found else 0.0
    if not number:
        raise ConfigurationError(
            f"{rate!r} is no rate; allowed: a number above 0, a slash, and s, m or h, as 100/s."
        )
    return number


def bursts(rate: float) -> int:
    """Return how many may start at once of so many a second, unless somebody says otherwise."""
    return max(1, round(rate * _AT_ONCE))


def marked(message: bytes, flow: str) -> bytes:
    """Return a message with its key at the head, behind the number of deliveries if it has one."""
    found = _DELIVERIES.match(message)
    start = found.end() if found else 1
    return message[:start] + b'"flow": "%b", ' % flow.encode() + message[start:]


def is_marked(message: bytes) -> bool:
    """Return whether a message may have a key at its head."""
    return not message.startswith(b'{"body"') and _MARK in message[:_HEAD]
