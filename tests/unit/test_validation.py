"""What a node takes for an operation's message."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from pooltasks.broker.compression import decompress
from pooltasks.broker.serialization import MAX_MESSAGE_BYTES
from pooltasks.broker.validation import identity_of, read_operation

if TYPE_CHECKING:
    from collections.abc import Callable

BODY = b'[[1], {}, {"callbacks": null}]'


def message(
    headers: dict[str, Any] | None = None, body: bytes = BODY, **parts: Any
) -> dict[str, Any]:
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "op", "id": "1"} if headers is None else headers,
        "properties": {"body_encoding": "base64", "delivery_info": {}},
        **parts,
    }


def read(document: dict[str, Any]) -> dict[str, Any]:
    return read_operation(json.dumps(document).encode())


WRONG: dict[str, list[Any]] = {
    "id": [None, 7, [], "\ud800"],
    "task": [7, {}, "\ud800"],
    "root_id": [7, "\ud800"],
    "parent_id": [[]],
    "group": [7, {}],
    "group_index": ["x", 1.5, True],
    "eta": [7, "soon", []],
    "expires": [7, "soon", {}],
    "retries": ["x", -1, 2**40, True],
    "timelimit": ["x", [1], [1, "x"], [-1, 1], [True, 1], [1e300, 1]],
    "argsrepr": [7],
    "kwargsrepr": [[]],
    "stamps": ["x", [1]],
    "stamped_headers": ["x", {}, [1], [[]]],
    "replaced_task_nesting": ["x"],
    "origin": [7],
    "ignore_result": ["x", 1],
    "shadow": [7, []],
    "headers": [[]],
    "compression": [7, "nonsense"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_a_header_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        read(message({"task": "op", "id": "1", name: value}))


@pytest.mark.parametrize(
    ("name", "value"), [("reply_to", 7), ("correlation_id", []), ("priority", "high")]
)
def test_a_property_of_another_type_is_refused(name: str, value: object) -> None:
    document = message()
    document["properties"][name] = value
    with pytest.raises(TypeError, match=name):
        read(document)


def test_what_celery_sends_is_read() -> None:
    headers = {
        "task": "op",
        "id": "1",
        **dict.fromkeys(WRONG.keys() - {"task", "id"}),
        "eta": "2026-11-28T19:00:00+00:00",
        "timelimit": [None, 1.5],
        "retries": 0,
        "stamps": {},
    }
    assert read(message(headers))["headers"]["eta"] == headers["eta"]


@pytest.mark.parametrize(
    "content_type", ["application/x-python-serialize", "application/x-yaml", "x/y", 7, None]
)
def test_only_json_is_read(content_type: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        read(message(**{"content-type": content_type}))


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.compress,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "application/x-bz2": bz2.compress,
    "lzma": lzma.compress,
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_compressed_body_is_unpacked(name: str) -> None:
    headers = {"task": "op", "id": "1", "compression": name}
    payload = read(message(headers, COMPRESSIONS[name](BODY)))
    assert payload["body"] == BODY.decode()
    assert payload["properties"]["body_encoding"] is None
    assert "compression" not in payload["headers"]


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_no_more_is_unpacked_than_a_message_may_hold(name: str) -> None:
    packed = COMPRESSIONS[name](b"x" * 1001)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        decompress(packed, name, 1000)
    assert decompress(packed, name, 1001) == b"x" * 1001


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_compressed_body_that_is_cut_off_or_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cut off"):
        decompress(COMPRESSIONS[name](BODY)[:-3], name, 1000)
    with pytest.raises(Exception, match=r".+"):
        decompress(b"nonsense", name, 1000)


def protocol_1(**more: Any) -> dict[str, Any]:
    body = {"task": "op", "id": "1", "args": [1], "kwargs": {"a": 2}, "taskset": "g", **more}
    return message({}, json.dumps(body).encode())


def test_protocol_1_is_read_as_protocol_2() -> None:
    payload = read(protocol_1(retries=2, errbacks=[{"task": "e"}]))
    assert {"task": "op", "id": "1", "group": "g", "retries": 2}.items() <= (
        payload["headers"].items()
    )
    assert json.loads(payload["body"]) == [
        [1],
        {"a": 2},
        {"callbacks": None, "errbacks": [{"task": "e"}], "chord": None, "chain": None},
    ]


def test_what_a_node_has_counted_of_protocol_1_is_kept() -> None:
    document = protocol_1()
    document["headers"] = {"deliveries": 2}
    assert read(document)["headers"]["deliveries"] == 2


@pytest.mark.parametrize("more", [{"retries": "x"}, {"id": 7}, {"eta": 7}])
def test_protocol_1_is_checked_alike(more: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        read(protocol_1(**more))


def test_the_id_is_found_whatever_else_is_wrong() -> None:
    def identity(document: dict[str, Any]) -> tuple[str | None, str | None]:
        return identity_of(json.dumps(document).encode())

    assert identity(message({"id": "1"}, b"nonsense")) == ("1", None)
    assert identity(message(body=b"x" * 2 * MAX_MESSAGE_BYTES)) == ("1", "op")
    assert identity(protocol_1(retries="x")) == ("1", "op")
    assert identity(message({"task": "op", "id": 7})) == (None, "op")
    assert identity_of(b"nonsense") == (None, None)


@pytest.mark.parametrize("headers", [[], ["id"], "id", "task", 7, None, True])
def test_headers_that_are_no_table_have_no_id(headers: Any) -> None:
    document = {**message(), "headers": headers}
    assert identity_of(json.dumps(document).encode()) == (None, None)
    long = {"body": "x" * 2 * MAX_MESSAGE_BYTES, **document, "headers": headers}
    assert identity_of(json.dumps(long).encode()) == (None, None)


@pytest.mark.parametrize("header", ["id", "task"])
def test_an_empty_name_or_id_is_refused_and_nobody_is_told(header: str) -> None:
    document = message({"task": "op", "id": "1", header: ""})
    with pytest.raises(ValueError, match=f"its header '{header}' is empty"):
        read_operation(json.dumps(document).encode())
    identifier, task = identity_of(json.dumps(document).encode())
    assert (identifier if header == "id" else task) is None


@pytest.mark.parametrize("body", [b"[]", b'"id"', b"7", b"null"])
def test_a_body_that_is_no_table_has_no_id(body: bytes) -> None:
    assert identity_of(json.dumps(message({}, body)).encode()) == (None, None)
