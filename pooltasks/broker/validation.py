"""The check of messages and operations: everything else in a queue is set aside.

Anyone who reaches the server can push anything. The parts that Celery reads in the
node are checked here; a part that only a worker reads can harm only its operation.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from celery.utils.time import maybe_iso8601
from kombu.serialization import registry

from pooltasks.broker.compression import decompress
from pooltasks.broker.serialization import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pooltasks.broker.protection import Protection

_LARGEST = MAX_MESSAGE_BYTES * 3 // 2
"""Bytes of a message: its body as base64, four bytes for three, and its headers."""
_TAIL = 65_536
"""Bytes at the end of a message that is too large, which are searched for its id."""
_END_OF_TIME = 1e11
"""Seconds since the epoch: the year 5138."""
_LONGEST = 1e9
"""Seconds; longer limits are nonsense, and timers cannot count them."""
_MANY = 2**31
_JSON = "application/json"
_PLACES_OF_ID = (b'"headers": ', b'"headers":')


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)
_decode = _decoder.decode


def read(message: bytes) -> dict[str, Any]:
    """Return a message as kombu expects it, its body unpacked and of Celery's protocol 2.

    Raises:
        Exception: It is no message; an error of any class, as its reader raises it.
    """
    if len(message) > _LARGEST:
        raise ValueError(f"it has {len(message):,} bytes; the limit is {_LARGEST:,}")
    payload: dict[str, Any] = _decode(message.decode())
    headers = payload["headers"]
    if not isinstance(headers, dict):
        raise TypeError("its headers are no table")
    if not isinstance(payload["body"], str):
        raise TypeError("its body is no text")
    if headers.get("compression") is not None:
        _unpack(payload)
    return payload


def read_operation(
    message: bytes, protection: Protection | None = None, queue: str = ""
) -> dict[str, Any]:
    """Return a message that names an operation which could be run.

    Args:
        message: The message.
        protection: Says whether it comes from a producer of the deployment, and decrypts it.
        queue: The queue in which it was found.

    Raises:
        UntrustedMessageError: It is not signed, and has to be.
        Exception: It names none; an error of any class, as its reader raises it.
    """
    payload = read(message)
    if protection is not None:
        _open(payload, protection, queue)
    content_type = payload.get("content-type")
    if content_type != _JSON and registry.type_to_name.get(content_type) != "json":
        raise ValueError(f"its content type is {content_type!r}; pools read JSON only")
    if "task" not in payload["headers"]:
        _from_protocol_1(payload)
    check_operation(payload)
    return payload


def _open(payload: dict[str, Any], protection: Protection, queue: str) -> None:
    """Check the signature of a message, and decrypt its body."""
    body = body_of(payload)
    text = protection.open(queue, payload["headers"], payload.get("content-type"), body)
    if text is not body:
        payload["content-type"] = _JSON
        _replace_body(payload, text.decode())


def _unpack(payload: dict[str, Any]) -> None:
    """Replace the compressed body of a message by its text."""
    compression = payload["headers"].pop("compression")
    if not isinstance(compression, str):
        raise TypeError("its header 'compression' is no text")
    _replace_body(payload, decompress(body_of(payload), compression, MAX_MESSAGE_BYTES).decode())


def body_of(payload: dict[str, Any]) -> bytes:
    """Return the body of a message.

    Raises:
        ValueError: Its encoding is not known, or it is not encoded so.
    """
    encoding = payload["properties"].get("body_encoding")
    body: str = payload["body"]
    if encoding == "base64":
        return base64.b64decode(body)
    if encoding is not None:
        raise ValueError(f"the encoding {encoding!r} of its body is not known")
    return body.encode()


def _replace_body(payload: dict[str, Any], body: str) -> None:
    payload["body"] = body
    payload["properties"]["body_encoding"] = None


def _from_protocol_1(payload: dict[str, Any]) -> None:
    """Make a message of Celery's protocol 2 of one whose body has everything.

    It does the same as ``celery.worker.strategy.proto1_to_proto2``, which works on
    decoded bodies; here nothing is decoded but JSON.
    """
    body = _decode(body_of(payload).decode())
    if not isinstance(body, dict) or "task" not in body:
        raise ValueError("neither its headers nor its body name an operation")
    args, kwargs = body.pop("args", []), body.pop("kwargs", {})
    embed = {name: body.pop(name, None) for name in ("callbacks", "errbacks", "chord")}
    body["group"] = body.pop("taskset", body.get("group"))
    body["argsrepr"], body["kwargsrepr"] = repr(args), repr(kwargs)
    # Headers that a node has added: how many workers died with it, and so on.
    payload["headers"] = {**body, **payload["headers"]}
    _replace_body(payload, json.dumps([args, kwargs, {**embed, "chain": None}]))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_storable_text(value: object) -> bool:
    """Return whether it is text that can be in a key of the server: no half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < _MANY


