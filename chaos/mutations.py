"""Hostile messages: real ones, broken in every place and way we could think of."""

from __future__ import annotations

import base64
import json
import zlib
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

Message = dict[str, Any]

_DEEP = 400
_PARTS = 3
"""Parts of a body: arguments, keyword arguments, and the callbacks and chord."""
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


def _value(chance: random.Random) -> Any:
    """Return a value of any type; a copy, as later mutations may change it."""
    return deepcopy(chance.choice(_VALUES))


def mutate(chance: random.Random, message: bytes) -> bytes:
    """Return a message with one to three things wrong."""
    if chance.random() < 0.25:  # noqa: PLR2004  a quarter is broken as bytes
        return _broken(chance, message)
    document: Message = json.loads(message)
    for _ in range(chance.randint(1, 3)):
        if not document:
            break
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


def _replace_anything(chance: random.Random, document: Message | list[Any]) -> None:
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
            place[key] = _value(chance)
        return


def _replace_header(chance: random.Random, document: Message) -> None:
    names = (
        *("task", "id", "retries", "timelimit", "root_id", "parent_id", "group", "group_index"),
        *("shadow", "argsrepr", "kwargsrepr", "origin", "ignore_result", "stamps", "lang"),
        *("stamped_headers", "replaced_task_nesting", "deadline", "published_at", "deliveries"),
        *("redelivered", "attempts", "headers", "reply_to", "delivery_info", "args", "kwargs"),
    )
    _headers(document)[chance.choice(names)] = _value(chance)


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
        properties[chance.choice(names)] = _value(chance)


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
    """Put another value into the body."""
    body = chance.choice(
        (
            "",
            "!not base64!",
            base64.b64encode(chance.randbytes(50)).decode(),
            base64.b64encode(zlib.compress(b"[[], {}, {}]" * 1000)).decode(),
            _encoded(_value(chance)),
            _encoded([_value(chance) for _ in range(chance.randint(0, 4))]),
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
                [deepcopy(chance.choice(_SIGNATURES)) for _ in range(chance.randint(0, 3))],
                deepcopy(chance.choice(_SIGNATURES)),
            )
        )
        for name in chance.sample(("callbacks", "errbacks", "chain", "chord"), chance.randint(1, 3))
    }
    if chance.random() < 0.1:  # noqa: PLR2004
        embed[chance.choice(("id", "task", "delivery_info", "args", "retries", "x"))] = 7
    document["body"] = _encoded([[chance.choice(("finish", "fail"))], {}, embed])


def _mark(chance: random.Random, document: Message) -> None:
    """Claim that the message was delivered before, as the scripts note it: in front of all else."""
    counts: tuple[Any, ...] = (
        0,
        1,
        2,
        3,
        9999,
        12345,
        -1,
        1.5,
        "2",
        None,
        True,
        [],
        {"deliveries": 1},
    )
    marks: Message = {}
    if chance.random() < 0.7:  # noqa: PLR2004
        marks["deliveries"] = chance.choice(counts)
    if chance.random() < 0.5:  # noqa: PLR2004
        marks["interrupted"] = chance.choice((True, False, 1, "x", None, {}))
    rest = dict(document)
    document.clear()
    first, second = (marks, rest) if chance.random() < 0.8 else (rest, marks)  # noqa: PLR2004
    document.update({**first, **second})


def _replace_in_body(chance: random.Random, document: Message) -> None:
    """Replace or delete a value anywhere in the body as it is: arguments, callbacks, chord …."""
    content = _content(document)
    if isinstance(content, list | dict) and content:
        _replace_anything(chance, content)
        document["body"] = _encoded(content)


def _replace_link(chance: random.Random, document: Message) -> None:
    """Have a signature that is called afterwards be almost right."""
    content = _content(document)
    if not (isinstance(content, list) and len(content) == _PARTS):
        return
    signature: Message = {
        "task": "chaos.operations.work",
        "args": ["finish"],
        "kwargs": {},
        "options": {"task_id": str(chance.random()), "queue": "pool.chaos"},
        "subtask_type": None,
        "immutable": True,
    }
    for _ in range(chance.randint(0, 2)):
        _replace_anything(chance, signature)
        if not signature:
            break
    name = chance.choice(("callbacks", "errbacks", "chain", "chord"))
    copies = [deepcopy(signature) for _ in range(chance.randint(1, 3))]
    link: Any = signature if name == "chord" else copies
    embed = content[2] if isinstance(content[2], dict) else {}
    content[2] = {**embed, name: link}
    if name == "chord":
        headers = _headers(document)
        headers["group"] = chance.choice(("a group", "", 7, None))
        headers["group_index"] = chance.choice((0, 1, -1, "x", 10**9, None))
        signature["chord_size"] = chance.choice((0, 1, -1, "x", 10**9, None))
    document["body"] = _encoded(content)


def _stamp(chance: random.Random, document: Message) -> None:
    """Stamp the message, more or less as Celery does."""
    headers = _headers(document)
    name = chance.choice(("color", "task", "", "id", "stamps"))
    headers["stamped_headers"] = chance.choice(([name], [name, name], name, {name: 1}, [7]))
    headers["stamps"] = chance.choice(({name: ["red"]}, {name: 7}, [name], {}, "x"))


def _encode_otherwise(chance: random.Random, document: Message) -> None:
    """Have the body be encoded or compressed in another way than it says, or as it says."""
    content = json.dumps(_content(document))
    packed = zlib.compress(content.encode())
    document["body"] = chance.choice(
        (
            content,
            base64.b64encode(packed).decode(),
            packed.hex(),
            f"{content} ",
            _content(document),
        )
    )
    properties = document.get("properties")
    if isinstance(properties, dict):
        encoding = chance.choice(("base64", "none", None, "zip", 3))
        properties["body_encoding"] = encoding
        if encoding is None:
            del properties["body_encoding"]
    if chance.random() < 0.5:  # noqa: PLR2004
        _headers(document)["compression"] = "application/x-gzip"


def _make_protocol_1(chance: random.Random, document: Message) -> None:
    """Make it a message as Celery 3 sent them: everything in the body, nothing in the headers."""
    headers, content = _headers(document), _content(document)
    args = content[0] if isinstance(content, list) and content else []
    body: Message = {
        "task": headers.get("task"),
        "id": headers.get("id"),
        "args": args,
        "kwargs": {},
        "retries": 0,
        "eta": None,
        "expires": None,
        "utc": True,
        "timelimit": [None, None],
        "callbacks": None,
        "errbacks": None,
        "taskset": None,
        "chord": None,
    }
    if chance.random() < 0.5:  # noqa: PLR2004
        _replace_anything(chance, body)
    document["headers"] = chance.choice(({}, {}, None, headers))
    document["body"] = _encoded(body)


def _content(document: Message) -> Any:
    """Return the content of the body; a sound one if it cannot be read any more."""
    try:
        return json.loads(base64.b64decode(document["body"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return [["finish"], {}, {}]


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
    _mark,
    _replace_in_body,
    _replace_in_body,
    _replace_link,
    _stamp,
    _encode_otherwise,
    _make_protocol_1,
)


def oversized(message: bytes) -> bytes:
    """Return a readable message that is larger than a message may be."""
    document: Message = json.loads(message)
    document["body"] = _encoded([["finish"], {"seconds": "x" * _TOO_LARGE}, None])
    return json.dumps(document).encode()
