"""Hostile messages: real ones, broken in every place and way we could think of."""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

Message = dict[str, Any]

_DEEP = 400
_TOO_LARGE = 9 * 1024 * 1024
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x00",
    "none",
    "x" * 10_000,
    [],
    [None],
    ["x", "y", "z"],
    [[[[]]]],
    {},
    {"task": "chaos.operations.work"},
    {"x": {"y": []}},
)
_TIMES = (
    "tomorrow",
    "",
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59+00:00",
    "2020-01-01T00:00:00+99:99",
    "2020-13-45T00:00:00",
    "2020-01-01",
    1e308,
    [2020, 1, 1],
)
_SIGNATURES: tuple[Any, ...] = (
    {"task": "nobody.knows", "args": [], "kwargs": {}, "options": {}},
    {"task": None},
    {"task": "chaos.operations.work", "args": 3, "options": []},
    {"task": "chaos.operations.work", "options": {"queue": 7, "task_id": []}},
    {"task": "celery.chord", "kwargs": {"header": 1, "body": 2}, "subtask_type": "chord"},
    {"task": "celery.group", "kwargs": {"tasks": "x"}, "subtask_type": "group"},
    {"subtask_type": "chain", "kwargs": {}},
    {"subtask_type": "no such type"},
    "x",
    7,
    None,
)


def mutate(chance: random.Random, message: bytes) -> bytes:
    """Return a message with one to three things wrong."""
    if chance.random() < 0.25:  # noqa: PLR2004  a quarter is broken as bytes
        return _broken(chance, message)
    document: Message = json.loads(message)
    for _ in range(chance.randint(1, 3)):
        chance.choice(_STRUCTURAL)(chance, document)
    return json.dumps(document).encode()


def _broken(chance: random.Random, message: bytes) -> bytes:
    text = bytearray(message)
    place = chance.randrange(len(text))
    kind = chance.randrange(7)
    if kind == 0:
        return bytes(text[:place])
    if kind == 1:
        for _ in range(chance.randint(1, 8)):
            text[chance.randrange(len(text))] ^= 1 << chance.randrange(8)
    elif kind == 2:  # noqa: PLR2004  numbers of kinds, as those below
        text[place:place] = chance.randbytes(chance.randint(1, 50))
    elif kind == 3:  # noqa: PLR2004
        text[place:place] = text[place : place + 100]
    elif kind == 4:  # noqa: PLR2004
        return b"[" * chance.choice((10, 1_000, 100_000))
    elif kind == 5:  # noqa: PLR2004
        return chance.choice((b"", b"null", b"{}", b"[]", b"0", b'""', b"\xff\xfe\x00", b"NaN"))
    else:
        del text[place : place + chance.randint(1, 200)]
    return bytes(text)


def _replace_anything(chance: random.Random, document: Message) -> None:
    """Replace or delete a value anywhere."""
    place: Any = document
    while True:
        key = chance.choice([*place]) if isinstance(place, dict) else chance.randrange(len(place))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.8:  # noqa: PLR2004
            place = inner
            continue
        if chance.random() < 0.2:  # noqa: PLR2004
            del place[key]
        else:
            place[key] = chance.choice(_VALUES)
        return


def _replace_header(chance: random.Random, document: Message) -> None:
    names = (
        *("task", "id", "retries", "timelimit", "root_id", "parent_id", "group", "group_index"),
        *("shadow", "argsrepr", "kwargsrepr", "origin", "ignore_result", "stamps", "lang"),
        *("stamped_headers", "replaced_task_nesting", "deadline", "published_at", "deliveries"),
        *("redelivered", "attempts", "headers", "reply_to", "delivery_info", "args", "kwargs"),
    )
    _headers(document)[chance.choice(names)] = chance.choice(_VALUES)


def _replace_time(chance: random.Random, document: Message) -> None:
    _headers(document)[chance.choice(("eta", "expires"))] = chance.choice(_TIMES)


def _replace_limit(chance: random.Random, document: Message) -> None:
    limits: tuple[Any, ...] = (-1, 0, 1e-9, "1", None, [], float("nan"), 10**400, {})
    value = [chance.choice(limits) for _ in range(chance.choice((0, 1, 2, 2, 2, 3)))]
    _headers(document)["timelimit"] = value


def _replace_property(chance: random.Random, document: Message) -> None:
    names = (
        *("delivery_tag", "delivery_info", "delivery_mode", "priority", "correlation_id"),
        *("reply_to", "body_encoding", "expiration"),
    )
    properties = document.get("properties")
    if isinstance(properties, dict):
        properties[chance.choice(names)] = chance.choice(_VALUES)


def _replace_encoding(chance: random.Random, document: Message) -> None:
    kind = chance.randrange(3)
    if kind == 0:
        document["content-type"] = chance.choice(
            ("application/x-python-serialize", "application/x-yaml", "text/plain", "x", None, 3)
        )
    elif kind == 1:
        document["content-encoding"] = chance.choice(
            ("binary", "utf-16", "no such", "", None, 3, "rot13", "idna")
        )
    else:
        _headers(document)["compression"] = chance.choice(
            ("zlib", "application/x-gzip", "bzip2", "no such", 3, [])
        )


def _replace_body(chance: random.Random, document: Message) -> None:
    """Put something else into the body."""
    body = chance.choice(
        (
            "",
            "!not base64!",
            base64.b64encode(chance.randbytes(50)).decode(),
            base64.b64encode(zlib.compress(b"[[], {}, {}]" * 1000)).decode(),
            _encoded(chance.choice(_VALUES)),
            _encoded([chance.choice(_VALUES) for _ in range(chance.randint(0, 4))]),
            _encoded(_nested(_DEEP)),
            _encoded([["finish", 0.0, 1, 2, 3], {}, None]),
            _encoded([["finish"], {"fate": "finish", "nobody": 1}, {}]),
        )
    )
    document["body"] = body


def _replace_canvas(chance: random.Random, document: Message) -> None:
    """Have hostile signatures called after the operation."""
    embed: dict[str, Any] = {
        name: chance.choice(
            (
                [chance.choice(_SIGNATURES) for _ in range(chance.randint(0, 3))],
                chance.choice(_SIGNATURES),
            )
        )
        for name in chance.sample(("callbacks", "errbacks", "chain", "chord"), chance.randint(1, 3))
    }
    if chance.random() < 0.1:  # noqa: PLR2004
        embed[chance.choice(("id", "task", "delivery_info", "args", "retries", "x"))] = 7
    document["body"] = _encoded([[chance.choice(("finish", "fail"))], {}, embed])


def _nested(depth: int) -> Any:
    value: Any = [["finish"], {}, None]
    for _ in range(depth):
        value = [value]
    return value


def _encoded(content: Any) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


def _headers(document: Message) -> dict[str, Any]:
    headers = document.get("headers")
    return headers if isinstance(headers, dict) else {}


_STRUCTURAL: tuple[Callable[[random.Random, Message], None], ...] = (
    _replace_anything,
    _replace_header,
    _replace_time,
    _replace_limit,
    _replace_property,
    _replace_encoding,
    _replace_body,
    _replace_canvas,
)


def oversized(message: bytes) -> bytes:
    """Return a readable message that is larger than a message may be."""
    document: Message = json.loads(message)
    document["body"] = _encoded([["finish"], {"seconds": "x" * _TOO_LARGE}, None])
    return json.dumps(document).encode()