def _is_count(value: object) -> bool:
    return _is_number(value) and value != -1


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_moment(value: object) -> bool:
    if not isinstance(value, str):
        return False
    maybe_iso8601(value)
    return True


def _is_limit(value: object) -> bool:
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LONGEST
    )


def _are_limits(value: object) -> bool:
    return isinstance(value, list) and (
        not value or (len(value) == 2 and all(map(_is_limit, value)))  # noqa: PLR2004
    )


_Check = tuple["Callable[[object], bool]", str]
_TEXT: _Check = (_is_storable_text, "text")
_HEADERS: dict[str, _Check] = {
    **dict.fromkeys(("root_id", "parent_id", "group"), _TEXT),
    **dict.fromkeys(
        ("shadow", "argsrepr", "kwargsrepr", "origin", "lang", "meth"), (_is_text, "text")
    ),
    **dict.fromkeys(("eta", "expires"), (_is_moment, "date and time")),
    "retries": (_is_count, "number"),
    "group_index": (_is_number, "number"),
    "replaced_task_nesting": (_is_count, "number"),
    "ignore_result": (_is_flag, "true or false"),
    **dict.fromkeys(("stamps", "headers"), (_is_table, "table")),
    "stamped_headers": (_is_list_of_text, "list of text"),
    "groups": (_is_list, "list"),
    "timelimit": (_are_limits, "two numbers of seconds"),
}
_PROPERTIES: dict[str, _Check] = {
    **dict.fromkeys(("reply_to", "correlation_id"), (_is_text, "text")),
    "priority": (_is_number, "number"),
}


def check_operation(payload: dict[str, Any]) -> None:
    """Check that a message names an operation that could be run.

    Raises:
        Exception: It does not.
    """
    headers, properties = payload["headers"], payload["properties"]
    for header in ("task", "id"):
        if not _is_storable_text(headers.get(header)):
            raise TypeError(f"its header {header!r} is no text")
        if not headers[header]:
            raise ValueError(f"its header {header!r} is empty")
    if not isinstance(payload.get("content-encoding"), str | None):
        raise TypeError("its content encoding is no text")
    _check("header", headers, _HEADERS)
    _check("property", properties, _PROPERTIES)
    deadline = headers.get("deadline")
    if isinstance(deadline, int | float) and abs(deadline) > _END_OF_TIME:
        raise ValueError("its header 'deadline' is no time")


def _check(kind: str, values: Mapping[str, Any], checks: Mapping[str, _Check]) -> None:
    for name, (is_right, expected) in checks.items():
        value = values.get(name)
        if value is not None and not is_right(value):
            raise TypeError(f"its {kind} {name!r} is no {expected}")


def identity_of(message: bytes) -> tuple[str | None, str | None]:
    """Return the id and the name of the operation in a message, whatever else is wrong with it.

    Returns:
        None in place of a part that cannot be read.
    """
    try:
        headers = _headers_of(message)
    except Exception:  # noqa: BLE001  nobody knows all that a hostile one can raise
        return None, None
    if not isinstance(headers, dict):
        return None, None
    found = (headers.get("id"), headers.get("task"))
    identifier, task = (each if each and _is_storable_text(each) else None for each in found)
    return identifier, task


def _headers_of(message: bytes) -> Any:
    if len(message) > _LARGEST:
        place = max(message.rfind(mark, len(message) - _TAIL) for mark in _PLACES_OF_ID)
        if place < 0:
            return {}
        text = message[place:].partition(b":")[2].decode().lstrip()
        return _decoder.raw_decode(text)[0]
    payload = json.loads(message)
    headers = payload["headers"]
    if "task" in headers or "id" in headers:
        return headers
    return json.loads(body_of(payload))
