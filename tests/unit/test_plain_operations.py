"""Which messages a worker may begin without its node."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from kombu.serialization import registry

from pooltasks import operation
from pooltasks.app import Extension, PoolApp
from pooltasks.node.intake.plain import PlainOperations
from pooltasks.node.intake.request import OperationRequest
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

ARGUMENTS = [[1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "once": {"idempotent": False},
    "early": {"acks_late": False},
    "quick": {"timeout": 0.5},
    "rated": {"rate_limit": "10/s"},
    "batched": {"batch": 10},
    "watched": {"Request": "test_plain_operations:WatchedRequest"},
}


class WatchedRequest(OperationRequest):
    """The class of an application that wants to see each request."""


def define(name: str, options: dict[str, Any]) -> None:
    @operation(pool="code", name=f"messages.{name}", **options)
    def function(number: int) -> int:
        return number


for each in OPTIONS.items():
    define(*each)


@pytest.fixture
def app() -> PoolApp:
    app = PoolApp("test", set_as_current=False)
    app._extension = Extension(Settings(), pool="code")
    app.finalize()
    return app


@pytest.fixture
def read(app: PoolApp) -> Callable[..., Any]:
    plain = PlainOperations(app, "code", "node@host", 30.0)
    return lambda raw: plain.read(raw, "7")


def message(task: str = "plain", body: Any = ARGUMENTS, top: Any = None, **headers: Any) -> bytes:
    its = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": f"messages.{task}", "id": "1-2-3", "lang": "py", **headers},
        "properties": {"body_encoding": "base64", "correlation_id": "1-2-3", "reply_to": "me"},
    }
    return json.dumps({**(top or {}), **its}).encode()


def test_an_operation_has_the_arguments_that_its_node_would_give_it(read: Any) -> None:
    name, identifier, headers, body, kind, encoding = read(message(published_at=time.time()))
    assert (name, identifier, kind, encoding) == ("messages.plain", "1-2-3", None, None)
    assert body == tuple(ARGUMENTS), "it is decoded"
    assert headers["hostname"] == "node@host"
    assert headers["reply_to"] == "me"
    assert headers["delivery_info"] == {
        "exchange": "",
        "routing_key": "pool.code",
        "priority": None,
        "redelivered": False,
    }
    assert headers["properties"]["delivery_tag"] == "7"


def test_a_decoder_of_the_application_decodes_itself(
    app: PoolApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._decoders, "application/json", json.loads)
    its = PlainOperations(app, "code", "node@host", 30.0).read(message(), "7")
    assert its is not None
    assert its[4] == "application/json"


def test_what_kombu_has_to_decode_is_left_as_it_is(read: Any) -> None:
    date = {"__type__": "datetime", "__value__": "2026-12-01T00:00:00"}
    body = [[date], {}, {}]
    its = read(message(body=body))
    assert (json.loads(its[3]), its[4], its[5]) == (body, "application/json", "utf-8")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"no JSON", id="garbage"),
        pytest.param(b"[]", id="no table"),
        pytest.param(message("unknown"), id="an operation that nobody has"),
        pytest.param(message("once"), id="one that must not run twice"),
        pytest.param(message("early"), id="one that is acknowledged first"),
        pytest.param(message("rated"), id="one with Celery's rate limit"),
        pytest.param(message("batched"), id="one that runs in batches"),
        pytest.param(message("quick"), id="one with a short limit"),
        pytest.param(message("watched"), id="one with a Request class of the application"),
        pytest.param(message(timelimit=[0.2, None]), id="one whose caller sets a short limit"),
        pytest.param(message(deadline=time.time() + 0.1), id="one that is due"),
        pytest.param(message(eta="2999-01-01T00:00:00"), id="one for later"),
        pytest.param(message(expires="2999-01-01T00:00:00"), id="one that expires"),
        pytest.param(message(unique=["key", 0]), id="a unique one"),
        pytest.param(message(suspect=True), id="one that is suspect"),
        pytest.param(message(attempts=[]), id="one that was tried"),
        pytest.param(message(top={"deliveries": 1}), id="one whose worker died"),
        pytest.param(message(top={"interrupted": True}), id="one whose node died"),
        pytest.param(message(top={"flow": "tenant"}), id="one with limits"),
        pytest.param(message(body=[[], {}, {}]), id="arguments that do not fit"),
        pytest.param(message(body=[{}, [], {}]), id="a body of another shape"),
        pytest.param(message(id=7), id="an id that is no text"),
    ],
)
def test_all_else_is_its_nodes(read: Any, raw: bytes) -> None:
    assert read(raw) is None
