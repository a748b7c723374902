"""Where one operation is, as ``pooltasks inspect`` and the pages tell it."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner

from pooltasks import keys, whereabouts
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.cli.inspect import inspect

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from pooltasks.app import PoolApp

QUEUE = keys.queue("code")
ID = "7d0e"


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What nodes answer."""
    answers: dict[str, Any] = {}
    monkeypatch.setattr(whereabouts, "ask", lambda *_, **__: answers)
    return answers


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the result backend has."""
    kept: dict[str, Any] = {"status": "PENDING", "result": None}

    def result_of(operation_id: str, app: PoolApp) -> Any:
        result = app.AsyncResult(operation_id)
        result._cache = kept
        return result

    monkeypatch.setattr(whereabouts, "AsyncResult", result_of)
    return kept


@pytest.fixture
def app(make_app: Callable[..., PoolApp], client: redis.Redis, nodes: Any, results: Any) -> PoolApp:
    assert not nodes
    assert results["status"] == "PENDING"
    app = make_app(pools={"code": {}, "other": {}})
    app.pooltasks.client = client
    return app


def message(
    operation_id: str = ID, args: Any = (), kwargs: Any = None, task: str = "shop.pay", **its: Any
) -> bytes:
    body = base64.b64encode(json.dumps([args, kwargs or {}, {}]).encode()).decode()
    return json.dumps({"headers": {"id": operation_id, "task": task, **its}, "body": body}).encode()


def the_place(app: PoolApp) -> dict[str, Any]:
    (place,) = whereabouts.places_of(app, ID)
    return place


def test_one_that_waits_has_a_place_and_a_past(app: PoolApp, client: redis.Redis) -> None:
    past = {"retries": 1, "attempts": [{"at": 1.0, "error": "OSError: password=hunter2"}]}
    published = time.time() - 7300
    client.lpush(QUEUE, message("first"), message(published_at=published, **past), message("last"))
    place = the_place(app)
    assert (place["state"], place["pool"], place["operation"]) == ("waiting", "code", "shop.pay")
    assert (place["place"], place["waiting"], place["retries"]) == (2, 3, 1)
    assert place["since"] == published
    assert place["text"] == (
        "shop.pay waits in the queue of the pool code, at place 2 of 3. It has waited for "
        "2 h 1 min. It was retried 1 time. The last error: OSError: password=***"
    )
    assert place["attempts"] == [{"at": 1.0, "error": "OSError: password=***"}]


def test_one_that_a_limit_holds_back_is_told_with_the_limit(
    app: PoolApp, client: redis.Redis
) -> None:
    flow = "shop.pay/ac%20me"
    client.hset(keys.flow(QUEUE, "limits"), "code shop.pay", "2 - -")
    client.hset(keys.flow(QUEUE, "running"), flow, 2)
    for number, its_id in ((7, "before"), (8, ID), (9, "after")):
        member = f"{flow}\0" + f"0{number:016d}"
        client.hset(keys.flow(QUEUE, "messages"), member, b"0" + message(its_id))
        client.zadd(keys.flow(QUEUE, "held"), {member: 0, f"shop.pay/other\0000{number}": 0})
    place = the_place(app)
    assert (place["state"], place["key"], place["limit"]) == ("held", "ac me", "2 at once")
    assert (place["place"], place["waiting"], place["running"]) == (2, 3, 2)
    assert place["text"].startswith(
        "shop.pay is held back in the pool code by the limit of its calls with the key ac me "
        "(2 at once; 2 running), at place 2 of 3."
    )


def test_one_that_is_delayed_says_when_it_is_due(app: PoolApp, client: redis.Redis) -> None:
    due = app.pooltasks.clock.now() + 90.5
    client.hset(keys.delayed_messages(QUEUE), "entry", b"0" + message())
    client.zadd(keys.delayed(QUEUE), {"entry": due * 1000})
    place = the_place(app)
    assert (place["state"], place["due"]) == ("delayed", pytest.approx(due))
    assert place["due_in"] == pytest.approx(90.5, abs=5)
    assert "waits for its time in the pool code: it is due in" in place["text"]


def test_one_at_a_node_is_told_by_the_node(app: PoolApp, nodes: dict[str, Any]) -> None:
    request = {
        "name": "shop.pay",
        "time_start": time.time() - 3.0,
        "worker_pid": 77,
        "args": [1],
        "kwargs": {"api_key": "k-123"},
    }
    nodes["shop@a"] = {ID: ["active", request]}
    place = the_place(app)
    assert (place["state"], place["node"], place["worker"]) == ("running", "shop@a", 77)
    assert place["seconds"] == pytest.approx(3.0, abs=2)
    assert place["text"].startswith("shop@a runs shop.pay in worker 77, for ")
    assert "k-123" not in json.dumps(place)
    nodes["shop@a"] = {ID: ["reserved", {"name": "shop.pay"}]}
    assert the_place(app)["text"] == "shop@a has reserved shop.pay."


def test_one_that_a_silent_node_has_is_not_lost(
    app: PoolApp, client: redis.Redis, nodes: dict[str, Any]
) -> None:
    client.hset(keys.unacked_index(QUEUE), "0af3", "1")
    client.hset(keys.unacked(QUEUE, "0af3"), "12", b"0r" + message())
    place = the_place(app)
    assert (place["state"], place["node"]) == ("reserved", None)
    assert "A node of the pool code that does not answer has reserved shop.pay." in place["text"]
    # If a node answers for it, that is what is told.
    nodes["shop@a"] = {ID: ["reserved", {"name": "shop.pay"}]}
    assert the_place(app)["node"] == "shop@a"


def test_one_that_has_ended_has_its_value_or_its_error(
    app: PoolApp, results: dict[str, Any]
) -> None:
    value = {"token": "t-1", "total": 5}
    results.update(status="SUCCESS", result=value, date_done="2026-01-02T03:04:05+00:00")
    place = the_place(app)
    assert place["text"] == ("It has a result: SUCCESS, with the value {'token': ***, 'total': 5}.")
    assert place["since"] == 1767323045
    error = ConnectionError("redis://:hunter2@cache refused")
    results.update(status="FAILURE", result=error, traceback="in pay\n  password='hunter2'")
    place = the_place(app)
    assert place["text"].startswith("It has a result: FAILURE: ConnectionError(")
    assert place["traceback"].startswith("in pay")
    assert "hunter2" not in json.dumps(place)


def test_a_dead_letter_has_its_reason_and_masked_arguments(
    app: PoolApp, client: redis.Redis
) -> None:
    its = message(args=["4111-1111"], kwargs={"card_number": "4111-2222", "order": 7})
    DeadLetters(client, QUEUE).add(its, "it raised Refused: secret=hunter2")
    place = the_place(app)
    assert (place["state"], place["pool"]) == ("dead letter", "code")
    assert place["text"].endswith(f"secret=***. Look: pooltasks dead show code {ID}")
    # Without the function nobody knows which name the first one has.
    assert place["arguments"] == "…, card_number=***, order=7"


def test_arguments_have_the_names_of_the_function(app: PoolApp, client: redis.Redis) -> None:
    @app.task(name="shop.pay", shared=False)
    def pay(order: int, card_number: str) -> None: ...

    client.lpush(QUEUE, message(args=[7, "4111"]))
    assert the_place(app)["arguments"] == "order=7, card_number=***"
    client.lset(QUEUE, 0, json.dumps({"headers": {"id": ID, "task": "shop.pay"}, "body": "?"}))
    assert the_place(app)["arguments"] is None


def test_what_only_mentions_the_id_is_another_operation(app: PoolApp, client: redis.Redis) -> None:
    client.lpush(QUEUE, message("other", args=[ID]), f"no message {ID}")
    assert whereabouts.places_of(app, ID) == []


def test_the_command_says_what_was_found_and_what_was_not(
    app: PoolApp, client: redis.Redis
) -> None:
    context = CLIContext(app=app, no_color=True, workdir=None)
    said = CliRunner().invoke(inspect, [ID], obj=context)
    assert said.exit_code == 1
    assert whereabouts.found_nowhere(ID) in said.output
    client.lpush(QUEUE, message())
    said = CliRunner().invoke(inspect, [ID], obj=context)
    assert said.output == "shop.pay waits in the queue of the pool code, at place 1 of 1.\n"
